"""Names that stand before every tensor, heads, other spellings of the class; and what is said of what is left over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from checkpoints import write_checkpoint
from family_checkpoints import write_family_checkpoint
from safetensors.torch import load_file, save_file, save_model

import convert
from convert.architecture import family_of
from convert.errors import ConvertError, PlanError, UnsupportedError
from convert.gguf_file import read_gguf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Weights = dict[str, torch.Tensor]

LLAMA, TIED = "Llama-2-7b-chat-hf", "Llama-3.2-1B-Instruct-v2"


def _written(root: Path, change: Callable[[Weights], Weights], name: str = LLAMA, **config: object) -> Path:
    directory = write_checkpoint(name, root)
    weights = change(load_file(directory / "model.safetensors"))
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    _configured(directory, **config)
    return directory


def _configured(directory: Path, **config: object) -> None:
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(content | config))


def _converted(directory: Path, out: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    plan = convert.plan_one(directory, out)
    convert.carry_out(plan)
    raw = out.read_bytes()
    said = [f"{group.group}: {group.reason}, {group.nbytes} bytes" for group in plan.left_out]
    tensors = {info.name: raw[info.offset : info.offset + info.nbytes] for info in read_gguf(out).tensors}
    return tensors, (*plan.notes, *said)


def _refused(directory: Path, kind: type[ConvertError] = PlanError) -> ConvertError:
    with pytest.raises(kind) as caught:
        convert.plan_one(directory, directory / "m.gguf")
    return caught.value


def _before(prefix: str, *heads: str, inner: str = "") -> Callable[[Weights], Weights]:
    def change(weights: Weights) -> Weights:
        named = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
        if inner:
            named = {name.replace("q_proj.", f"q_proj.{inner}"): tensor for name, tensor in named.items()}
        return named | {name: torch.zeros(4) for name in heads}

    return change


@pytest.mark.parametrize(
    ("change", "prefix", "heads"),
    [
        (_before("pretrained_model.", "v_head.summary.weight", "v_head.summary.bias"), "pretrained_model.", 32),
        (_before("base_model.model."), "base_model.model.", 0),
        (_before("base_model.model.", inner="base_layer."), "base_model.model.", 0),
        (_before("_forward_module."), "_forward_module.", 0),
        (_before("policy."), "policy.", 0),
        (_before("actor.module.", "critic_head.weight"), "actor.module.", 16),
        (_before("student."), "student.", 0),
        (_before("language_model."), "language_model.", 0),
        (_before("some.wrapper.of_mine.llm."), "some.wrapper.of_mine.llm.", 0),
        (_before("", "score.weight"), "", 16),
    ],
)
def test_what_stands_before_every_name_and_heads_change_nothing(
    change: Callable[[Weights], Weights], prefix: str, heads: int, tmp_path: Path
) -> None:
    wanted, before = _converted(write_checkpoint(LLAMA, tmp_path / "plain"), tmp_path / "plain.gguf")
    found, said = _converted(_written(tmp_path, change), tmp_path / "m.gguf")
    assert found == wanted
    removed = (f"removed `{prefix}` from tensor names",) * bool(prefix)
    left_out = (f"heads: for values, rewards or classes, {heads} bytes",) * bool(heads)
    assert said == (*removed, *before, *left_out)


@pytest.mark.parametrize("name", ["FSDPLlamaForCausalLM", "LlamaModel"])
def test_other_spellings_of_the_class_are_llamas(name: str, tmp_path: Path) -> None:
    wanted, _ = _converted(write_checkpoint(LLAMA, tmp_path / "plain"), tmp_path / "plain.gguf")
    found, _ = _converted(_written(tmp_path, dict, architectures=[name]), tmp_path / "m.gguf")
    assert found == wanted


def test_a_llama_model_without_a_head_is_one_without_output(tmp_path: Path) -> None:
    def bare(weights: Weights) -> Weights:
        return {name.removeprefix("model."): tensor for name, tensor in weights.items() if name != "lm_head.weight"}

    found, _ = _converted(_written(tmp_path, bare, architectures=["LlamaModel"]), tmp_path / "m.gguf")
    assert "output.weight" not in found


def test_a_tied_model_with_only_its_output_is_whole(tmp_path: Path) -> None:
    wanted, _ = _converted(write_checkpoint(TIED, tmp_path / "plain"), tmp_path / "plain.gguf")

    def only_output(weights: Weights) -> Weights:
        return {name.replace("model.embed_tokens", "lm_head"): tensor for name, tensor in weights.items()}

    found, _ = _converted(_written(tmp_path, only_output, TIED), tmp_path / "m.gguf")
    assert found == wanted


def test_what_save_model_leaves_of_a_tied_model_is_converted(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    directory = write_checkpoint(TIED, tmp_path)
    wanted, _ = _converted(directory, tmp_path / "plain.gguf")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float16)
    save_model(model, str(directory / "model.safetensors"))
    found, _ = _converted(directory, tmp_path / "m.gguf")
    assert found.keys() == wanted.keys()
    assert found["token_embd.weight"] == wanted["token_embd.weight"]


def test_an_output_that_is_missing_is_named_as_the_checkpoint_would_with_what_ties_it(tmp_path: Path) -> None:
    error = _refused(_written(tmp_path, lambda weights: {k: v for k, v in weights.items() if k != "lm_head.weight"}))
    assert "`lm_head.weight`" in error.message
    assert "tie_word_embeddings" in (error.hint or "")


@pytest.mark.parametrize(
    "missing", ["model.layers.1.self_attn.k_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_what_is_missing_is_called_as_in_the_checkpoint(missing: str, tmp_path: Path) -> None:
    error = _refused(_written(tmp_path, lambda weights: {k: v for k, v in weights.items() if k != missing}))
    assert error.message == f"the checkpoint lacks 1 tensors that the model needs: `{missing}`"


def test_a_model_saved_with_its_adapter_apart_says_what_to_do(tmp_path: Path) -> None:
    lora = [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.default.weight" for part in "AB"]
    directory = _written(tmp_path, _before("base_model.model.", *lora, inner="base_layer."))
    error = _refused(directory, UnsupportedError)
    assert "together with an adapter that is not merged" in error.message
    assert "merge_and_unload" in (error.hint or "")


@pytest.mark.parametrize(
    ("more", "says", "hint"),
    [
        (["model.mtp.0.eh_proj.weight", "model.mtp.0.enorm.weight"], "predict several tokens", "without them"),
        (["vision_tower.patch_embed.weight", "mm_projector.0.weight"], "an encoder's of images", "text models"),
        (
            ["model.layers.0.mlp.up_proj.qweight", "model.layers.0.mlp.up_proj.scales"],
            "of a packed weight",
            "quantization_config",
        ),
        (["model.layers.0.self_attn.freqs_cis_mask"], "buffers", "save_pretrained"),
        (
            ["model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.k_norm.weight"],
            "norms",
            "another model",
        ),
        (["optimizer.exp_avg.0"], "an optimizer's", "state_dict"),
        (["model.layers.2.mlp.up_proj.weight"], "layers up to 2", "num_hidden_layers"),
        (["model.layers.0.mlp.fc_in.weight"], "fc_in", "called otherwise"),
    ],
)
def test_what_is_left_over_is_told_by_its_name(more: list[str], says: str, hint: str, tmp_path: Path) -> None:
    directory = _written(tmp_path, lambda weights: weights | {name: torch.zeros(4) for name in more})
    error = _refused(directory, ConvertError)
    assert says in error.message + (error.hint or "")
    assert hint in (error.hint or "")
    assert "no place" in error.message or "packed" in more[0] or "qweight" in more[0]


def test_buffers_of_remote_code_are_ignored(tmp_path: Path) -> None:
    def with_buffers(weights: Weights) -> Weights:
        table: dict[str, Any] = {
            f"model.layers.0.self_attn.rotary_emb.{name}": torch.zeros(4) for name in ("cos_cached", "sin_cached")
        }
        return weights | table | {"rotary_emb.inv_freq": torch.zeros(4)}

    wanted, _ = _converted(write_checkpoint(LLAMA, tmp_path / "plain"), tmp_path / "plain.gguf")
    assert _converted(_written(tmp_path, with_buffers), tmp_path / "m.gguf")[0] == wanted


def test_of_a_model_that_sees_the_text_model_is_converted_and_the_rest_is_told(tmp_path: Path) -> None:
    plan = convert.plan_one(write_family_checkpoint("gemma-3-4b-it", tmp_path), tmp_path / "m.gguf")
    told = {(group.group, group.reason, group.other_file) for group in plan.left_out}
    reason = "a text model has none of it"
    assert told == {("vision", reason, "mmproj"), ("projector", reason, "mmproj")}
    assert plan.definition == "native"


def test_a_text_model_of_another_kind_in_a_known_class_is_not_taken_for_ours() -> None:
    config = {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": {"model_type": "mistral4"}}
    with pytest.raises(UnsupportedError, match="`mistral4` in a `Mistral3ForConditionalGeneration`"):
        family_of(config, where="config.json")
