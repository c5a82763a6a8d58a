"""IQ2_XXS, IQ2_XS and IQ2_S in NumPy: super-blocks of 256 weights; eight weights are a point of a grid of three levels.

    IQ2_XXS   66 bytes   d f16 | 8 x (4 points, 4 x 7 signs, 4 bits of scale)
    IQ2_XS    74 bytes   d f16 | 32 x (9 bits of point, 7 signs) | 16 x 4 bits of scale
    IQ2_S     82 bytes   d f16 | 32 points, low bytes | 32 x 8 signs | 32 x 2 high bits | 16 x 4 bits of scale

Seven signs stand for eight: their number is even. IQ2_XXS has 8 sub-blocks of 32, the others 16 of 16. An error counts
importance * sqrt(sigma2 + x^2), with sigma2 the super-block's mean square, of IQ2_S twice that; without importance,
which only IQ2_S allows, sigma2 / 4 + x^2.

Source: ggml-quants.c, quantize_row_iq2_{xxs,xs,s}_impl @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType as Type

from convert.codec.arithmetic import TINY, f16_bytes, odd_steps, ordered_sum, twice_mean_square, weigh
from convert.codec.grid_search import Again, Search, SubBlocks, search_scales
from convert.codec.grids import grid_of
from convert.codec.iq_signs import strip_even_signs, strip_signs, turn_signs
from convert.codec.positive import fit_positive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array, Weighting

_IQ2_XXS: Final = Search(n_side=6, step=0.1, again=Again.ALL)
_IQ2_XS: Final = Search(n_side=9, step=0.1, again=Again.OFF_GRID)
_TINY_S: Final = np.float32(1e-8)  # GROUP_MAX_EPS_IQ2_S


def _mean_square(blocks: F32Array) -> F32Array:
    mean: F32Array = ordered_sum(blocks * blocks) / np.float32(256)
    return mean


def encode_iq2_xxs(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Quantize float32 (n, 256) to uint8 (n, 66). Raises BlocksRefused where ggml aborts."""
    counts = weigh(blocks, weighting.importance, _mean_square(blocks))
    x, signs = strip_even_signs(blocks.reshape(-1, 8), counts.reshape(-1, 8))
    fitted = fit_positive(x.reshape(-1, 32), counts.reshape(-1, 32), 4)[1][:, 0]
    live = (x.reshape(-1, 32).max(axis=1) >= TINY) & ~(fitted * np.float32(3) <= 0)
    all_subs, fitted = SubBlocks(x.reshape(-1, 4, 8), counts.reshape(-1, 4, 8)), fitted[live]
    found = search_scales(grid_of(Type.IQ2_XXS), _IQ2_XXS, all_subs.where(live), fitted * np.float32(3), fitted)
    scales, places = np.zeros(len(live), np.float32), np.zeros((len(live), 4), np.uint8)
    stored = np.zeros((len(live), 4), np.uint8)
    scales[live], places[live] = found.scale, found.places
    stored[live] = turn_signs(signs.reshape(-1, 4)[live], found.turned, 127)
    peak = scales.reshape(-1, 8).max(axis=1, keepdims=True)
    d = peak / np.float32(31)
    steps = odd_steps(scales.reshape(-1, 8), d, 15).astype(np.uint32).reshape(-1)
    words = steps << 28 | (stored.astype(np.uint32) << np.arange(0, 28, 7, dtype=np.uint32)).sum(axis=1)
    of_subs = np.concatenate([places, words.astype("<u4").view(np.uint8).reshape(-1, 4)], axis=1)
    encoded = np.concatenate([f16_bytes(d), of_subs.reshape(-1, 64)], axis=1)
    return np.where(peak == 0, np.uint8(0), encoded)


def encode_iq2_xs(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Quantize float32 (n, 256) to uint8 (n, 74). Raises BlocksRefused where ggml aborts."""
    counts = weigh(blocks, weighting.importance, _mean_square(blocks))
    x, signs = strip_even_signs(blocks.reshape(-1, 8), counts.reshape(-1, 8))
    scales, places, stored = _search_16(Type.IQ2_XS, x, counts, signs, TINY, 127)
    words = (places | stored.astype(np.int64) << 9).astype("<u2").view(np.uint8).reshape(-1, 64)
    d, steps = _scale_bytes(scales, np.float32(1))
    peak = scales.max(axis=1, keepdims=True)
    return np.where(peak == 0, np.uint8(0), np.concatenate([d, words, steps], axis=1))


def encode_iq2_s(blocks: F32Array, weighting: Weighting | None = None) -> U8Array:
    """Quantize float32 (n, 256) to uint8 (n, 82). Raises BlocksRefused where ggml aborts."""
    sigma2 = twice_mean_square(blocks)
    if weighting is None:
        counts = np.float32(0.25) * sigma2 + blocks * blocks
    else:
        counts = weigh(blocks, weighting.importance, sigma2)
    x, signs = strip_signs(blocks.reshape(-1, 8))
    scales, places, stored = _search_16(Type.IQ2_S, x, counts, signs, _TINY_S, 255)
    high = (places >> 8).reshape(-1, 8, 4) << np.arange(0, 8, 2)
    d, steps = _scale_bytes(scales, np.float32(0.9875))
    parts = [d, places & 255, stored, high.sum(axis=2), steps]
    return np.concatenate([part.reshape(len(blocks), -1).astype(np.uint8) for part in parts], axis=1)


def _search_16(
    tensor_type: Type, x: F32Array, counts: F32Array, signs: U8Array, tiny: np.float32, mask: int
) -> tuple[F32Array, NDArray[np.int64], U8Array]:
    """Give scales (n, 16), places in the grid and signs (n, 32) of sub-blocks of 16; of dead ones, 0."""
    all_subs, largest = SubBlocks(x.reshape(-1, 2, 8), counts.reshape(-1, 2, 8)), x.reshape(-1, 16).max(axis=1)
    live = largest >= tiny
    found = search_scales(
        grid_of(tensor_type), _IQ2_XS, all_subs.where(live), largest[live], largest[live] / np.float32(5)
    )
    scales, places = np.zeros(len(live), np.float32), np.zeros((len(live), 2), np.int64)
    stored = np.zeros((len(live), 2), np.uint8)
    scales[live], places[live] = found.scale, found.places
    stored[live] = turn_signs(signs.reshape(-1, 2)[live], found.turned, mask)
    return scales.reshape(-1, 16), places.reshape(-1, 32), stored.reshape(-1, 32)


def _scale_bytes(scales: F32Array, factor: np.float32) -> tuple[U8Array, U8Array]:
    """Give the bytes of d, and of the steps, two to a byte."""
    peak = scales.max(axis=1, keepdims=True)
    d = peak / np.float32(31)
    steps = np.where(peak == 0, 0, odd_steps(scales, d, 15))
    return f16_bytes(d * factor), (steps[:, ::2] | steps[:, 1::2] << 4).astype(np.uint8)
