"""Weights as scale * q, q in -limit..limit - 1: the search for the scale of a block.

19 candidates divide the peak by something near -limit; each is judged by weighted sums over the block's weights.

Source: ggml-quants.c, make_qx_quants (rmse_type 1) @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from convert.codec.arithmetic import TINY, ordered_sum, peak, quants

if TYPE_CHECKING:
    from convert.codec.contract import F32Array, U8Array

_STEPS: Final = tuple(step for step in range(-9, 10) if step != 0)


def search_symmetric(x: F32Array, w: F32Array, limit: int) -> tuple[F32Array, F32Array]:
    """Give the best scale of each block, and the inverse its quants were rounded with; both 0 where all is almost 0.

    x, w: float32 (n, size): weights, and what an error in each counts. Returns two of (n, 1).
    """
    top = peak(x)
    best_inverse: F32Array = np.float32(-limit) / top
    weighted, squares = _judge(x, w, best_inverse, limit)
    scale = np.where(squares != 0, weighted / squares, np.float32(0))
    merit = scale * weighted
    for step in _STEPS:
        inverse = -(np.float32(limit) + np.float32(0.1) * np.float32(step)) / top
        weighted, squares = _judge(x, w, inverse, limit)
        better = (squares > 0) & (weighted * weighted > merit * squares)
        scale = np.where(better, weighted / squares, scale)
        merit = np.where(better, scale * weighted, merit)
        best_inverse = np.where(better, inverse, best_inverse)
    zero = np.abs(top) < TINY
    return np.where(zero, np.float32(0), scale), np.where(zero, np.float32(0), best_inverse)


def _judge(x: F32Array, w: F32Array, inverse: F32Array, limit: int) -> tuple[F32Array, F32Array]:
    """Sum w * x * q and w * q * q over each block."""
    q = quants(x * inverse, -limit, limit - 1)
    return ordered_sum(w * x * q), ordered_sum(w * q * q)


def quants_of_search(x: F32Array, inverse: F32Array, limit: int) -> U8Array:
    """Give the quants, 0..2 * limit - 1, that a search found. Parity: a block of zeros has quants 0, not limit."""
    empty = np.abs(peak(x)) < TINY
    return np.where(empty, 0, quants(x * inverse, -limit, limit - 1) + limit).astype(np.uint8)


def final_quants(x: F32Array, inverse: F32Array, divisor: F32Array, limit: int) -> U8Array:
    """Quants of blocks that decode as divisor * (q - limit); where divisor came out as 0, those that the search found.

    x: (n, size). inverse, divisor: (n, 1).
    """
    by_divisor = quants(x / divisor, -limit, limit - 1) + limit
    return np.where(divisor != 0, by_divisor.astype(np.uint8), quants_of_search(x, inverse, limit))
