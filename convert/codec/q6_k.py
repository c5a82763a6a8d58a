"""Q6_K in NumPy: super-blocks of 256 weights, as 16 sub-blocks of 16, in 210 bytes.

     ┌ ql 128 ───────┬ qh 64 ─────────┬ scales 16 int8 ──┬ d f16 ┐     weight = d * scales[j] * (q - 32)
     │ low four bits │ high two bits  │ one a sub-block  │       │     q in 0..63

Each sub-block's scale is searched: 19 candidates, judged by sums over its 16 weights. The sums run in order and every
product is rounded before it is added, so each step below is vectorized over sub-blocks and never over weights.

Source: ggml-quants.c, make_qx_quants (nmax 32, rmse_type 1) and quantize_row_q6_K_ref @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array

_N_SUB: Final = 16
_TINY: Final = np.float32(1e-15)  # GROUP_MAX_EPS
_ROUNDER: Final = np.float32(12582912)  # 1.5 * 2^23: adding it leaves the nearest integer in the last bits
_STEPS: Final = tuple(step for step in range(-9, 10) if step != 0)


def _nearest(values: F32Array) -> NDArray[np.int32]:
    """Nearest integer, ties to even, by ggml's bits: NaN gives 0, what exceeds 22 bits wraps."""
    bits = (values + _ROUNDER).view(np.int32)
    nearest: NDArray[np.int32] = (bits & 0x007FFFFF) - 0x00400000
    return nearest


def _quants(weights: F32Array, inverse: F32Array) -> F32Array:
    return np.clip(_nearest(weights * inverse), -32, 31).astype(np.float32)


def _judge(weights: F32Array, inverse: F32Array) -> tuple[F32Array, F32Array]:
    """Sum w * x * q and w * q * q, with w = x * x, over each sub-block's weights, in order."""
    weighted, squares = np.zeros(len(weights), np.float32), np.zeros(len(weights), np.float32)
    for x in weights.T:
        w, q = x * x, _quants(x, inverse)
        weighted += w * x * q
        squares += w * q * q
    return weighted, squares


def _search(weights: F32Array) -> tuple[F32Array, F32Array]:
    """Best scale of each sub-block, and the inverse its quants were rounded with; both 0 where all is (almost) 0.

    weights: float32 (n, 16).
    """
    peak = np.take_along_axis(weights, np.abs(weights).argmax(axis=1, keepdims=True), axis=1)[:, 0]
    best_inverse = np.float32(-32) / peak
    weighted, squares = _judge(weights, best_inverse)
    scale = np.where(squares != 0, weighted / squares, np.float32(0))
    merit = scale * weighted
    for step in _STEPS:
        inverse = -(np.float32(32) + np.float32(0.1) * np.float32(step)) / peak
        weighted, squares = _judge(weights, inverse)
        better = (squares > 0) & (weighted * weighted > merit * squares)
        scale = np.where(better, weighted / squares, scale)
        merit = np.where(better, scale * weighted, merit)
        best_inverse = np.where(better, inverse, best_inverse)
    zero = np.abs(peak) < _TINY
    return np.where(zero, np.float32(0), scale), np.where(zero, np.float32(0), best_inverse)


def _largest(scales: F32Array) -> F32Array:
    """Scale of largest magnitude in each super-block, the first of equals; NaN counts as 0."""
    known = np.where(np.isnan(scales), np.float32(0), scales)
    return np.take_along_axis(known, np.abs(known).argmax(axis=1, keepdims=True), axis=1)


def _requantize(weights: F32Array, divisor: F32Array, inverse: F32Array) -> U8Array:
    """Quants 0..63 of (n, 16, 16) weights: by the stored scale, or by the search's inverse where that scale is 0."""
    by_scale = _nearest(weights / divisor)
    by_search = _nearest(weights * inverse)
    q = np.clip(np.where(divisor != 0, by_scale, by_search), -32, 31) + 32
    # Parity: a sub-block of zeros keeps quants 0, not 32.
    return np.where((divisor == 0) & (inverse == 0), 0, q).astype(np.uint8)


def _pack(q: U8Array) -> tuple[U8Array, U8Array]:
    """Low and high bits of (n, 256) quants; each half of 128 is four runs of 32: a, b, c, d.

    ql: 32 bytes a | c << 4, 32 bytes b | d << 4.   qh: 32 bytes a | b << 2 | c << 4 | d << 6.
    """
    runs = q.reshape(-1, 2, 4, 32)
    low, high = runs & 15, runs >> 4
    ql = low[:, :, :2] | low[:, :, 2:] << 4
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return ql.reshape(-1, 128).astype(np.uint8), qh.reshape(-1, 64).astype(np.uint8)


def encode_super_blocks(blocks: F32Array) -> U8Array:
    """Quantize super-blocks to Q6_K.

    blocks: float32 (n, 256).
    Returns uint8 (n, 210).
    Rounds to nearest, ties to even; a super-block whose scales are all below 1e-15 is 210 zero bytes.
    """
    weights = blocks.reshape(-1, _N_SUB, 16)
    scales, inverses = (found.reshape(-1, _N_SUB) for found in _search(blocks.reshape(-1, 16)))
    largest = _largest(scales)
    inverse = np.float32(-128) / largest
    d = (np.float32(1) / inverse).astype("<f2")
    stored = np.minimum(_nearest(inverse * scales), 127).astype(np.int8)
    divisor = d.astype(np.float32) * stored
    q = _requantize(weights, divisor[..., np.newaxis], inverses[..., np.newaxis])
    ql, qh = _pack(q.reshape(-1, 256))
    encoded = np.concatenate([ql, qh, stored.view(np.uint8), d.view(np.uint8)], axis=1)
    return np.where(np.abs(largest) < _TINY, np.uint8(0), encoded)
