"""HQQ checkpoints as hqq gives them to safetensors: every packing, axis and type, against an independent packer.

The layout is written here code by code from hqq 0.2.8's core/bitpack.py, the formula (core/quantize.py,
Quantizer.dequantize) in torch; a hand-checked layer stands as literals.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from group_packing import NAME, Tensors, assert_decoded, int32, outputs_of, packed_and_plain, replaced, write_packed
from packed_checkpoints import unpacked

from convert.errors import CheckpointError, ConfigError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

# nbits: the packing's name, codes in an item, bits between them, and the item's type (hqq 0.2.8, core/bitpack.py)
PACKINGS: Final = {
    8: ("8bit_u8", 1, 8, torch.uint8),
    6: ("8bit_u8", 1, 8, torch.uint8),
    5: ("8bit_u8", 1, 8, torch.uint8),
    4: ("4bit_u8", 2, 4, torch.uint8),
    3: ("3bit_32", 10, 3, torch.int32),
    2: ("2bit_u8", 4, 2, torch.uint8),
    1: ("1bit_u8", 8, 1, torch.uint8),
}


def letters(text: str) -> torch.Tensor:
    """Encode a name as hqq does for safetensors."""
    return torch.tensor([ord(letter) for letter in text], dtype=torch.uint8)


def pack_parts(codes: torch.Tensor, nbits: int) -> torch.Tensor:
    """Pack a matrix of groups: an item holds the codes that stand a part's rows apart, the first highest."""
    _, n_parts, bits, dtype = PACKINGS[nbits]
    n_rows = -(-len(codes) // n_parts)
    padded = [*codes.tolist(), *[[0] * codes.shape[1]] * (n_rows * n_parts - len(codes))]
    items = [
        [
            sum(padded[part * n_rows + row][col] << (bits * (n_parts - 1 - part)) for part in range(n_parts))
            for col in cols
        ]
        for row in range(n_rows)
        for cols in [range(codes.shape[1])]
    ]
    return torch.tensor(items, dtype=dtype)


def hqq_module(
    shape: tuple[int, int],
    *,
    nbits: int = 4,
    group_size: int = 16,
    axis: int = 1,
    dtype: torch.dtype = torch.float16,
    name: str = NAME,
) -> tuple[Tensors, torch.Tensor]:
    """Make a random layer as `HQQLinear.state_dict` gives it to safetensors, and what it dequantizes to."""
    random = torch.Generator().manual_seed(nbits)
    n_groups = shape[0] * shape[1] // group_size
    grouped, per_group = (
        ((n_groups, group_size), (n_groups, 1)) if axis == 1 else ((group_size, n_groups), (1, n_groups))
    )
    codes = torch.randint(0, 1 << nbits, grouped, generator=random)
    scale = (torch.rand(per_group, generator=random) * 0.01 + 1e-3).to(dtype)
    zero = (torch.rand(per_group, generator=random) * (1 << nbits)).to(dtype)
    expected = ((codes.to(dtype) - zero) * scale).reshape(shape)
    flag = {on: torch.tensor(int(on), dtype=torch.uint8) for on in (False, True)}
    parts = {
        "W_q": pack_parts(codes, nbits),
        "scale": scale,
        "zero": zero,
        "shape": torch.tensor(shape),
        "nbits": torch.tensor(nbits, dtype=torch.int32),
        "group_size": torch.tensor(group_size, dtype=torch.int32),
        "axis": torch.tensor(axis, dtype=torch.int32),
        "packing": letters(PACKINGS[nbits][0]),
        "unpack_view_dtype": letters(str(PACKINGS[nbits][3])),
        "compute_dtype": letters(str(dtype)),
        "view_as_float": flag[False],
        "quant_scale": flag[False],
        "quant_zero": flag[False],
        "offload_meta": flag[False],
        "encoded_state_dict": flag[True],
        "stores_quant_config": flag[True],
        "channel_wise": flag[True],
        "optimize": flag[True],
        "round_zero": flag[True],
    }
    return {f"{name}.{part}": tensor for part, tensor in parts.items()}, expected


def hqq(nbits: int = 4, group_size: int | None = 16, axis: int = 1) -> dict[str, Any]:
    """Return a quantization section as transformers writes it."""
    params = {"nbits": nbits, "group_size": group_size, "axis": axis, "channel_wise": True, "view_as_float": False}
    layer = {
        "weight_quant_params": params,
        "scale_quant_params": None,
        "zero_quant_params": None,
        "offload_meta": False,
    }
    return {"quant_method": "hqq", "quant_config": layer, "skip_modules": ["lm_head"]}


def test_hqq_by_hand(tmp_path: Path) -> None:
    """Two rows of two groups: the first two groups are the high halves of the bytes, the last two the low halves."""
    tensors, _ = hqq_module((2, 4), group_size=2)
    tensors[f"{NAME}.W_q"] = torch.tensor([[0x15, 0x26], [0x37, 0x48]], dtype=torch.uint8)
    tensors[f"{NAME}.zero"] = torch.tensor([[0], [0.5], [5], [0]]).half()
    tensors[f"{NAME}.scale"] = torch.tensor([[1], [2], [1], [0.5]]).half()
    assert_decoded(tmp_path, tensors, hqq(4, 2), torch.tensor([[1, 2, 5, 7], [0, 1, 3.5, 4]]).half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("nbits", PACKINGS)
def test_hqq_bits_axes_and_types(tmp_path: Path, nbits: int, axis: int, dtype: torch.dtype) -> None:
    tensors, expected = hqq_module((24, 32), nbits=nbits, axis=axis, dtype=dtype)
    assert_decoded(tmp_path, tensors, hqq(nbits, 16, axis), expected)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("shape", "group_size"),
    [((64, 64), 64), ((16, 24), 64), ((40, 8), 8), ((8, 96), 96), ((96, 8), 96), ((128, 3), 16), ((4, 16), 64)],
    ids=str,
)
def test_hqq_groups_that_are_no_part_of_a_row(
    tmp_path: Path, shape: tuple[int, int], group_size: int, axis: int
) -> None:
    nbits = 8 if (shape, axis) == ((4, 16), 1) else 4  # one group is one row, which cannot be halved
    tensors, expected = hqq_module(shape, nbits=nbits, group_size=group_size, axis=axis)
    assert_decoded(tmp_path, tensors, hqq(nbits, group_size, axis), expected)


def test_hqq_viewed_as_floats(tmp_path: Path) -> None:
    tensors, expected = hqq_module((24, 32))
    tensors[f"{NAME}.W_q"] = tensors[f"{NAME}.W_q"].view(torch.float16)
    tensors[f"{NAME}.view_as_float"] = torch.tensor(1, dtype=torch.uint8)
    assert_decoded(tmp_path, tensors, hqq(), expected)


def test_hqq_scales_are_rounded_to_the_compute_type(tmp_path: Path) -> None:
    """HQQLinear.cuda, which every load ends with, casts them before anything is computed."""
    tensors, _ = hqq_module((24, 32))
    for part in ("scale", "zero"):
        tensors[f"{NAME}.{part}"] = torch.rand(48, 1) + 0.1
    scale, zero = (tensors[f"{NAME}.{part}"].half() for part in ("scale", "zero"))
    raw = tensors[f"{NAME}.W_q"]
    codes = torch.cat([raw >> 4, raw & 15])
    assert_decoded(tmp_path, tensors, hqq(), ((codes.half() - zero) * scale).reshape(24, 32))


def test_hqq_layers_of_their_own(tmp_path: Path) -> None:
    tensors, expected = hqq_module((24, 32), nbits=8)
    by_layer = {"self_attn.k_proj": hqq()["quant_config"], "self_attn.q_proj": hqq(8, None)["quant_config"]}
    assert_decoded(tmp_path, tensors, {**hqq(), "quant_config": by_layer}, expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_files_are_those_of_hqqs_dequantized_checkpoint(tmp_path: Path, axis: int) -> None:
    def packed(name: str, shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
        return hqq_module(shape, axis=axis, name=name)

    ours, plain = packed_and_plain(tmp_path, hqq(axis=axis), packed)
    assert outputs_of(ours, tmp_path / "a") == outputs_of(plain, tmp_path / "b")


HQQ_HOSTILE: Final = {
    "no-codes": (replaced("W_q", None), CheckpointError, f"has no `{NAME}.W_q` that it belongs to"),
    "no-scale": (replaced("scale", None), CheckpointError, "has no `scale`, only"),
    "no-shape": (replaced("shape", None), CheckpointError, "has no `shape`, only"),
    "codes-cut": (
        replaced("W_q", torch.zeros(23, 16, dtype=torch.uint8)),
        CheckpointError,
        "has 368 bytes, a weight of",
    ),
    "codes-int32": (replaced("W_q", int32(0).repeat(6, 16)), CheckpointError, "type I32, wanted U8"),
    "scale-long": (replaced("scale", torch.ones(49, 1)), CheckpointError, "has shape (49, 1), 4 bits, groups of 16"),
    "scale-across": (replaced("scale", torch.ones(1, 48)), CheckpointError, "want (48, 1)"),
    "zero-ints": (replaced("zero", int32(0).repeat(48, 1)), CheckpointError, "type I32, wanted F16 or BF16 or F32"),
    "shape-cube": (replaced("shape", torch.tensor([2, 12, 32])), CheckpointError, "has shape [2, 12, 32] in groups"),
    "shape-negative": (replaced("shape", torch.tensor([-24, -32])), CheckpointError, "has shape [-24, -32] in groups"),
    "shape-huge": (replaced("shape", torch.tensor([1 << 62, 1 << 62])), CheckpointError, "has 384 bytes, a weight of"),
    "shape-other": (replaced("shape", torch.tensor([32, 32])), CheckpointError, "has 384 bytes, a weight of"),
    "group-size-0": (replaced("group_size", int32(0)), CheckpointError, "in groups of 0"),
    "group-size-negative": (replaced("group_size", int32(-16)), CheckpointError, "in groups of -16"),
    "group-size-no-divisor": (replaced("group_size", int32(7)), CheckpointError, "in groups of 7"),
    "group-size-many": (replaced("group_size", int32(16).repeat(2)), CheckpointError, "wanted a single number"),
    "another-group-size": (replaced("group_size", int32(32)), CheckpointError, "its tensors say 4 bits, groups of 32"),
    "half-a-part": (replaced("group_size", int32(768)), CheckpointError, "its tensors say 4 bits, groups of 768"),
    "axis-2": (replaced("axis", int32(2)), UnsupportedError, "4 bits along axis 2"),
    "bits-huge": (replaced("nbits", int32(2**31 - 1)), UnsupportedError, "has 2147483647 bits"),
    "bits-not-the-packing": (
        replaced("nbits", int32(8)),
        UnsupportedError,
        "has 8 bits along axis 1, packed as `4bit_u8`",
    ),
    "packing-unknown": (replaced("packing", letters("9bit_u8")), UnsupportedError, "packed as `9bit_u8`"),
    "packing-endless": (replaced("packing", letters("9" * 65)), CheckpointError, "has 65 letters, at most 64"),
    "compute-type": (replaced("compute_dtype", letters("exit()")), UnsupportedError, "for `exit()`"),
    "quantized-scales": (replaced("quant_scale", int32(1)), UnsupportedError, "has `quant_scale`, which"),
    "offloaded": (replaced("offload_meta", int32(1)), UnsupportedError, "has `offload_meta`, which"),
}


@pytest.mark.parametrize("row", HQQ_HOSTILE)
def test_what_is_wrong_with_hqq_is_an_error_that_names_it(tmp_path: Path, row: str) -> None:
    change, error, message = HQQ_HOSTILE[row]
    tensors, _ = hqq_module((24, 32))
    change(tensors)
    with pytest.raises(error, match=re.escape(message)):
        unpacked(write_packed(tmp_path, tensors, hqq()))


def test_hqq_rows_that_cannot_be_halved(tmp_path: Path) -> None:
    tensors, _ = hqq_module((3, 16))
    with pytest.raises(CheckpointError, match="in 2 parts of whole rows"):
        unpacked(write_packed(tmp_path, tensors, hqq()))


@pytest.mark.parametrize(
    ("quant_config", "message"),
    [
        ([], "wanted an object"),
        ({"self_attn.q_proj": 4}, "wanted an object"),
        ({"weight_quant_params": 4}, "wanted an object"),
        ({"weight_quant_params": {"nbits": "4"}}, "wanted an integer"),
    ],
)
def test_an_hqq_config_of_the_wrong_type(tmp_path: Path, quant_config: object, message: str) -> None:
    tensors, _ = hqq_module((24, 32))
    with pytest.raises(ConfigError, match=message):
        unpacked(write_packed(tmp_path, tensors, {**hqq(), "quant_config": quant_config}))


def test_an_hqq_config_that_says_other_bits(tmp_path: Path) -> None:
    tensors, _ = hqq_module((24, 32))
    with pytest.raises(CheckpointError, match=r"says 8 bits, groups of 16 along axis 1, its tensors say 4 bits"):
        unpacked(write_packed(tmp_path, tensors, hqq(8)))


def test_hqq_without_a_config(tmp_path: Path) -> None:
    tensors, _ = hqq_module((24, 32))
    with pytest.raises(CheckpointError, match=r"declares no quantization, but .*W_q` is HQQ's"):
        unpacked(write_packed(tmp_path, tensors, None))
