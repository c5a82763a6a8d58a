"""Hostile compressed-tensors checkpoints: each its own error when it is opened, before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from compressed_checkpoints import NAME, WEIGHT, Tensors, codes, linear, module, scales, weights, write
from packed_checkpoints import unpacked

from convert.errors import CheckpointError, ConfigError, ConvertError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def _raw(**more: torch.Tensor | None) -> Callable[[], Tensors]:
    return lambda: module((16, 64), 4, **more)


def _plain(weight: torch.Tensor, **more: torch.Tensor) -> Callable[[], Tensors]:
    return lambda: {WEIGHT: weight, **{f"{NAME}.{suffix}": tensor for suffix, tensor in more.items()}}


def _nvfp4(**more: torch.Tensor) -> Callable[[], Tensors]:
    codes_and_scales = {
        "weight_packed": torch.zeros(16, 32, dtype=torch.uint8),
        "weight_scale": torch.ones(16, 4).to(torch.float8_e4m3fn),
        **more,
    }
    return lambda: {f"{NAME}.{suffix}": tensor for suffix, tensor in codes_and_scales.items()}


NVFP4: Final = linear(
    {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}, format="nvfp4-pack-quantized"
)
GROUPS: Final = linear(weights())
I8: Final = codes((16, 64), 8)
HOSTILE_TENSORS: Final[Mapping[str, tuple[Callable[[], Tensors], object, type[ConvertError], str]]] = {
    "bytes-where-words-are-said": (
        _plain(I8, weight_scale=scales((16, 2))),
        GROUPS,
        CheckpointError,
        r"has `weight` I8 \(16, 64\), .* says `group_0` \(pack-quantized, .* wants `weight_packed` I32",
    ),
    "words-where-bytes-are-said": (
        _raw(),
        linear(weights(8, "channel"), format="int-quantized"),
        CheckpointError,
        r"has `weight_packed` I32 .* says `group_0` \(int-quantized, .* wants `weight` I8",
    ),
    "floats-where-integers-are-said": (
        _plain(I8.float().to(torch.float8_e4m3fn), weight_scale=scales((16, 1))),
        linear(weights(8, "channel"), format="int-quantized"),
        CheckpointError,
        "has `weight` F8_E4M3 .* wants `weight` I8",
    ),
    "other-bits": (
        _raw(),
        linear(weights(8)),
        CheckpointError,
        r"`weight_packed` I32 \(16, 8\).* wants `weight_packed` \(16, 16\) for \(16, 64\)",
    ),
    "other-groups": (
        _raw(),
        linear(weights(group_size=16)),
        CheckpointError,
        r"`weight_scale` F16 \(16, 2\).* of 16, .* wants `weight_scale` F32/F16/BF16 \(16, 4\)",
    ),
    "groups-that-do-not-divide": (
        _raw(),
        linear(weights(group_size=48)),
        CheckpointError,
        "wants columns in whole groups of 48",
    ),
    "one-scale-where-rows-are-said": (
        _raw(weight_scale=scales((1,))),
        linear(weights(4, "channel")),
        CheckpointError,
        r"`weight_scale` F16 \(1,\).* one scale a channel.* wants `weight_scale` F32/F16/BF16 \(16, 1\)",
    ),
    "rows-where-one-is-said": (
        _raw(weight_scale=scales((16, 1))),
        linear(weights(4, "tensor")),
        CheckpointError,
        r"`weight_scale` F16 \(16, 1\).* wants `weight_scale` F32/F16/BF16 \(1, 1\)",
    ),
    "scale-dtype": (
        _raw(weight_scale=torch.ones(16, 2, dtype=torch.int32)),
        GROUPS,
        CheckpointError,
        "`weight_scale` I32 .* wants `weight_scale` F32/F16/BF16",
    ),
    "zero-points-not-said": (
        _raw(weight_zero_point=torch.zeros(2, 2, dtype=torch.int32)),
        GROUPS,
        CheckpointError,
        "`weight_zero_point` I32 .* symmetric.* wants no `weight_zero_point`",
    ),
    "zero-points-missing": (
        _raw(),
        linear(weights(symmetric=False)),
        CheckpointError,
        "with zero points.* wants `weight_zero_point`",
    ),
    "zero-points-cut-off": (
        _raw(weight_zero_point=torch.zeros(1, 2, dtype=torch.int32)),
        linear(weights(symmetric=False)),
        CheckpointError,
        r"`weight_zero_point` I32 \(1, 2\).* wants `weight_zero_point` I32 \(2, 2\)",
    ),
    "zero-points-of-another-type": (
        _raw(weight_zero_point=torch.zeros(16, 2)),
        linear(weights(symmetric=False)),
        CheckpointError,
        r"`weight_zero_point` F32 .* wants `weight_zero_point` I8 \(16, 2\)",
    ),
    "packed-cut-off": (
        _raw(weight_packed=torch.zeros(16, 7, dtype=torch.int32)),
        GROUPS,
        CheckpointError,
        r"`weight_packed` I32 \(16, 7\).* wants `weight_packed` \(16, 8\) for \(16, 64\)",
    ),
    "shape-of-other-rows": (
        _raw(weight_shape=torch.tensor([32, 64])),
        GROUPS,
        CheckpointError,
        r"`.*weight_shape` says \(32, 64\), `.*weight_packed` is I32 \(16, 8\)",
    ),
    "shape-of-more-columns": (
        _raw(weight_shape=torch.tensor([16, 4096])),
        GROUPS,
        CheckpointError,
        r"`.*weight_shape` says \(16, 4096\)",
    ),
    "shape-of-fewer-columns": (
        _raw(weight_shape=torch.tensor([16, 32]), weight_scale=scales((16, 1))),
        GROUPS,
        CheckpointError,
        r"wants `weight_packed` \(16, 4\) for \(16, 32\)",
    ),
    "shape-that-is-negative": (
        _raw(weight_shape=torch.tensor([16, -64])),
        GROUPS,
        CheckpointError,
        r"says \(16, -64\)",
    ),
    "shape-beyond-all": (_raw(weight_shape=torch.tensor([16, 2**62])), GROUPS, CheckpointError, "weight_shape` says"),
    "shape-of-three": (
        _raw(weight_shape=torch.tensor([1, 16, 64])),
        GROUPS,
        CheckpointError,
        r"weight_shape` is I64 of shape \(3,\), wanted two I64",
    ),
    "shape-in-floats": (_raw(weight_shape=torch.tensor([16.0, 64.0])), GROUPS, CheckpointError, "is F32 of shape"),
    "no-shape": (_raw(weight_shape=None), GROUPS, CheckpointError, "weight_packed` has no `.*weight_shape`"),
    "no-scale": (_raw(weight_scale=None), GROUPS, CheckpointError, "weight_packed` is I32 without `.*weight_scale`"),
    "no-codes": (
        _raw(weight_packed=None),
        GROUPS,
        CheckpointError,
        "weight_scale` has no `.*weight` or `.*weight_packed` that it belongs to",
    ),
    "bytes-without-a-scale": (_plain(I8), GROUPS, CheckpointError, "weight` is I8 without `.*weight_scale`"),
    "both": (_raw(weight=torch.ones(16, 64)), GROUPS, CheckpointError, "has both `weight` and `weight_packed`"),
    "words-of-64-bits": (
        _raw(weight_packed=torch.zeros(16, 8, dtype=torch.int64)),
        GROUPS,
        CheckpointError,
        "weight_packed` is I64, wanted I32 or U8",
    ),
    "three-dimensions": (
        _raw(weight_packed=torch.zeros(2, 16, 8, dtype=torch.int32)),
        GROUPS,
        UnsupportedError,
        "only matrices are decoded",
    ),
    "empty": (
        _raw(weight_packed=torch.zeros(0, 8, dtype=torch.int32), weight_shape=torch.tensor([0, 64])),
        GROUPS,
        CheckpointError,
        "is empty or stored transposed",
    ),
    "not-compressed-yet": (
        _plain(torch.ones(16, 64), weight_scale=scales((16, 2))),
        linear(weights(), format="dense"),
        UnsupportedError,
        "weight` is F32 beside `.*weight_scale`: it is not compressed yet",
    ),
    "sparse": (
        lambda: {f"{NAME}.compressed": torch.ones(8), f"{NAME}.bitmask": torch.ones(8, dtype=torch.uint8)},
        GROUPS,
        UnsupportedError,
        "is part of a sparse weight, which is not decoded",
    ),
    "groups-by-activation-not-said": (
        _raw(weight_g_idx=torch.arange(64, dtype=torch.int32) % 2),
        GROUPS,
        CheckpointError,
        "wants no `weight_g_idx`",
    ),
    "groups-by-activation-missing": (
        _raw(),
        linear(weights(actorder="group")),
        CheckpointError,
        "wants `weight_g_idx`, for `actorder: group`",
    ),
    "groups-by-activation-uneven": (
        _raw(weight_g_idx=(torch.arange(64) < 20).int()),
        linear(weights(actorder="group")),
        CheckpointError,
        "does not put 64 columns into 2 groups of 32",
    ),
    "groups-by-activation-too-many": (
        _raw(weight_g_idx=torch.arange(64, dtype=torch.int32) // 32 * 2**30),
        linear(weights(actorder="group")),
        CheckpointError,
        "does not put 64 columns into 2 groups of 32",
    ),
    "groups-by-activation-below-zero": (
        _raw(weight_g_idx=torch.arange(64, dtype=torch.int32) // 32 - 2),
        linear(weights(actorder=True)),
        CheckpointError,
        "does not put 64 columns into 2 groups of 32",
    ),
    "groups-by-activation-cut-off": (
        _raw(weight_g_idx=torch.zeros(32, dtype=torch.int32)),
        linear(weights(actorder="group")),
        CheckpointError,
        r"weight_g_idx` is I32 \(32,\), wanted I32 \(64,\)",
    ),
    "no-global-scale": (_nvfp4(), NVFP4, CheckpointError, "wants a `weight_global_scale`"),
    "a-global-scale-of-two": (
        _nvfp4(weight_global_scale=torch.ones(2)),
        NVFP4,
        CheckpointError,
        r"weight_global_scale` is F32 of shape \(2,\), wanted one F32",
    ),
    "no-group-with-weights": (
        _raw(),
        {"group_0": {"targets": ["Linear"], "weights": None}},
        CheckpointError,
        "says no group that quantizes weights",
    ),
}


@pytest.mark.parametrize("case", HOSTILE_TENSORS)
def test_hostile_tensors_are_errors_when_opened(case: str, tmp_path: Path) -> None:
    tensors, groups, error, message = HOSTILE_TENSORS[case]
    directory = write(tmp_path, tensors(), groups)
    with pytest.raises(error, match=message) as raised:
        unpacked(directory)
    assert type(raised.value) is error


HOSTILE_SECTIONS: Final[Mapping[str, tuple[dict[str, Any], type[ConvertError], str]]] = {
    "left-out": (
        {"ignore": [NAME]},
        CheckpointError,
        "says that `.*q_proj` is not quantized, but `.*weight_packed` is",
    ),
    "ignore-of-a-wrong-type": ({"ignore": NAME}, ConfigError, "`ignore` in .* wanted a list of strings"),
    "ignore-of-numbers": ({"ignore": [1]}, ConfigError, "`ignore` in .* wanted a list of strings"),
    "groups-in-a-list": ({"config_groups": [1]}, ConfigError, "`config_groups` in .* wanted an object"),
    "no-groups": ({"config_groups": None}, CheckpointError, "says no group that quantizes weights"),
    "a-group-that-is-none": ({"config_groups": {"g": 3}}, ConfigError, "`g` of .* is 3, wanted an object"),
    "a-preset": ({"config_groups": {"W4A16": ["Linear"]}}, UnsupportedError, "`W4A16` of .* names a preset"),
    "weights-in-a-list": (
        {"config_groups": {"g": {"weights": [4]}}},
        ConfigError,
        "`weights` in `g` of .* wanted an object",
    ),
    "targets-of-a-wrong-type": (
        {"config_groups": {"g": {"targets": "Linear", "weights": weights()}}},
        ConfigError,
        "`targets` in .* wanted a list of strings",
    ),
    "bits-as-text": (
        {"config_groups": linear(weights(num_bits="4"))},
        ConfigError,
        "`num_bits` in .* wanted an integer",
    ),
    "bits-beyond-bytes": (
        {"config_groups": linear(weights(num_bits=16))},
        UnsupportedError,
        "are `int` of 16 bits in `pack-quantized`",
    ),
    "no-bits": ({"config_groups": linear(weights(num_bits=0))}, UnsupportedError, "are `int` of 0 bits"),
    "another-type": ({"config_groups": linear(weights(type="fib"))}, UnsupportedError, "are `fib` of 4 bits"),
    "type-as-a-number": ({"config_groups": linear(weights(type=4))}, ConfigError, "`type` in .* wanted a name"),
    "symmetric-as-text": (
        {"config_groups": linear(weights(symmetric="yes"))},
        ConfigError,
        "`symmetric` in .* wanted true or false",
    ),
    "group-size-of-zero": ({"config_groups": linear(weights(group_size=0))}, ConfigError, "`group_size` in .* is 0"),
    "group-size-below-zero": (
        {"config_groups": linear(weights(group_size=-5))},
        ConfigError,
        "`group_size` in .* is -5",
    ),
    "group-size-beyond-all": (
        {"config_groups": linear(weights(group_size=2**70))},
        ConfigError,
        "`group_size` in .* wanted -1 or a positive number",
    ),
    "group-size-missing": (
        {"config_groups": linear(weights(group_size=None))},
        ConfigError,
        "`group_size` in .* is None, wanted a positive number for groups",
    ),
    "a-strategy-of-activations": (
        {"config_groups": linear(weights(strategy="token"))},
        UnsupportedError,
        "`strategy` in .* is `token`",
    ),
    "blocks-without-a-size": (
        {"config_groups": linear(weights(8, "block"))},
        ConfigError,
        "`block_structure` in .* is None, wanted two positive integers",
    ),
    "blocks-as-any-text": (
        {"config_groups": linear(weights(8, "block", block_structure="9" * 5000))},
        ConfigError,
        "`block_structure` in .* wanted two positive integers",
    ),
    "actorder-as-a-number": (
        {"config_groups": linear(weights(actorder=3))},
        ConfigError,
        "`actorder` in .* is 3, wanted a name",
    ),
    "format-as-a-number": ({"format": 3}, ConfigError, "`format` in .* is 3, wanted a name"),
    "marlin": (
        {"format": "marlin-24"},
        UnsupportedError,
        "the format of .* is `marlin-24`, which this version does not",
    ),
    "sparse": (
        {"sparsity_config": {"format": "sparse-24-bitmask"}},
        UnsupportedError,
        "are `sparse-24-bitmask`: sparsity",
    ),
    "sparsity-of-a-wrong-type": ({"sparsity_config": 1}, ConfigError, "`sparsity_config` in .* wanted an object"),
    "fp6": (
        {"format": "mxfp6-pack-quantized"},
        UnsupportedError,
        "is `mxfp6-pack-quantized`, which this version does not",
    ),
    "rotated": (
        {"transform_config": {"config_groups": {"R1": {"type": "hadamard"}}}},
        UnsupportedError,
        "has a `transform_config`: activations are rotated",
    ),
    "groups-without-end": (
        {"config_groups": {str(index): {"weights": weights()} for index in range(300)}},
        UnsupportedError,
        "has 300 config groups, at most 256",
    ),
}


@pytest.mark.parametrize("case", HOSTILE_SECTIONS)
def test_hostile_sections_are_errors_when_opened(case: str, tmp_path: Path) -> None:
    changes, error, message = HOSTILE_SECTIONS[case]
    groups = changes.get("config_groups", GROUPS)
    more = {key: value for key, value in changes.items() if key != "config_groups"}
    directory = write(tmp_path, module(), groups, **more)
    with pytest.raises(error, match=message) as raised:
        unpacked(directory)
    assert type(raised.value) is error
