"""MLX's directories beside MLX itself, on its CPU build: every mode, number of bits and group, values bit for bit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoint_weights import tensor_shapes
from group_packing import outputs_of
from mlx_checkpoints import DTYPES, FLOATS, Tensors, draw, named, quantized, to_torch
from packed_checkpoints import assert_same, read_tensor, tiny_config, unpacked, write_safetensors_checkpoint

from convert import dequantize
from convert.checkpoint import open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME: Final = "model.layers.0.self_attn.q_proj"
AFFINE: Final = [(bits, size) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]


def write(tmp_path: Path, tensors: Tensors, **section: Any) -> Path:  # noqa: ANN401 - what config.json holds
    return write_safetensors_checkpoint(tmp_path / "m", tiny_config(quantization=section), tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("bits", "group_size"), AFFINE)
def test_affine_groups(bits: int, group_size: int, dtype: torch.dtype, tmp_path: Path) -> None:
    parts, decoded = quantized(draw((24, 384), dtype), bits=bits, group_size=group_size)
    tensors = unpacked(write(tmp_path, named(NAME, parts), bits=bits, group_size=group_size))
    assert list(tensors) == [f"{NAME}.weight"]
    assert_same(tensors[f"{NAME}.weight"], decoded)


@pytest.mark.parametrize("mode", FLOATS)
def test_floats_of_every_scale_and_code(mode: str, tmp_path: Path) -> None:
    bits, group_size = FLOATS[mode]
    codes = np.tile(np.arange(256, dtype=np.uint8), (256, 4))
    scales = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], 1024 * 8 // bits // group_size, axis=1)
    words = mx.array(codes.view(np.uint32))
    decoded = mx.dequantize(words, mx.array(scales), group_size=group_size, bits=bits, mode=mode)
    parts = {"weight": to_torch(words), "scales": torch.from_numpy(scales)}
    tensor = unpacked(write(tmp_path, named(NAME, parts), bits=bits, group_size=group_size, mode=mode))[
        f"{NAME}.weight"
    ]
    assert_same_but_for_nans(tensor, to_torch(decoded))


def assert_same_but_for_nans(tensor: Any, expected: torch.Tensor) -> None:  # noqa: ANN401 - a Tensor
    np.testing.assert_array_equal(read_tensor(tensor), expected.float().numpy())


def test_modules_of_their_own_and_modules_that_are_left(tmp_path: Path) -> None:
    other, plain = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
    first, wanted = quantized(draw((16, 128)))
    second, wanted_second = quantized(draw((16, 128), seed=1), mode="mxfp8", bits=8, group_size=32)
    tensors = {
        **named(NAME, first),
        **named(other, second),
        f"{plain}.weight": draw((8, 8)),
        f"{NAME}.bias": draw((16,)),
    }
    section = {other: {"mode": "mxfp8", "bits": 8, "group_size": 32}, plain: False}
    found = model_tensors(open_checkpoint(write(tmp_path, tensors, bits=4, group_size=64, **section)))
    assert found.packing == "MLX"
    assert_same(found.tensors[f"{NAME}.weight"], wanted)
    assert_same(found.tensors[f"{other}.weight"], wanted_second)
    assert_same(found.tensors[f"{plain}.weight"], tensors[f"{plain}.weight"])
    assert_same(found.tensors[f"{NAME}.bias"], tensors[f"{NAME}.bias"])


@pytest.mark.parametrize(
    ("parent", "names"),
    [("mlp", ("gate_proj", "down_proj", "up_proj")), ("block_sparse_moe", ("w1", "w2", "w3"))],
)
def test_experts_that_mlx_lm_has_stacked_go_by_their_own_names(
    parent: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    tensors: Tensors = {}
    wanted: Tensors = {}
    for part, name in zip(("gate_proj", "down_proj", "up_proj"), names, strict=True):
        parts, decoded = quantized(draw((3, 16, 64)), bits=3, group_size=32)
        tensors |= named(f"model.layers.0.{parent}.switch_mlp.{part}", parts)
        wanted |= {f"model.layers.0.{parent}.experts.{index}.{name}.weight": decoded[index] for index in range(3)}
    section = {
        f"model.layers.0.{parent}.switch_mlp.{part}": {"bits": 3} for part in ("gate_proj", "down_proj", "up_proj")
    }
    found = unpacked(write(tmp_path, tensors, bits=4, group_size=32, **section))
    assert sorted(found) == sorted(wanted)
    for name, expected in wanted.items():
        assert_same(found[name], expected)


def test_the_files_are_those_of_what_mlx_decodes(tmp_path: Path) -> None:
    """A whole model, embeddings and output packed too, as mlx-lm does."""
    config = tiny_config(dtype="bfloat16")
    packed: Tensors = {}
    plain: Tensors = {}
    for index, (name, shape) in enumerate(tensor_shapes(config).items()):
        weight = draw(shape, seed=index)
        module = name.removesuffix(".weight")
        if len(shape) == 2:
            parts, plain[name] = quantized(weight, group_size=32)
            packed |= named(module, parts)
        else:
            plain[name] = packed[name] = weight
    words = {"group_size": 32, "bits": 4}
    ours = write_safetensors_checkpoint(
        tmp_path / "packed" / "model", {**config, "quantization": words, "quantization_config": words}, packed
    )
    theirs = write_safetensors_checkpoint(tmp_path / "plain" / "model", config, plain)
    assert outputs_of(ours, tmp_path / "a") == outputs_of(theirs, tmp_path / "b")
    dequantize(ours, tmp_path / "dequantized" / "model")
    assert "quantization" not in (tmp_path / "dequantized" / "model" / "config.json").read_text()
    assert outputs_of(tmp_path / "dequantized" / "model", tmp_path / "c") == outputs_of(theirs, tmp_path / "b")


def _without(suffix: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(f"{NAME}.{suffix}")


def _with(suffix: str, value: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({f"{NAME}.{suffix}": value})


HOSTILE: Final[dict[str, tuple[Callable[[Tensors], object], dict[str, Any], type[Exception], str]]] = {
    "no scales": (_without("scales"), {}, CheckpointError, "has no `scales`"),
    "no biases": (_without("biases"), {}, CheckpointError, "has no `biases`"),
    "no words": (_without("weight"), {}, CheckpointError, "has no `weight`"),
    "other words": (_with("weight", torch.zeros(16, 16)), {}, CheckpointError, "has type F32, wanted U32"),
    "other biases": (_with("biases", torch.zeros(16, 2)), {}, CheckpointError, "has type F32, wanted BF16"),
    "more rows": (
        _with("scales", draw((17, 2))),
        {},
        CheckpointError,
        "affine, 4 bits and groups of 64, its tensors are",
    ),
    "other bits": (dict, {"bits": 8}, CheckpointError, "says affine, 8 bits and groups of 64, its tensors are"),
    "no such bits": (dict, {"bits": 7}, ConfigError, "which MLX does not have"),
    "no such mode": (dict, {"mode": "int4"}, ConfigError, "`mode` in"),
    "no such group": (
        dict,
        {"mode": "mxfp4"},
        ConfigError,
        "says mxfp4, 4 bits and groups of 64, which MLX does not have",
    ),
    "no groups": (dict, {"group_size": 0}, ConfigError, "wanted a whole number from 1"),
    "a mode that is no name": (dict, {"mode": 4}, ConfigError, "wanted a name"),
    "left out": (dict, {NAME: False}, CheckpointError, "is not quantized, but it is"),
    "left out, by more of its name": (dict, {f"language_model.{NAME}": False}, CheckpointError, "but it is"),
    "biases of none": (
        _with("scales", torch.zeros(16, 4, dtype=torch.uint8)),
        {"mode": "mxfp4", "group_size": 32},
        CheckpointError,
        "is mxfp4, and has `biases`",
    ),
}


@pytest.mark.parametrize("row", HOSTILE)
def test_what_is_wrong_is_an_error_that_names_it(row: str, tmp_path: Path) -> None:
    change, section, error, message = HOSTILE[row]
    tensors = named(NAME, quantized(draw((16, 128)))[0])
    change(tensors)
    with pytest.raises(error, match=re.escape(message)):
        unpacked(write(tmp_path, tensors, **{"bits": 4, "group_size": 64, **section}))
