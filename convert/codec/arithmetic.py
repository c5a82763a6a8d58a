"""ggml's arithmetic where NumPy's differs: rounding by bits, sums in order, the bytes of a float16."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array

SUPER_BLOCK: Final = 256
_ROUNDER: Final = np.float32(12582912)  # 1.5 * 2^23: adding it leaves the nearest integer in the last bits


def nearest_int(values: F32Array) -> NDArray[np.int32]:
    """Nearest integer, ties to even, by the bits: NaN gives 0, what exceeds 22 bits wraps. ggml's nearest_int."""
    bits = (values + _ROUNDER).view(np.int32)
    nearest: NDArray[np.int32] = (bits & 0x007FFFFF) - 0x00400000
    return nearest


def sum_in_order(values: F32Array) -> F32Array:
    """Sum over the last axis, from +0 on, one addition after the other, each rounded."""
    total: F32Array = np.add.accumulate(values, axis=-1, dtype=np.float32)[..., -1] + np.float32(0)
    return total


def f16_bytes(values: F32Array) -> U8Array:
    """Give uint8 (n, 2): float32 (n,) as float16, little endian."""
    return values.astype("<f2").reshape(-1, 1).view(np.uint8)


def inverse_or_zero(values: F32Array) -> F32Array:
    """1 / x, and 0 of 0."""
    inverse: F32Array = np.where(values != 0, np.float32(1) / values, np.float32(0))
    return inverse


def weigh_by_importance(blocks: F32Array, importance: F32Array, sigma2: F32Array) -> F32Array:
    """Give importance * sqrt(sigma2 + x * x): how much an error in each weight counts. sigma2: (n, 1)."""
    counts: F32Array = importance * np.sqrt(sigma2 + blocks * blocks)
    return counts


def twice_mean_square(super_blocks: F32Array) -> F32Array:
    """Give float32 (n, 1), of float32 (n, 256)."""
    twice: F32Array = np.float32(2) * sum_in_order(super_blocks * super_blocks)[:, np.newaxis] / np.float32(SUPER_BLOCK)
    return twice


def stored_steps(scales: F32Array, d: F32Array, highest: int) -> NDArray[np.int32]:
    """Give the steps 0..highest of scales that are stored as d * (2 * step + 1). scales: (n, m), d: (n, 1)."""
    steps: NDArray[np.int32] = nearest_int(np.float32(0.5) * ((np.float32(1) / d) * scales - np.float32(1)))
    return np.clip(steps, 0, highest)
