"""Q6_K in NumPy: super-blocks of 256 weights, as 16 sub-blocks of 16, in 210 bytes.

     ┌ ql 128 ───────┬ qh 64 ─────────┬ scales 16 int8 ──┬ d f16 ┐     weight = d * scales[j] * (q - 32)
     │ low four bits │ high two bits  │ one a sub-block  │       │     q in 0..63

With importance, an error counts as much as that says; without, x * x.

Source: ggml-quants.c, quantize_row_q6_K_ref and _impl @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from convert.codec.arithmetic import TINY, f16_bytes, nearest, peak, through_f16
from convert.codec.symmetric import final_quants, search_symmetric

if TYPE_CHECKING:
    from convert.codec.contract import F32Array, U8Array, Weighting

_SUB: Final = 16
_N_SUBS: Final = 16
_LIMIT: Final = 32


def encode_q6_k(blocks: F32Array) -> U8Array:
    """Quantize super-blocks to Q6_K.

    blocks: float32 (n, 256).
    Returns uint8 (n, 210).
    Rounds to nearest, ties to even; a super-block whose scales are all below 1e-15 is 210 zero bytes.
    """
    return _encode(blocks, blocks * blocks)


def encode_q6_k_weighted(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Quantize super-blocks to Q6_K with importance."""
    return _encode(blocks, weighting.importance)


def _encode(blocks: F32Array, weights: F32Array) -> U8Array:
    x = blocks.reshape(-1, _SUB)
    scale, inverse = search_symmetric(x, weights.reshape(-1, _SUB), _LIMIT)
    scales = scale.reshape(-1, _N_SUBS)
    largest = peak(scales)
    to_units: F32Array = np.float32(-128) / largest
    d: F32Array = np.float32(1) / to_units
    stored = np.minimum(nearest(to_units * scales), 127).astype(np.int8)
    divisor = through_f16(d) * stored.astype(np.float32)
    ql, qh = _pack(final_quants(x, inverse, divisor.reshape(-1, 1), _LIMIT).reshape(-1, 256))
    encoded = np.concatenate([ql, qh, stored.view(np.uint8), f16_bytes(d)], axis=1)
    return np.where(np.abs(largest) < TINY, np.uint8(0), encoded)


def _pack(q: U8Array) -> tuple[U8Array, U8Array]:
    """Low and high bits of (n, 256) quants; each half of 128 is four runs of 32: a, b, c, d.

    ql: 32 bytes a | c << 4, 32 bytes b | d << 4.   qh: 32 bytes a | b << 2 | c << 4 | d << 6.
    """
    runs = q.reshape(-1, 2, 4, 32)
    low, high = runs & 15, runs >> 4
    ql = low[:, :, :2] | low[:, :, 2:] << 4
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return ql.reshape(-1, 128).astype(np.uint8), qh.reshape(-1, 64).astype(np.uint8)
