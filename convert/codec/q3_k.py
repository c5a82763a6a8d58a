"""Q3_K: super-blocks of 256 weights in 16 sub-blocks of 16, each with a scale of six bits; 110 bytes.

    byte 0                   32                    96                     108
         │ 32: high bits     │ 64: low two bits    │ 12: scales, low four │ d  │
         │ bit h of byte i:  │ see pack_two_bits   │ bits, then high two; │ f2 │   w = d * (scale - 32) * (q - 4)
         │ weight 32 * h + i │ of q2_k             │ see _pack_scales     │    │

Without importance, quants are improved one after the other, an error counting x * x, and the scale of largest
magnitude becomes -32. With, an error counts importance * sqrt(2 * mean square + x * x), and the scales are searched as
weights are.

Source: ggml-quants.c, make_q3_quants, quantize_row_q3_K_ref and _impl @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from convert.codec.arithmetic import TINY, f16_bytes, nearest, ordered_sum, peak, quants, through_f16, weigh
from convert.codec.q2_k import pack_two_bits
from convert.codec.symmetric import quants_of_search, search_symmetric

if TYPE_CHECKING:
    from convert.codec.contract import F32Array, U8Array, Weighting

_SUB: Final = 16
_N_SUBS: Final = 16
_LIMIT: Final = 4
_SCALE_LIMIT: Final = 32
_N_ROUNDS: Final = 5


def encode_q3_k(blocks: F32Array) -> U8Array:
    """Quantize super-blocks to Q3_K: float32 (n, 256) to uint8 (n, 110)."""
    x = blocks.reshape(-1, _SUB)
    scale, found = _improve_one_by_one(x)
    scales = scale.reshape(-1, _N_SUBS)
    top = peak(scales)
    inverse: F32Array = np.float32(-_SCALE_LIMIT) / top
    rounded = np.clip(nearest(inverse * scales).astype(np.int8), -_SCALE_LIMIT, _SCALE_LIMIT - 1) + np.int8(
        _SCALE_LIMIT
    )
    some = top != 0
    d = np.where(some, np.float32(1) / inverse, np.float32(0))
    return _store(x, found, np.where(some, rounded, 0).astype(np.uint8), d)


def encode_q3_k_weighted(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Quantize super-blocks to Q3_K with importance."""
    sigma2 = np.float32(2) * ordered_sum(blocks * blocks) / np.float32(blocks.shape[1])
    weights, x = weigh(blocks, weighting.importance, sigma2).reshape(-1, _SUB), blocks.reshape(-1, _SUB)
    scale, inverse = search_symmetric(x, weights, _LIMIT)
    scales, sums = scale.reshape(-1, _N_SUBS), ordered_sum(weights).reshape(-1, _N_SUBS)
    d, inverse_of_scales = search_symmetric(scales, sums, _SCALE_LIMIT)
    rounded = quants_of_search(scales, inverse_of_scales, _SCALE_LIMIT)
    return _store(x, quants_of_search(x, inverse, _LIMIT), rounded, d)


def _improve_one_by_one(x: F32Array) -> tuple[F32Array, U8Array]:
    """Five rounds over the weights; each takes the quant that is best given the others.

    x: (n, 16). Returns the scale (n, 1), and quants 0..7 (n, 16); a sub-block of (almost) zeros has both 0.
    """
    top = peak(x)
    first: F32Array = np.float32(-_LIMIT) / top
    w, q = x * x, quants(first * x, -_LIMIT, _LIMIT - 1)
    sum_x, sum_q = ordered_sum(w * x * q), ordered_sum(w * q * q)
    for i in [*range(_SUB)] * _N_ROUNDS:
        xi, wi, old = (values[:, i : i + 1] for values in (x, w, q))
        rest_x, rest_q = sum_x - wi * xi * old, sum_q - wi * old * old
        new = quants(np.divide(xi * rest_q, rest_x, dtype=np.float32), -_LIMIT, _LIMIT - 1)
        with_x, with_q = rest_x + wi * xi * new, rest_q + wi * new * new
        better = (rest_x > 0) & (with_q > 0) & (with_x * with_x * sum_q > sum_x * sum_x * with_q) & (new != old)
        q[:, i : i + 1] = np.where(better, new, old)
        sum_x, sum_q = np.where(better, with_x, sum_x), np.where(better, with_q, sum_q)
    empty = np.abs(top) < TINY
    scale = np.where(~empty & (sum_q > 0), sum_x / sum_q, np.float32(0))
    return scale, np.where(empty, 0, q + _LIMIT).astype(np.uint8)


def _store(x: F32Array, found: U8Array, scales: U8Array, d: F32Array) -> U8Array:
    divisor = (through_f16(d) * (scales.astype(np.float32) - np.float32(_SCALE_LIMIT))).reshape(-1, 1)
    by_scale = quants(x / divisor, -_LIMIT, _LIMIT - 1) + _LIMIT
    q: U8Array = np.where(divisor != 0, by_scale.astype(np.uint8), found).reshape(-1, 256)
    high = np.packbits((q >> 2).reshape(-1, 8, 32), axis=1, bitorder="little").reshape(-1, 32)
    return np.concatenate([high, pack_two_bits(q & np.uint8(3)), _pack_scales(scales), f16_bytes(d)], axis=1)


def _pack_scales(q: U8Array) -> U8Array:
    low = (q[:, :8] & 15) | (q[:, 8:] & 15) << 4
    high = q[:, :4] >> 4 | q[:, 4:8] >> 4 << 2 | q[:, 8:12] >> 4 << 4 | q[:, 12:] >> 4 << 6
    return np.concatenate([low, high], axis=1)
