"""Weights packed in four bits: every kernel level gives what the definition and bitsandbytes do, wherever it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from convert.codec import CODECS, FLOAT_TYPES, available_levels, compiled, decode_4bit
from convert.errors import ShapeError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RNG: Final = np.random.default_rng(20261122)
CODE: Final = np.sort(RNG.standard_normal(16)).astype(np.float32)
N_VALUES: Final = 4096
PACKED: Final = RNG.integers(0, 256, N_VALUES // 2, np.uint8)


@pytest.fixture(params=available_levels())
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every instruction-set level this machine has, and NumPy, one after the other."""
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, request.param)
    return str(request.param)


def decode(
    absmax: NDArray[np.float32], *, block_size: int, first: int, n_values: int, tensor_type: GGMLQuantizationType
) -> NDArray[np.uint8]:
    out = np.full(n_values * CODECS[tensor_type].type_size, 0xAA, np.uint8)
    decode_4bit(
        PACKED[first // 2 :],
        CODE,
        absmax[first // block_size :],
        block_size=block_size,
        first=first,
        tensor_type=tensor_type,
        out=out,
    )
    return out


def one_by_one(
    absmax: NDArray[np.float32], *, block_size: int, first: int, n_values: int, tensor_type: GGMLQuantizationType
) -> NDArray[np.uint8]:
    """Follow the definition, a weight at a time."""
    values = []
    for position in range(first, first + n_values):
        byte = int(PACKED[position // 2])
        nibble = byte >> 4 if position % 2 == 0 else byte & 15
        values.append(CODE[nibble] * absmax[position // block_size])
    return CODECS[tensor_type].encode(np.array(values, np.float32).reshape(1, -1)).reshape(-1)


@pytest.mark.usefixtures("level")
def test_a_byte_holds_the_first_weight_in_its_high_nibble_and_a_block_is_scaled_as_one() -> None:
    out = np.empty(6 * 4, np.uint8)
    decode_4bit(
        np.array([0x1F, 0xA0, 0x8C], np.uint8),
        np.arange(16, dtype=np.float32) / np.float32(16),
        np.array([2, 32], np.float32),
        block_size=4,
        first=0,
        tensor_type=GGMLQuantizationType.F32,
        out=out,
    )
    assert out.view(np.float32).tolist() == [0.125, 1.875, 1.25, 0.0, 16.0, 24.0]


@pytest.mark.parametrize("tensor_type", FLOAT_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    ("block_size", "first", "n_values"),
    [
        (64, 0, 4096),
        (64, 1, 777),
        (64, 63, 66),
        (64, 130, 32),
        (32, 33, 1000),
        (4096, 5, 4000),
        (7, 11, 500),
        (1, 3, 9),
    ],
)
@pytest.mark.usefixtures("level")
def test_any_stretch_of_weights_is_what_the_definition_says(
    block_size: int, first: int, n_values: int, tensor_type: GGMLQuantizationType
) -> None:
    magnitudes = np.float32(10) ** RNG.integers(-9, 4, -(-N_VALUES // block_size)).astype(np.float32)
    absmax = magnitudes * RNG.standard_normal(len(magnitudes)).astype(np.float32)
    what = {"block_size": block_size, "first": first, "n_values": n_values}
    found = decode(absmax, tensor_type=tensor_type, **what)
    assert np.array_equal(found, one_by_one(absmax, tensor_type=tensor_type, **what))


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("tensor_type", FLOAT_TYPES, ids=lambda kind: kind.name)
@pytest.mark.usefixtures("level")
def test_bitsandbytes_gives_the_same(quant_type: str, tensor_type: GGMLQuantizationType) -> None:
    import torch
    from bitsandbytes import functional

    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[tensor_type.name]
    weight = torch.from_numpy(RNG.standard_normal((32, 256)).astype(np.float32)).to(dtype)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type=quant_type)
    out = np.empty(weight.numel() * dtype.itemsize, np.uint8)
    decode_4bit(
        packed.numpy().reshape(-1),
        state.code.numpy(),
        state.absmax.numpy(),
        block_size=64,
        first=0,
        tensor_type=tensor_type,
        out=out,
    )
    wanted = functional.dequantize_4bit(packed, state).contiguous().view(torch.uint8).numpy().reshape(-1)
    assert np.array_equal(out, wanted)


def test_buffers_that_are_too_short_are_refused() -> None:
    what: dict[str, Any] = {"block_size": 64, "first": 0, "tensor_type": GGMLQuantizationType.F16}
    out = np.empty(128 * 2, np.uint8)
    with pytest.raises(ShapeError, match="63 packed bytes and 2 scales, wanted 64 and 2"):
        decode_4bit(PACKED[:63], CODE, np.ones(2, np.float32), out=out, **what)
    with pytest.raises(ShapeError, match="64 packed bytes and 1 scales, wanted 64 and 2"):
        decode_4bit(PACKED[:64], CODE, np.ones(1, np.float32), out=out, **what)
    with pytest.raises(ShapeError, match="16 numbers"):
        decode_4bit(PACKED[:64], CODE[:8], np.ones(2, np.float32), out=out, **what)


def test_a_type_that_is_no_float_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="not Q4_0"):
        decode_4bit(
            PACKED,
            CODE,
            np.ones(64, np.float32),
            block_size=64,
            first=0,
            tensor_type=GGMLQuantizationType.Q4_0,
            out=np.empty(18, np.uint8),
        )
