"""fp8 checkpoints that are wrong: an error that says what and where, when they are opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from fp8_checkpoints import NAME, Tensors, good, random_codes, random_scales, section, write
from packed_checkpoints import unpacked

from convert.errors import CheckpointError, ConfigError, ConvertError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def _change(**changes: torch.Tensor | None) -> Callable[[], Tensors]:
    def changed() -> Tensors:
        tensors = {**good(), **{f"{NAME}.{suffix}": tensor for suffix, tensor in changes.items()}}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    return changed


F8: Final = random_codes((64, 96))
HOSTILE: Final[Mapping[str, tuple[Callable[[], Tensors], dict[str, Any], type[ConvertError], str]]] = {
    "scale-shape": (
        _change(weight_scale_inv=random_scales((3, 2))),
        section(),
        CheckpointError,
        r"weight of \(64, 96\) has shape \(3, 2\); .* says blocks of 32x32, \(2, 3\)",
    ),
    "one-scale-for-blocks": (
        _change(weight_scale_inv=random_scales((1,))),
        section(),
        CheckpointError,
        r"has shape \(1,\); .* says blocks of 32x32, \(2, 3\)",
    ),
    "blocks-where-none-are-said": (
        good,
        section(weight_block_size=None),
        CheckpointError,
        r"has shape \(2, 3\); .* says one a tensor, \(1, 1\) or one a row, \(64, 1\)",
    ),
    "one-scale-for-rows": (
        _change(weight_scale_inv=None, weight_scale=random_scales(())),
        {"quant_method": "fbgemm_fp8"},
        CheckpointError,
        r"has shape \(\); .* says one a row, \(64, 1\)",
    ),
    "a-column-of-scales-for-columns": (
        _change(weight_scale_inv=random_scales((1, 64))),
        section(weight_block_size=None),
        CheckpointError,
        r"has shape \(1, 64\); .* says one a tensor",
    ),
    "scale-dtype": (
        _change(weight_scale_inv=torch.ones(2, 3, dtype=torch.int32)),
        section(),
        CheckpointError,
        "scale_inv` is I32, wanted one of F32, F16, BF16, F8_E8M0, U8",
    ),
    "no-scale": (
        _change(weight_scale_inv=None, other=torch.ones(1)),
        section(),
        CheckpointError,
        "weight` is F8_E4M3 without a scale, wanted `.*_scale_inv` or `.*_scale`",
    ),
    "no-weight": (_change(weight=None), section(), CheckpointError, "scale_inv` has no weight `.*q_proj.weight`"),
    "two-scales": (
        _change(weight_scale=random_scales((2, 3))),
        section(),
        CheckpointError,
        "weight` has two scales, `.*weight_scale` and `.*weight_scale_inv`",
    ),
    "a-plain-weight-with-a-scale": (
        _change(weight=torch.ones(64, 96)),
        section(),
        CheckpointError,
        "is F32 but has the scale of an 8-bit float, `.*_scale_inv`",
    ),
    "four-bits": (
        _change(weight=torch.ones(64, 48, dtype=torch.int8)),
        section(expert_dtype="fp4"),
        UnsupportedError,
        "is I8 with the scale .* 4 bits",
    ),
    "one-dimension": (
        _change(weight=random_codes((64,))),
        section(),
        CheckpointError,
        r"has shape \(64,\), wanted a matrix or a stack",
    ),
    "empty": (_change(weight=F8[:0]), section(), CheckpointError, r"has shape \(0, 96\), wanted a matrix or a stack"),
    "left-out": (
        good,
        section(modules_to_not_convert=[NAME]),
        CheckpointError,
        "says that `.*q_proj` is not quantized, but `.*q_proj.weight` is",
    ),
    "another-float": (good, section(fmt="e5m2"), CheckpointError, "is F8_E4M3, .* says F8_E5M2 or F8_E5M2FNUZ"),
    "an-unknown-float": (good, section(fmt="e3m4"), UnsupportedError, "`fmt` in .* is `e3m4`, wanted `e4m3` or `e5m2`"),
    "fmt-of-a-wrong-type": (good, section(fmt=8), ConfigError, "`fmt` in .* is 8, wanted a name"),
    "block-of-one": (good, section(weight_block_size=[32]), ConfigError, "is .32., wanted two positive integers"),
    "block-of-zero": (good, section(weight_block_size=[0, 32]), ConfigError, "is .0, 32., wanted two positive"),
    "block-of-true": (good, section(weight_block_size=[True, 32]), ConfigError, "is .True, 32., wanted two positive"),
    "block-of-text": (good, section(weight_block_size="32x32"), ConfigError, "is '32x32', wanted two positive"),
    "block-too-large": (good, section(weight_block_size=[2**40, 1]), ConfigError, "wanted two positive integers"),
    "block-of-a-float": (good, section(weight_block_size=[32.0, 32]), ConfigError, "wanted two positive integers"),
    "names-of-a-wrong-type": (
        good,
        section(modules_to_not_convert={"lm_head": 1}),
        ConfigError,
        "`modules_to_not_convert` in .* wanted a list of strings",
    ),
    "a-name-that-is-none": (
        good,
        section(ignored_layers=[None]),
        ConfigError,
        "`ignored_layers` in .* wanted a list of strings",
    ),
    "another-method": (good, {"quant_method": "gptq", "bits": 4}, CheckpointError, "declares `gptq`, but .* is fp8's"),
    "no-method": (good, {}, CheckpointError, "declares no quantization, but .* is fp8's"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_checkpoints_are_errors_when_opened(case: str, tmp_path: Path) -> None:
    tensors, quantization, error, message = HOSTILE[case]
    directory = write(tmp_path, tensors(), quantization)
    with pytest.raises(error, match=message) as raised:
        unpacked(directory)
    assert type(raised.value) is error


def test_a_truncated_file_is_an_error_when_opened(tmp_path: Path) -> None:
    path = write(tmp_path, good(), section()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is truncated"):
        unpacked(path.parent)
