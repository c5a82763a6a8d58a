"""The way back: a GGUF file as the directory it was made of, and the same file made of that directory again.

Of every class of transformers that a family serves one row of `family_checkpoints.py`. The judge of names, shapes and
config is transformers itself, which loads the directory and computes what it does of the checkpoint.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import pytest
from checkpoints import write_checkpoint
from family_checkpoints import FAMILY_CHECKPOINTS, write_family_checkpoint
from family_making import save_family_checkpoint
from test_llamafile import write_llamafile

import convert
from convert.architecture import FAMILIES
from convert.dequantization import carry_out_dequantize, plan_dequantize
from convert.errors import UnsupportedError
from convert.gguf_file import read_gguf
from convert.plan.split import SplitRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

ROWS: Final = {row.name: row for row in FAMILY_CHECKPOINTS.values() if row.refused_by_reference is None}
_MOST_TOKENS: Final = 100_000
_PLAIN: Final = [
    row
    for row in ROWS.values()
    if not (row.state_dict or row.saved_config or row.change_weights)
    and row.config.get("text_config", row.config)["vocab_size"] < _MOST_TOKENS
]
# A class's last row: the narrow ones, and those in float16 and float32, are among them. One's tensors are in another
# order afterwards.
ONE_EACH: Final = [*{row.architecture: row.name for row in _PLAIN if row.name != "gemma-3n-as-saved"}.values()]
MORE: Final = (
    *("gemma-3-every-second", "Qwen2-MoE-tied"),
    *("DeepSeek-V3", "Phi-3.5-mini-instruct", "falcon-7b", "GLM-4.5-Air", "GLM-4.7-Flash"),
    *("Qwen3-Next-80B-A3B", "Qwen3.5-9B", "Qwen3.5-fine-tuned", "Qwen3.5-35B-A3B", "gemma-3n-E4B-it"),
    *("Hunyuan-4B", "Phi-3.5-MoE-instruct", "mpt-7b", "codegemma-7b"),
)
COMPUTED_MORE: Final = (
    "gemma-3-every-second",
    "DeepSeek-V3",
    "Phi-3.5-mini-instruct",
    "GLM-4.5-Air",
    "Phi-3.5-MoE-instruct",
    "Qwen3-Next-80B-A3B",
    "Qwen3.5-9B",
    "Qwen3.5-35B-A3B",
    "gemma-3n-as-saved",
)
# Without a head transformers computes nothing to compare; in float16 1 + a norm is rounded, in every layer here.
_NOT_COMPUTED: Final = ("gte-Qwen2-bare", "Qwen3-Embedding-bare", "Qwen3-Next-narrow")
COMPUTED: Final = [name for name in (*ONE_EACH, *COMPUTED_MORE) if name not in _NOT_COMPUTED]
JUDGED: Final = [*dict.fromkeys((*ONE_EACH, *MORE))]
# Classes that come as code with their checkpoints, which transformers does not have.
NOT_OF_TRANSFORMERS: Final = (
    *("MiniCPM-2B-sft-bf16", "MiniCPM-narrow", "EXAONE-3.5-2.4B-Instruct", "EXAONE-3-narrow"),
)


def _rows(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.shared] * ROWS[name].shared) for name in names]


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a row's directory; written once a row."""
    root = tmp_path_factory.mktemp("models")
    return lambda name: root / name if (root / name).is_dir() else write_family_checkpoint(name, root)


@pytest.fixture(scope="module")
def back(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory that a row's f16 file goes back to, with that file beside it; made once a row."""
    root = tmp_path_factory.mktemp("back")

    def directory(name: str) -> Path:
        if not (root / name).exists():
            convert.convert_one(checkpoint(name), root / f"{name}.gguf", type="f16")
            plan = plan_dequantize(root / f"{name}.gguf", root / name)
            assert plan.notes == ()
            carry_out_dequantize(plan)
        return root / name

    return directory


@pytest.mark.parametrize("name", _rows((*JUDGED, *NOT_OF_TRANSFORMERS)))
def test_a_file_that_went_back_is_made_again(name: str, back: Callable[[str], Path], tmp_path: Path) -> None:
    convert.convert_one(back(name), tmp_path / "again.gguf", type="f16")
    assert _hash(tmp_path / "again.gguf") == _hash(back(name).with_name(f"{name}.gguf"))


@pytest.mark.parametrize("name", _rows(COMPUTED))
def test_transformers_computes_of_the_directory_what_it_does_of_the_checkpoint(
    name: str, checkpoint: Callable[[str], Path], back: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    ours, loading = _load(back(name))
    row, before = ROWS[name], checkpoint(name)
    if row.judge_unchanged:
        save_family_checkpoint(replace(row, change_weights=None, saved_config={}), before := tmp_path / name)
    theirs, as_before = _load(before)
    assert loading["unexpected_keys"] <= as_before["unexpected_keys"]  # layers that predict several tokens
    assert not loading["mismatched_keys"]
    assert not loading["missing_keys"]
    with torch.inference_mode():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.half().float())
        got, wanted = (network(torch.arange(3, 40)[None]).logits for network in (ours, theirs))
    assert (got - wanted).abs().max() < 1e-2 * wanted.std()


def _load(directory: Path) -> tuple[Any, dict[str, Any]]:
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network, loading = _class_of(directory).from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True
        )
    return network.eval(), loading


