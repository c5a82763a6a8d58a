"""Floats as packed checkpoints store them: rounded and widened as torch and gguf do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from convert.checkpoint import StoredType
from convert.checkpoint.packed.values import as_float32, rounded, to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from convert.codec.contract import F32Array

TYPES = {
    StoredType.F32: GGMLQuantizationType.F32,
    StoredType.F16: GGMLQuantizationType.F16,
    StoredType.BF16: GGMLQuantizationType.BF16,
}
# Ties, the largest numbers and what rounds beyond them, denormals, infinities, NaNs that are quiet and not.
HARD = (
    0,
    1,
    0x7FFF,
    0x8000,
    0x18000,
    0x3F808000,
    0x3F818000,
    0x7F7F7FFF,
    0x7F7F8000,
    0x7F800000,
    0x7F800001,
    0x7FC00000,
)


@pytest.fixture(scope="module")
def values() -> F32Array:
    """Return float32 (2, n) of any bits, as many as a slice's piece has."""
    some = np.random.default_rng(3).integers(0, 1 << 32, (2, 1 << 15), dtype=np.uint32)
    some[0, : len(HARD)] = HARD
    some[1, : len(HARD)] = np.array(HARD, np.uint32) | np.uint32(1 << 31)
    return some.view(np.float32)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.value)
def test_bytes_are_gguf_s(dtype: StoredType, values: F32Array) -> None:
    with np.errstate(over="ignore"):
        encoded = quants.quantize(values, TYPES[dtype]).view(np.uint8)
    np.testing.assert_array_equal(to_bytes(values, dtype), encoded)
    widened = quants.dequantize(encoded, TYPES[dtype])
    np.testing.assert_array_equal(as_float32(encoded, dtype).view(np.uint32), widened.view(np.uint32))


@pytest.mark.parametrize("count", [1000, None], ids=["few", "many"])
@pytest.mark.parametrize("are_kept", [np.isfinite, lambda numbers: ~np.isnan(numbers)], ids=["finite", "infinities"])
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.value)
def test_numbers_are_rounded_as_torch_rounds(
    dtype: StoredType, are_kept: Callable[[F32Array], NDArray[np.bool_]], count: int | None, values: F32Array
) -> None:
    import torch

    torch_dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype.value]
    numbers = values[are_kept(values)][:count]
    expected = torch.from_numpy(numbers.copy()).to(torch_dtype).float().numpy()
    np.testing.assert_array_equal(rounded(numbers, dtype).view(np.uint32), expected.view(np.uint32))
