"""IQ3_XXS and IQ3_S in NumPy: super-blocks of 256 weights, as 8 sub-blocks of 32; four weights are a point of a grid.

    IQ3_XXS   98 bytes   d f16 | 64 points | 8 x (4 x 7 signs, 4 bits of scale)
    IQ3_S    110 bytes   d f16 | 64 points, low bytes | 64 ninth bits | 32 x 8 signs | 8 x 4 bits of scale

Seven signs stand for eight: their number is even. An error counts x^2, or importance * sqrt(sigma2 + x^2) with sigma2
twice the super-block's mean square.

Source: ggml-quants.c, quantize_row_iq3_xxs_impl and quantize_row_iq3_s_impl @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType as Type

from convert.codec.arithmetic import f16_bytes, odd_steps, twice_mean_square, weigh
from convert.codec.grid_search import Again, Search, SubBlocks, search_scales
from convert.codec.grids import grid_of
from convert.codec.iq_signs import strip_even_signs, strip_signs, turn_signs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array, Weighting

_IQ3_XXS: Final = Search(n_side=15, step=0.2, again=Again.OFF_GRID)
_IQ3_S: Final = Search(n_side=9, step=0.2, again=Again.ALL_IF_ANY)
_TINY: Final = np.float32(1e-8)  # GROUP_MAX_EPS_IQ3_XXS


def _counts(blocks: F32Array, weighting: Weighting | None) -> F32Array:
    if weighting is None:
        return blocks * blocks
    return weigh(blocks, weighting.importance, twice_mean_square(blocks))


def _sub_blocks(x: F32Array, counts: F32Array) -> SubBlocks:
    return SubBlocks(x.reshape(-1, 8, 4), counts.reshape(-1, 8, 4))


def encode_iq3_xxs(blocks: F32Array, weighting: Weighting | None = None) -> U8Array:
    """Quantize float32 (n, 256) to uint8 (n, 98). Raises BlocksRefused where ggml aborts."""
    counts = _counts(blocks, weighting)
    x, signs = strip_even_signs(blocks.reshape(-1, 8), counts.reshape(-1, 8))
    all_subs, largest = _sub_blocks(x, counts), x.reshape(-1, 32).max(axis=1)
    live = largest >= _TINY
    found = search_scales(
        grid_of(Type.IQ3_XXS), _IQ3_XXS, all_subs.where(live), largest[live], largest[live] / np.float32(15)
    )
    scales, places = np.zeros(len(largest), np.float32), np.zeros((len(largest), 8), np.uint8)
    stored = np.zeros((len(largest), 4), np.uint8)
    scales[live], places[live] = found.scale, found.places
    stored[live] = turn_signs(signs.reshape(-1, 4)[live], found.turned, 127)
    peak = scales.reshape(-1, 8).max(axis=1, keepdims=True)
    d = peak / np.float32(31)
    steps = odd_steps(scales.reshape(-1, 8), d, 15).astype(np.uint32)
    words = steps << 28 | (stored.astype(np.uint32) << np.arange(0, 28, 7, dtype=np.uint32)).sum(1).reshape(-1, 8)
    encoded = np.concatenate(
        [
            f16_bytes(d * np.float32(1.0125)),
            places.reshape(-1, 64),
            words.astype("<u4").view(np.uint8).reshape(-1, 32),
        ],
        axis=1,
    )
    return np.where(peak == 0, np.uint8(0), encoded)


def encode_iq3_s(blocks: F32Array, weighting: Weighting | None = None) -> U8Array:
    """Quantize float32 (n, 256) to uint8 (n, 110). Raises BlocksRefused where ggml aborts."""
    counts = _counts(blocks, weighting)
    x, signs = strip_signs(blocks.reshape(-1, 8))
    all_subs, largest = _sub_blocks(x, counts), x.reshape(-1, 32).max(axis=1)
    live = largest > 0
    found = search_scales(
        grid_of(Type.IQ3_S), _IQ3_S, all_subs.where(live), largest[live], largest[live] / np.float32(15)
    )
    scales, high = np.zeros(len(largest), np.float32), np.zeros((len(largest), 8), np.uint8)
    scales[live], high[live] = found.scale, found.places >> 8
    low = _packed_to_front(found.places.astype(np.uint8), live)
    turned = _packed_to_front(turn_signs(signs.reshape(-1, 4)[live], found.turned, 255), live)
    peak = scales.reshape(-1, 8).max(axis=1, keepdims=True)
    d = peak / np.float32(31)
    steps = np.where(peak == 0, 0, odd_steps(scales.reshape(-1, 8), d, 15))
    ninth = np.packbits(high, axis=1, bitorder="little").reshape(-1, 8)
    packed = (steps[:, ::2] | steps[:, 1::2] << 4).astype(np.uint8)
    return np.concatenate([f16_bytes(d * np.float32(1.033)), low, ninth, turned, packed], axis=1)


def _packed_to_front(stored: U8Array, live: NDArray[np.bool_]) -> U8Array:
    """Give (n, 8 * m) bytes of (n_live, m) of the live sub-blocks.

    Parity: a sub-block of zeros takes no room, so that those after it come earlier, and the rest is zero.
    """
    place = np.argsort(~live.reshape(-1, 8), axis=1, kind="stable")
    spread = np.zeros((len(place), 8, stored.shape[1]), np.uint8)
    spread.reshape(-1, stored.shape[1])[live] = stored
    return np.take_along_axis(spread, place[:, :, np.newaxis], axis=1).reshape(len(place), -1)
