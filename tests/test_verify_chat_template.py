"""`verify`, on chat templates: they render, their control tokens exist, and they end a turn."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Final

import pytest
from checkpoint_configs import llama
from checkpoint_layouts import write_safetensors
from checkpoint_weights import make_weights, tensor_shapes
from damage import notes, problems, with_metadata

import convert
from convert.gguf_file import read_gguf

if TYPE_CHECKING:
    from pathlib import Path

CHATML: Final = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def outputs(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a sound file."""
    out = tmp_path_factory.mktemp("sound") / "m.gguf"
    convert.convert_one(tiny_llama, out)
    return {"f16": out}


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{% for message in messages %}{{ message.content }}", "does not render: TemplateSyntaxError"),
        ("{{ messages[0].content.absent.more }}", "does not render: UndefinedError"),
        ("{{ raise_exception('only tools') }}", "does not render: TemplateError: only tools"),
        ("{{ ''.__class__.__mro__ }}", "does not render: SecurityError"),
        ("{{ 1 // 0 }}", "does not render: ZeroDivisionError"),
    ],
)
def test_a_template_that_does_not_render_is_found(
    template: str, wanted: str, outputs: dict[str, Path], tmp_path: Path
) -> None:
    damaged = with_metadata(outputs["f16"], tmp_path / "template.gguf", tokenizer__chat_template=template)
    (found,) = problems(damaged)
    assert wanted in found


def _with_template(path: Path, out: Path, template: str, named: dict[int, bytes]) -> Path:
    """Give the file a template, and some tokens other names."""
    tokens = list(read_gguf(path).metadata["tokenizer.ggml.tokens"])
    for number, name in named.items():
        tokens[number] = name
    return with_metadata(path, out, tokenizer__chat_template=template, tokenizer__ggml__tokens=tuple(tokens))


def test_a_template_whose_control_tokens_exist_and_whose_eos_ends_a_turn_is_sound(
    outputs: dict[str, Path], tmp_path: Path
) -> None:
    eos = read_gguf(outputs["f16"]).metadata["tokenizer.ggml.eos_token_id"]
    named = {eos: b"<|im_end|>", 500: b"<|im_start|>"}
    sound = _with_template(outputs["f16"], tmp_path / "chat.gguf", CHATML, named)
    assert (problems(sound), notes(sound)) == ([], [])


def test_a_control_token_that_is_no_token_is_found(outputs: dict[str, Path], tmp_path: Path) -> None:
    damaged = _with_template(outputs["f16"], tmp_path / "chat.gguf", CHATML, {500: b"<|im_start|>"})
    (found,) = problems(damaged)
    assert "writes `<|im_end|>`, of which the vocabulary has no token" in found


def test_a_model_that_spells_its_control_words_out_only_gets_notes(outputs: dict[str, Path], tmp_path: Path) -> None:
    spelled = _with_template(outputs["f16"], tmp_path / "chat.gguf", CHATML, {})
    assert problems(spelled) == []
    assert any("`<|im_start|>`, `<|im_end|>`" in found for found in notes(spelled))
    assert any("ends no turn with" in found for found in notes(spelled))


def test_a_template_that_refuses_a_system_message_is_tried_without(outputs: dict[str, Path], tmp_path: Path) -> None:
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for message in messages %}{% generation %}{{ message.content | tojson }}{% endgeneration %}"
        "{{ eos_token }}{% endfor %}"
    )
    sound = with_metadata(outputs["f16"], tmp_path / "chat.gguf", tokenizer__chat_template=template)
    assert (problems(sound), notes(sound)) == ([], [])


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("qwen2.5", {"vocab_size": 151936, "bos_token_id": 151643, "eos_token_id": 151645}, []),
        ("qwen2.5", {"vocab_size": 151936, "bos_token_id": 1, "eos_token_id": 2}, ["ends no turn with `#`"]),
        # TinyLlama was trained with `<|user|>` spelled out in pieces.
        ("tinyllama-chat", {"vocab_size": 32000}, ["`<|system|>`, `<|user|>`, `<|assistant|>`"]),
    ],
    ids=["qwen2.5", "qwen2.5 with another model's eos", "tinyllama"],
)
def test_published_templates_are_sound(
    name: str, changes: dict[str, int], said: list[str], shared_fixtures: Path, tmp_path: Path
) -> None:
    model = tmp_path / name
    shutil.copytree(shared_fixtures / "tokenizers" / name, model, copy_function=shutil.copyfile)
    model.chmod(0o755)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = llama(**shape, num_attention_heads=2, num_key_value_heads=2) | changes
    (model / "config.json").write_text(json.dumps(config))
    write_safetensors(make_weights(name, tensor_shapes(config), "float16"), model)
    convert.convert_one(model, tmp_path / "m.gguf")
    assert problems(tmp_path / "m.gguf", against=model) == []
    found = notes(tmp_path / "m.gguf")
    assert len(found) == len(said)
    assert all(words in note for words, note in zip(said, found, strict=True))