def _class_of(directory: Path) -> Any:  # noqa: ANN401 - transformers publishes no types
    import transformers

    (name,) = json.loads((directory / "config.json").read_text(encoding="utf-8"))["architectures"]
    is_whole = name.endswith("ForConditionalGeneration")
    return getattr(transformers, name) if is_whole else transformers.AutoModelForCausalLM


# Llama, Mistral and Mixtral: spellings of configs, scalings, kinds of tokenizers, chat templates, cards.
LLAMA_LIKE: Final = (
    *("Llama-2-7b-chat-hf", "Llama-3.1-8B-Instruct", "llama-3-byte-level-bpe", "llama-all-biases", "yarn-respelled"),
    *("mixtral-four-experts", "tokenizer-json-added", "chat-template-list", "my-finetuned-llama"),
)


@pytest.mark.parametrize("name", LLAMA_LIKE)
def test_a_llama_that_went_back_is_made_again(name: str, tmp_path: Path) -> None:
    convert.convert_one(write_checkpoint(name, tmp_path / "before"), tmp_path / "first.gguf", type="f16")
    assert plan_dequantize(tmp_path / "first.gguf", tmp_path / name).notes == ()
    convert.dequantize(tmp_path / "first.gguf", tmp_path / name)
    convert.convert_one(tmp_path / name, tmp_path / "again.gguf", type="f16")
    assert _hash(tmp_path / "again.gguf") == _hash(tmp_path / "first.gguf")


@pytest.mark.parametrize("name", ["zephyr-7b-beta", "pytorch-bin", "gemma-3n-as-saved"])
def test_shards_a_torch_file_and_keys_of_other_layers_give_the_same_tensors_in_another_order(
    name: str, tmp_path: Path
) -> None:
    write = write_family_checkpoint if name in ROWS else write_checkpoint
    convert.convert_one(write(name, tmp_path / "before"), tmp_path / "first.gguf", type="f16")
    convert.dequantize(tmp_path / "first.gguf", tmp_path / name)
    convert.convert_one(tmp_path / name, tmp_path / "again.gguf", type="f16")
    first, again = (read_gguf(tmp_path / f"{file}.gguf") for file in ("first", "again"))
    assert again.entries == first.entries
    held = [
        {info.name: file.path.read_bytes()[info.offset : info.offset + info.nbytes] for info in file.tensors}
        for file in (first, again)
    ]
    assert held[0] == held[1]


def test_every_class_of_every_family_has_names_to_go_back_to() -> None:
    from convert.architecture.stored_names import STORED_NAMES

    assert [family.hf_names for family in FAMILIES if not STORED_NAMES.keys() & set(family.hf_names)] == []


@pytest.mark.parametrize(
    ("name", "dtype"), [("Qwen2.5-0.5B", "bf16"), ("gemma-2-2b-it", "bf16"), ("gemma-3-4b-linear-rope", "f32")]
)
def test_a_file_in_the_checkpoints_own_type_gives_the_same_file_again(
    name: str, dtype: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    convert.convert_one(checkpoint(name), tmp_path / "first.gguf", type=dtype)
    convert.dequantize(tmp_path / "first.gguf", convert.DequantizeRequest(tmp_path / name, dtype=dtype))
    convert.convert_one(tmp_path / name, tmp_path / "again.gguf", type=dtype)
    assert _hash(tmp_path / "again.gguf") == _hash(tmp_path / "first.gguf")
    import safetensors.torch

    kinds = {
        str(tensor.dtype) for tensor in safetensors.torch.load_file(tmp_path / name / "model.safetensors").values()
    }
    assert kinds == {{"bf16": "torch.bfloat16", "f32": "torch.float32"}[dtype]}


def test_a_split_model_and_a_llamafile_go_back_as_the_file_does(tiny_llama: Path, tmp_path: Path) -> None:
    whole, split = tmp_path / "whole.gguf", tmp_path / "split"
    convert.convert_one(tiny_llama, whole, type="f16")
    parts = convert.split(whole, split, SplitRequest(max_tensors=8)).outputs
    llamafile = write_llamafile(whole, tmp_path / "whole.llamafile")
    found = []
    for index, source in enumerate((whole, parts[0].path, llamafile)):
        convert.dequantize(source, tmp_path / f"back{index}")
        found.append((tmp_path / f"back{index}" / "model.safetensors").read_bytes())
    assert found[0] == found[1] == found[2]


def test_a_mistral_that_is_part_of_another_model_does_not_go_back(tmp_path: Path) -> None:
    name, file = "Mistral-Small-3.1-24B", tmp_path / "model.gguf"
    convert.convert_one(write_family_checkpoint(name, tmp_path), file, type="f16")
    with pytest.raises(UnsupportedError, match="a Mistral 3 whose text model is a Mistral, which does not go back"):
        convert.dequantize(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_architecture_that_no_family_has_does_not_go_back(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    convert.convert_one(tiny_llama, file, type="f16")
    file.write_bytes(file.read_bytes().replace(b"llama", b"lamma"))
    with pytest.raises(UnsupportedError, match="architecture `lamma` does not go back"):
        convert.dequantize(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_file_says_and_the_directory_cannot_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    convert.convert_one(tiny_llama, file, type="f16")
    assert read_gguf(file).metadata["llama.rope.freq_base"] == 10000.0
    file.write_bytes(file.read_bytes().replace(b"llama.rope.freq_base", b"llama.rope.freq_basf"))
    notes = convert.plan_dequantize(file, tmp_path / "out").notes
    assert [note for note in notes if note.startswith("lost: `llama.rope.freq_basf`")]
