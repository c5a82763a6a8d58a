"""Values as scale * q, q in 0..highest: the scales of a super-block, or its minimums.

Source: ggml-quants.c, make_qp_quants @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convert.codec.arithmetic import TINY, nearest, ordered_sum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array


def round_positive(values: F32Array, highest: int) -> tuple[NDArray[np.int32], F32Array]:
    """Quants of values, and their scale, by which the largest becomes `highest`: no search.

    values: (n, size). Returns int32 (n, size), neither limited nor made a byte, and float32 (n, 1).
    """
    largest = np.maximum(values.max(axis=1, keepdims=True), np.float32(0))
    largest = np.where(largest > 0, largest, np.float32(0))  # Parity: of two zeros, +0
    inverse = np.where(largest > 0, np.float32(highest) / largest, np.float32(0))
    return nearest(inverse * values), largest / np.float32(highest)


def fit_positive(x: F32Array, w: F32Array, highest: int) -> tuple[U8Array, F32Array]:
    """Find a scale for values of which none is much below zero: x is nearly scale * q.

    x, w: (n, size): values, and what an error in each counts. Returns uint8 (n, size) quants and float32 (n, 1).
    Parity: quants are kept as a byte, without a lower limit; the sums are of what they were before.
    """
    peak = np.maximum(x.max(axis=1, keepdims=True), np.float32(0))
    capped = np.minimum(nearest(_choose_inverse(x, w, peak, highest) * x), highest)
    sums = _Sums(ordered_sum(w * x * capped.astype(np.float32)), ordered_sum(_squares(w, capped.astype(np.float32))))
    q, live = capped.astype(np.uint8), ~(peak < TINY)
    q[~live[:, 0]] = 0
    moving = live
    for _ in range(5):
        moving = _improve(x, w, q, sums, moving, highest)
    return q, np.where(live & (sums.of_qq > 0), sums.of_qx / sums.of_qq, np.float32(0))


@dataclass(slots=True)
class _Sums:
    """Weighted sums of the quants so far, each (n, 1)."""

    of_qx: F32Array
    of_qq: F32Array


def _squares(w: F32Array, q: F32Array) -> F32Array:
    squares: F32Array = w * q * q
    return squares


def _choose_inverse(x: F32Array, w: F32Array, peak: F32Array, highest: int) -> F32Array:
    """Of nine inverses, the one that leaves the least error; the first one's quants are not capped."""
    best: F32Array = np.float32(highest) / peak
    least = ordered_sum(_squares(w, x - np.float32(1) / best * nearest(best * x).astype(np.uint8).astype(np.float32)))
    for step in (-4, -3, -2, -1, 1, 2, 3, 4):
        inverse = (np.float32(0.1) * np.float32(step) + np.float32(highest)) / peak
        capped = np.minimum(nearest(inverse * x), highest).astype(np.float32)
        error = ordered_sum(_squares(w, x - np.float32(1) / inverse * capped))
        best, least = np.where(error < least, inverse, best), np.where(error < least, error, least)
    return best


def _improve(
    x: F32Array, w: F32Array, q: U8Array, sums: _Sums, moving: NDArray[np.bool_], highest: int
) -> NDArray[np.bool_]:
    """One round over the values, in place: each takes the quant that is best given the others. Returns who changed."""
    changed = np.zeros_like(moving)
    for i in range(x.shape[1]):
        column = slice(i, i + 1)
        xi, wi, old = x[:, column], w[:, column], q[:, column].astype(np.float32)
        rest_x, rest_q = sums.of_qx - wi * xi * old, sums.of_qq - _squares(wi, old)
        ratio: F32Array = np.divide(xi * rest_q, rest_x, dtype=np.float32)
        wanted = np.minimum(nearest(ratio), highest)
        new = wanted.astype(np.float32)
        with_x, with_q = rest_x + wi * xi * new, rest_q + _squares(wi, new)
        better = moving & (rest_x > 0) & (rest_q > 0) & (new != old)
        better &= with_x * with_x * sums.of_qq > sums.of_qx * sums.of_qx * with_q
        q[:, column] = np.where(better, wanted.astype(np.uint8), q[:, column])
        sums.of_qx, sums.of_qq = np.where(better, with_x, sums.of_qx), np.where(better, with_q, sums.of_qq)
        changed |= better
    return changed
