"""Q2_K: super-blocks of 256 weights in 16 sub-blocks of 16, each with a scale and a minimum of four bits; 84 bytes.

    byte 0                        16                       80   82
         │ 16: scale | minimum <<4│ 64: two bits each      │ d  │dmin│
         │ of each sub-block      │ see pack_two_bits      │ f2 │ f2 │   w = d * scale * q - dmin * minimum

Without importance, an error counts |x| and is not squared, and the largest scale becomes 15. With, it counts
importance * sqrt(mean square + x * x), and the scales are fitted as weights are.

Source: ggml-quants.c, quantize_row_q2_K_ref and _impl @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from convert.codec.affine import AffineFit, AffineSearch, final_quants, search_affine
from convert.codec.arithmetic import f16_bytes, ordered_sum, through_f16, weigh
from convert.codec.positive import fit_positive, round_positive

if TYPE_CHECKING:
    from convert.codec.contract import F32Array, U8Array, Weighting

_SUB: Final = 16
_N_SUBS: Final = 16
_HIGHEST_SCALE: Final = 15
_PLAIN: Final = AffineSearch(highest=3, n_steps=15, first=-0.5, step=0.1, absolute=True)
_WEIGHTED: Final = AffineSearch(highest=3, n_steps=36, first=-0.9, step=0.05)


def encode_q2_k(blocks: F32Array) -> U8Array:
    """Quantize super-blocks to Q2_K: float32 (n, 256) to uint8 (n, 84)."""
    x = blocks.reshape(-1, _SUB)
    fit = search_affine(x, np.abs(x), _PLAIN)
    scales, d = round_positive(fit.scale.reshape(-1, _N_SUBS), _HIGHEST_SCALE)
    minimums, dmin = round_positive(-fit.minimum.reshape(-1, _N_SUBS), _HIGHEST_SCALE)
    scales[d[:, 0] <= 0], minimums[dmin[:, 0] <= 0] = 0, 0
    return _store(x, fit, scales.astype(np.uint8), minimums.astype(np.uint8), d, dmin)


def encode_q2_k_weighted(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Quantize super-blocks to Q2_K with importance."""
    sigma2 = ordered_sum(blocks * blocks) / np.float32(blocks.shape[1])
    weights, x = weigh(blocks, weighting.importance, sigma2).reshape(-1, _SUB), blocks.reshape(-1, _SUB)
    fit = search_affine(x, weights, _WEIGHTED)
    sums = ordered_sum(weights).reshape(-1, _N_SUBS)
    scales, d = fit_positive(fit.scale.reshape(-1, _N_SUBS), sums, _HIGHEST_SCALE)
    minimums, dmin = fit_positive(-fit.minimum.reshape(-1, _N_SUBS), sums, _HIGHEST_SCALE)
    return _store(x, fit, scales, minimums, d, dmin)


def _store(x: F32Array, fit: AffineFit, scales: U8Array, minimums: U8Array, d: F32Array, dmin: F32Array) -> U8Array:
    both = scales | minimums << 4  # Parity: a scale beyond four bits runs into the minimum
    scale = through_f16(d) * (both & 15).astype(np.float32)
    minimum = through_f16(dmin) * (both >> 4).astype(np.float32)
    q = final_quants(x, fit, scale.reshape(-1, 1), minimum.reshape(-1, 1), _WEIGHTED.highest)
    return np.concatenate([both, pack_two_bits(q.reshape(-1, 256)), f16_bytes(d), f16_bytes(dmin)], axis=1)


def pack_two_bits(q: U8Array) -> U8Array:
    """Pack (n, 256) to (n, 64): each half of 128 is four runs of 32, a | b << 2 | c << 4 | d << 6."""
    runs = q.reshape(-1, 2, 4, 32)
    packed = runs[:, :, 0] | runs[:, :, 1] << 2 | runs[:, :, 2] << 4 | runs[:, :, 3] << 6
    return packed.astype(np.uint8).reshape(-1, 64)
