"""IQ4_NL and IQ4_XS in NumPy: a weight is one of sixteen numbers, closer together around zero, times a scale.

    IQ4_NL    18 bytes of 32    d f16 | 16 x nibbles (weight j low, j + 16 high)
    IQ4_XS   136 bytes of 256   d f16 | 8 x 2 high bits of scale | 8 x 4 low bits | 8 x 16 x nibbles
                                weight = d * (scale - 32) * number

Sixteen scales are tried for each 32 weights. An error counts x^2, or with importance: importance * sqrt(sigma2 + x^2),
where sigma2 is twice the mean square of the block.

Source: ggml-quants.c, quantize_row_iq4_nl_impl with 7 tries on each side, best_index_int8 @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import quants

from convert.codec.arithmetic import TINY, f16_bytes, inverse_or_zero, nearest, ordered_sum, peak, weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array, Weighting

_NUMBERS: Final = np.array(quants.IQ4_NL.kvalues, np.float32)
_MIDPOINTS: Final = (_NUMBERS[1:] + _NUMBERS[:-1]) / 2  # ggml's differences are exact there: below, the lower number
_N_TRIES: Final = 7


def _nearest_number(scaled: F32Array) -> NDArray[np.intp]:
    """Index of the number nearest to each; of two equally near, the upper; NaN is above all."""
    index: NDArray[np.intp] = np.searchsorted(_MIDPOINTS, scaled, side="right")
    return index


def _fit(x: F32Array, counts: F32Array, inverse: F32Array) -> tuple[F32Array, F32Array]:
    q = _NUMBERS[_nearest_number(inverse[:, np.newaxis] * x)]
    return ordered_sum(counts * q * x)[:, 0], ordered_sum(counts * q * q)[:, 0]


def _search_scales(x: F32Array, counts: F32Array) -> F32Array:
    """Scale of each 32 weights, 0 where they are (almost) 0. x, counts: (n, 32)."""
    largest = peak(x)[:, 0]
    qx, q2 = _fit(x, counts, np.float32(1) / (-largest / _NUMBERS[0]))
    scale = np.where(q2 > 0, qx / q2, np.float32(0))
    best = scale * qx
    for step in range(-_N_TRIES, _N_TRIES + 1):
        qx, q2 = _fit(x, counts, (np.float32(step) + _NUMBERS[0]) / largest)
        better = (q2 > 0) & (qx * qx > best * q2)
        scale = np.where(better, qx / q2, scale)
        best = np.where(better, scale * qx, best)
    return np.where(np.abs(largest) < TINY, np.float32(0), scale)


def _counts(blocks: F32Array, weighting: Weighting | None) -> F32Array:
    if weighting is None:
        return blocks * blocks
    sigma2 = ordered_sum(blocks * blocks) * np.float32(2 / blocks.shape[1])
    return weigh(blocks, weighting.importance, sigma2)


def _nibbles(x: F32Array, inverse: F32Array) -> U8Array:
    """Pack (n, 32) weights, rounded with (n, 1) inverses of scales, to (n, 16) bytes."""
    q = _nearest_number(inverse * x).astype(np.uint8)
    return (q[:, :16] | q[:, 16:] << 4).astype(np.uint8)


def encode_iq4_nl(blocks: F32Array, weighting: Weighting | None = None) -> U8Array:
    """Quantize float32 (n, 32) to uint8 (n, 18)."""
    scale = _search_scales(blocks, _counts(blocks, weighting))[:, np.newaxis]
    return np.concatenate([f16_bytes(scale), _nibbles(blocks, inverse_or_zero(scale))], axis=1)


def encode_iq4_xs(blocks: F32Array, weighting: Weighting | None = None) -> U8Array:
    """Quantize float32 (n, 256) to uint8 (n, 136); weights are rounded with d before it becomes a float16."""
    x, counts = blocks.reshape(-1, 32), _counts(blocks, weighting).reshape(-1, 32)
    scales = _search_scales(x, counts).reshape(-1, 8)
    largest = peak(scales)
    d = -np.where(largest == 0, np.float32(0), largest) / np.float32(32)  # Parity: no -0 is larger than ggml's first +0
    steps = np.clip(nearest(inverse_or_zero(d) * scales), -32, 31)
    packed = _nibbles(x, inverse_or_zero(d * steps.astype(np.float32)).reshape(-1, 1)).reshape(-1, 128)
    stored = (steps + 32).astype(np.uint16)
    high = np.bitwise_or.reduce(stored >> 4 << np.arange(0, 16, 2, dtype=np.uint16), axis=1)
    low = (stored[:, ::2] & 15 | (stored[:, 1::2] & 15) << 4).astype(np.uint8)
    return np.concatenate([f16_bytes(d), high.astype("<u2").reshape(-1, 1).view(np.uint8), low, packed], axis=1)
