"""ggml's arithmetic as NumPy must be told it: sums in order, integers by the bits of a float, weights by importance.

Every operation is one float32 operation, so the definitions of blocks that are made of these give ggml's bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array

TINY: Final = np.float32(1e-15)  # GROUP_MAX_EPS: what is below counts as nothing
_ROUNDER: Final = np.float32(12582912)  # 1.5 * 2^23: adding it leaves the nearest integer in the last bits


def nearest(values: F32Array) -> NDArray[np.int32]:
    """Nearest integer, ties to even, by ggml's bits: NaN gives 0, what exceeds 22 bits wraps."""
    bits = (values + _ROUNDER).view(np.int32)
    whole: NDArray[np.int32] = (bits & 0x007FFFFF) - 0x00400000
    return whole


def quants(values: F32Array, lowest: int, highest: int) -> F32Array:
    """Nearest integers within limits, as floats."""
    return np.clip(nearest(values), lowest, highest).astype(np.float32)


def ordered_sum(terms: F32Array) -> F32Array:
    """Sum along the last axis, which is kept: term after term, beginning at +0."""
    sums: F32Array = terms.cumsum(axis=-1, dtype=np.float32)[..., -1:] + np.float32(0)
    return sums


def peak(values: F32Array) -> F32Array:
    """Of the last axis, which is kept, the first value of largest magnitude, with its sign; NaN counts as 0."""
    known = np.where(np.isnan(values), np.float32(0), values)
    return np.take_along_axis(known, np.abs(known).argmax(axis=-1, keepdims=True), axis=-1)


def weigh(x: F32Array, importance: F32Array, sigma2: F32Array) -> F32Array:
    """Say what an error in each weight counts: importance * sqrt(sigma2 + x * x)."""
    weights: F32Array = importance * np.sqrt(sigma2 + x * x)
    return weights


def f16_bytes(values: F32Array) -> U8Array:
    """Float16, rounded to nearest, ties to even; little endian."""
    return values.astype("<f2").view(np.uint8)


def through_f16(values: F32Array) -> F32Array:
    """Round to float16 and back."""
    return values.astype(np.float16).astype(np.float32)


def nibbles(quants_of_block: U8Array) -> U8Array:
    """Byte j: the low four bits of quant j, then those of quant j + 16."""
    halves = quants_of_block.reshape(-1, 2, 16) & 15
    return (halves[:, 0] | halves[:, 1] << 4).astype(np.uint8)


def fifth_bits(quants_of_block: U8Array) -> U8Array:
    """Bit j of 32: bit 4 of quant j."""
    return np.packbits(quants_of_block >> 4, axis=1, bitorder="little")


def inverse_or_zero(values: F32Array) -> F32Array:
    """Give 1 / x, and 0 of 0."""
    inverse: F32Array = np.where(values != 0, np.float32(1) / values, np.float32(0))
    return inverse


def twice_mean_square(super_blocks: F32Array) -> F32Array:
    """Give float32 (n, 1), of float32 (n, 256)."""
    twice: F32Array = np.float32(2) * ordered_sum(super_blocks * super_blocks) / np.float32(256)
    return twice


def odd_steps(scales: F32Array, d: F32Array, highest: int) -> NDArray[np.int32]:
    """Give the steps 0..highest of scales that are stored as d * (2 * step + 1). scales: (n, m), d: (n, 1)."""
    return np.clip(nearest(np.float32(0.5) * ((np.float32(1) / d) * scales - np.float32(1))), 0, highest)
