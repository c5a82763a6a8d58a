"""Files that are missing, or that an index tells wrongly of, and a model that has all it needs all the same, or not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from checkpoint_layouts import Layout
from checkpoints import write_checkpoint
from safetensors.torch import load_file, save_file

import convert
from convert.errors import CheckpointError, PlanError

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "model.safetensors.index.json"


def _sharded(name: str, root: Path) -> Path:
    return write_checkpoint(name, root, layout=Layout.SAFETENSORS_SHARDED)


def _renumbered(directory: Path, count: int) -> list[Path]:
    """Say in the shards' names that there are more, and take the index away."""
    (directory / INDEX).unlink()
    shards = sorted(directory.glob("model-*.safetensors"))
    return [shard.rename(shard.with_name(f"{shard.name[:11]}-of-{count:05d}.safetensors")) for shard in shards]


def _rewritten_index(directory: Path, **changes: str) -> None:
    path = directory / INDEX
    content = json.loads(path.read_text())
    content["weight_map"] |= {key.replace("__", "."): file for key, file in changes.items()}
    path.write_text(json.dumps(content))


def test_files_numbered_of_more_than_there_are_hold_a_whole_model(tmp_path: Path) -> None:
    whole = _sharded("llama-attention-bias", tmp_path / "whole")
    wanted = convert.convert_one(whole, tmp_path / "whole.gguf")
    renumbered = _sharded("llama-attention-bias", tmp_path)
    _renumbered(renumbered, 5)
    plan = convert.plan_one(renumbered, tmp_path / "same.gguf")
    assert any(
        "files that the shards' numbering names" in note and "has all that it needs" in note for note in plan.notes
    )
    convert.carry_out(plan)
    assert (tmp_path / "same.gguf").read_bytes() == wanted.outputs[0].path.read_bytes()


def test_a_file_that_is_needed_is_missed(tmp_path: Path) -> None:
    directory = _sharded("llama-attention-bias", tmp_path)
    _renumbered(directory, 3)[1].unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of 3 files that the shards' numbering names"):
        convert.plan_one(directory, tmp_path / "m.gguf")


def test_biases_of_some_blocks_only_are_missed(tmp_path: Path) -> None:
    directory = write_checkpoint("llama-attention-bias", tmp_path)
    weights = load_file(directory / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("layers.1.self_attn.q_proj.bias")}
    (directory / "model.safetensors").unlink()
    save_file(kept, directory / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="lacks 1 of 2 files"):
        convert.plan_one(directory, tmp_path / "m.gguf")


def test_a_bias_that_an_index_names_and_no_file_has_is_missed(tmp_path: Path) -> None:
    directory = _sharded("Llama-2-7b-chat-hf", tmp_path)
    shard = min(directory.glob("model-*.safetensors")).name
    _rewritten_index(directory, model__layers__0__self_attn__q_proj__bias=shard)
    with pytest.raises(CheckpointError, match=r"names 1 tensors that are not in their files: .*q_proj\.bias"):
        convert.plan_one(directory, tmp_path / "m.gguf")


def test_what_an_index_names_and_the_model_has_no_use_for_is_a_note(tmp_path: Path) -> None:
    directory = _sharded("Llama-2-7b-chat-hf", tmp_path)
    shard = min(directory.glob("model-*.safetensors")).name
    _rewritten_index(directory, model__layers__0__self_attn__rotary_emb__inv_freq=shard)
    plan = convert.plan_one(directory, tmp_path / "m.gguf")
    assert any("rotary_emb.inv_freq" in note and "has all that it needs" in note for note in plan.notes)


def test_a_missing_tensor_of_a_whole_directory_is_the_models(tmp_path: Path) -> None:
    directory = write_checkpoint("Llama-2-7b-chat-hf", tmp_path)
    weights = load_file(directory / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, directory / "model.safetensors")
    with pytest.raises(PlanError, match="lacks 1 tensors that the model needs"):
        convert.plan_one(directory, tmp_path / "m.gguf")


def test_dequantize_cannot_tell_what_a_model_needs_and_refuses(tmp_path: Path) -> None:
    directory = _sharded("Llama-2-7b-chat-hf", tmp_path)
    _renumbered(directory, 5)
    with pytest.raises(CheckpointError, match="lacks 2 of 5 files"):
        convert.plan_dequantize(directory, tmp_path / "out")
