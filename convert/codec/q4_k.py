"""Q4_K and Q5_K: super-blocks of 256 weights in 8 sub-blocks of 32, each with a scale and a minimum of six bits.

    byte 0    2    4                 16 (Q5_K only)      16 or 48
         │ d  │dmin│ 12: 6-bit pairs │ 32: fifth bits    │ 128: nibbles          │
         │ f2 │ f2 │ see _pack_pairs │ bit j of byte i:  │ 32 bytes for each two │   w = d * scale * q - dmin * minimum
         │    │    │                 │ sub-block j       │ sub-blocks, a | b << 4│

Without importance, an error counts rms + |x| of its sub-block, and the largest scale becomes 63. With, it counts
importance * sqrt(2 * mean square + x * x), and the scales are fitted as weights are.

Source: ggml-quants.c, quantize_row_q{4,5}_K_ref and _impl @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from convert.codec.affine import AffineFit, AffineSearch, final_quants, search_affine
from convert.codec.arithmetic import f16_bytes, ordered_sum, through_f16, weigh
from convert.codec.positive import fit_positive, round_positive

if TYPE_CHECKING:
    from convert.codec.contract import F32Array, U8Array, Weighting

_N_SUBS: Final = 8
_SUB: Final = 32
_HIGHEST_SCALE: Final = 63
_FOUR_BITS: Final = 15
_Q4_PLAIN: Final = AffineSearch(highest=15, n_steps=20, first=-1, step=0.1)
_Q5_PLAIN: Final = AffineSearch(highest=31, n_steps=15, first=-0.5, step=0.1)
_Q4_WEIGHTED: Final = AffineSearch(highest=15, n_steps=36, first=-0.9, step=0.05)
_Q5_WEIGHTED: Final = AffineSearch(highest=31, n_steps=36, first=-0.9, step=0.05)


def encode_q4_k(blocks: F32Array) -> U8Array:
    """Quantize super-blocks to Q4_K: float32 (n, 256) to uint8 (n, 144)."""
    return _encode(blocks, _Q4_PLAIN)


def encode_q5_k(blocks: F32Array) -> U8Array:
    """Quantize super-blocks to Q5_K: float32 (n, 256) to uint8 (n, 176)."""
    return _encode(blocks, _Q5_PLAIN)


def encode_q4_k_weighted(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Quantize super-blocks to Q4_K with importance."""
    return _encode_weighted(blocks, weighting.importance, _Q4_WEIGHTED)


def encode_q5_k_weighted(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Quantize super-blocks to Q5_K with importance."""
    return _encode_weighted(blocks, weighting.importance, _Q5_WEIGHTED)


def _encode(blocks: F32Array, search: AffineSearch) -> U8Array:
    x = blocks.reshape(-1, _SUB)
    weights = np.sqrt(ordered_sum(x * x) / np.float32(_SUB)) + np.abs(x)
    fit = search_affine(x, weights, search)
    scales, d = round_positive(fit.scale.reshape(-1, _N_SUBS), _HIGHEST_SCALE)
    minimums, dmin = round_positive(-fit.minimum.reshape(-1, _N_SUBS), _HIGHEST_SCALE)
    return _store(x, fit, _limited(scales.astype(np.uint8)), _limited(minimums.astype(np.uint8)), d, dmin, search)


def _encode_weighted(blocks: F32Array, importance: F32Array, search: AffineSearch) -> U8Array:
    sigma2 = np.float32(2) * ordered_sum(blocks * blocks) / np.float32(blocks.shape[1])
    weights = weigh(blocks, importance, sigma2).reshape(-1, _SUB)
    x = blocks.reshape(-1, _SUB)
    fit = search_affine(x, weights, search)
    sums = ordered_sum(weights).reshape(-1, _N_SUBS)
    scales, d = fit_positive(fit.scale.reshape(-1, _N_SUBS), sums, _HIGHEST_SCALE)
    minimums, dmin = fit_positive(-fit.minimum.reshape(-1, _N_SUBS), sums, _HIGHEST_SCALE)
    if search.highest != _FOUR_BITS:  # Parity: Q4_K stores a byte above 63 as it is
        scales, minimums = _limited(scales), _limited(minimums)
    return _store(x, fit, scales, minimums, d, dmin, search)


def _limited(quants: U8Array) -> U8Array:
    limited: U8Array = np.minimum(quants, np.uint8(_HIGHEST_SCALE))
    return limited


def _store(
    x: F32Array, fit: AffineFit, scales: U8Array, minimums: U8Array, d: F32Array, dmin: F32Array, search: AffineSearch
) -> U8Array:
    pairs = _pack_pairs(scales, minimums)
    scale, minimum = (through_f16(unit) * part for unit, part in zip((d, dmin), _unpack_pairs(pairs), strict=True))
    q = final_quants(x, fit, scale.reshape(-1, 1), minimum.reshape(-1, 1), search.highest).reshape(-1, _N_SUBS, _SUB)
    nibbles = (q[:, ::2] & 15) | q[:, 1::2] << 4
    fifth = np.bitwise_or.reduce(q >> 4 << np.arange(_N_SUBS, dtype=np.uint8)[:, np.newaxis], axis=1)
    parts = [f16_bytes(d), f16_bytes(dmin), pairs, *([] if search.highest == _FOUR_BITS else [fifth])]
    return np.concatenate([*parts, nibbles.reshape(-1, 128)], axis=1)


def _pack_pairs(s: U8Array, m: U8Array) -> U8Array:
    """Pack six bits each: s[0..3], the high two of s[4..7] above them; m likewise; then the low four of both."""
    return np.concatenate(
        [s[:, :4] | s[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6, (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4], axis=1
    )


def _unpack_pairs(pairs: U8Array) -> tuple[F32Array, F32Array]:
    first, second, low = pairs[:, :4], pairs[:, 4:8], pairs[:, 8:]
    s = np.concatenate([first & 63, (low & 15) | first >> 6 << 4], axis=1)
    m = np.concatenate([second & 63, low >> 4 | second >> 6 << 4], axis=1)
    return s.astype(np.float32), m.astype(np.float32)
