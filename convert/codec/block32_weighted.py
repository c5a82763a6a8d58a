"""Q4_0, Q4_1, Q5_0, Q5_1 with importance: the scale is searched, and quants are those that the search found.

An error counts importance * sqrt(mean square of the row + x * x).

Source: ggml-quants.c, quantize_row_{q4_0,q4_1,q5_0,q5_1}_impl @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convert.codec.affine import AffineSearch, final_quants, search_affine
from convert.codec.arithmetic import f16_bytes, fifth_bits, nibbles, weigh
from convert.codec.symmetric import quants_of_search, search_symmetric

if TYPE_CHECKING:
    from convert.codec.contract import F32Array, U8Array, Weighting


def encode_q4_0(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Float16 scale, nibbles of quants 0..15; weight = d * (q - 8)."""
    d, q = _symmetric(blocks, weighting, 8)
    return np.concatenate([d, nibbles(q)], axis=1)


def encode_q5_0(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Float16 scale, 32 fifth bits, nibbles; weight = d * (q - 16)."""
    d, q = _symmetric(blocks, weighting, 16)
    return np.concatenate([d, fifth_bits(q), nibbles(q)], axis=1)


def encode_q4_1(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Float16 scale and minimum, nibbles; weight = d * q + minimum."""
    d, minimum, q = _affine(blocks, weighting, 15)
    return np.concatenate([d, minimum, nibbles(q)], axis=1)


def encode_q5_1(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Float16 scale and minimum, 32 fifth bits, nibbles; weight = d * q + minimum."""
    d, minimum, q = _affine(blocks, weighting, 31)
    return np.concatenate([d, minimum, fifth_bits(q), nibbles(q)], axis=1)


def _symmetric(blocks: F32Array, weighting: Weighting, limit: int) -> tuple[U8Array, U8Array]:
    weights = weigh(blocks, weighting.importance, weighting.row_power)
    scale, inverse = search_symmetric(blocks, weights, limit)
    return f16_bytes(scale), quants_of_search(blocks, inverse, limit)


def _affine(blocks: F32Array, weighting: Weighting, highest: int) -> tuple[U8Array, U8Array, U8Array]:
    weights = weigh(blocks, weighting.importance, weighting.row_power)
    fit = search_affine(blocks, weights, AffineSearch(highest=highest, n_steps=36, first=-0.9, step=0.05))
    no_scale = np.zeros_like(fit.scale)
    return f16_bytes(fit.scale), f16_bytes(fit.minimum), final_quants(blocks, fit, no_scale, no_scale, highest)
