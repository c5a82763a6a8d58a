"""IQ1_S and IQ1_M in NumPy: super-blocks of 256 weights; eight weights are a point of a grid of three levels.

The levels stand for -1, 0, 1, all of them shifted up or down by an eighth.

    IQ1_S   50 bytes   d f16 | 32 points, low bytes | 8 x (4 x 3 high bits, 3 bits of scale, shift)
    IQ1_M   56 bytes   32 points, low bytes | 32 x (3 high bits, shift) | 4 x (4 x 3 bits of scale, 4 bits of d f16)

IQ1_S has 8 sub-blocks of 32, IQ1_M 16 of 16 whose halves are shifted each its own way. The weights of a sub-block are
sorted, and every split into three levels is tried; what is then off the grid gives way to the near point of least
error. An error counts importance * sqrt(sigma2 + x^2) with sigma2 twice the super-block's mean square; without
importance, which only IQ1_M allows, x^2.

Source: ggml-quants.c, quantize_row_iq1_{s,m}_impl and iq1_find_best_neighbour2 @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType as Type

from convert.codec.arithmetic import f16_bytes, odd_steps, ordered_sum, twice_mean_square, weigh
from convert.codec.contract import BlocksRefused
from convert.codec.grids import grid_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array, Weighting

_SHIFT: Final = np.float32(0.125)  # IQ1S_DELTA, IQ1M_DELTA
_UP: Final = np.array([-1, 0, 1], np.float32) + _SHIFT
_DOWN: Final = np.array([-1, 0, 1], np.float32) - _SHIFT
_TINY_S, _TINY_M = np.float32(1e-12), np.float32(1e-7)  # GROUP_MAX_EPS_IQ1_S, GROUP_MAX_EPS_IQ1_M
_LARGEST: Final = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class _Fit:
    """One way to shift a split of every sub-block: sums of counts * x * q and counts * q * q."""

    qx: F32Array
    q2: F32Array
    down: tuple[bool, bool]
    """Which halves are shifted down."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Of each sub-block: its scale, which halves are shifted down (n, 2), and the places of its groups in the grid."""

    scale: F32Array
    down: NDArray[np.bool_]
    places: NDArray[np.int64]


def _sums_before(values: F32Array) -> F32Array:
    """(n, m) to (m + 1, n): the sum of what comes before each place, in order."""
    sums = np.zeros((values.shape[1] + 1, len(values)), np.float32)
    np.add.accumulate(values.T, axis=0, out=sums[1:])
    return sums


def _fits_of_s(x: F32Array, counts: F32Array, order: NDArray[np.intp]) -> Iterator[tuple[int, int, list[_Fit]]]:
    """Every split of 32 sorted weights, with either shift."""
    sx = _sums_before(np.take_along_axis(counts * x, order, axis=1))
    sw = _sums_before(np.take_along_axis(counts, order, axis=1))
    n = x.shape[1]
    for first in range(n + 1):
        for second in range(first, n + 1):
            parts = (sx[first], sx[second] - sx[first], sx[n] - sx[second])
            parts_w = (sw[first], sw[second] - sw[first], sw[n] - sw[second])
            fits = []
            for levels, down in ((_UP, False), (_DOWN, True)):
                qx = parts[0] * levels[0] + parts[1] * levels[1] + parts[2] * levels[2]
                squares = [w * level * level for w, level in zip(parts_w, levels, strict=True)]
                fits.append(_Fit(qx, squares[0] + squares[1] + squares[2], (down, down)))
            yield first, second, fits


def _fits_of_m(x: F32Array, counts: F32Array, order: NDArray[np.intp]) -> Iterator[tuple[int, int, list[_Fit]]]:
    """Every split of 16 sorted weights, with every shift of its halves. Parity: a half's sums collapse."""
    n = x.shape[1]
    halves = []
    for second_half in (False, True):
        here = (order >= n // 2) == second_half
        sx = _sums_before(np.where(here, np.take_along_axis(counts * x, order, axis=1), np.float32(0)))
        halves.append((sx, _sums_before(np.where(here, np.take_along_axis(counts, order, axis=1), np.float32(0)))))
    for first in range(n + 1):
        for second in range(first, n + 1):
            sums: dict[tuple[int, bool], tuple[F32Array, F32Array]] = {}
            for h, (sx, sw) in enumerate(halves):
                for down, (low, middle, high) in ((False, _UP), (True, _DOWN)):
                    qx = sx[n] * high - (sx[first] + sx[second])
                    q2 = sw[n] * high * high + sw[first] * (low * low - middle * middle)
                    sums[h, down] = qx, q2 + sw[second] * (middle * middle - high * high)
            yield (
                first,
                second,
                [
                    _Fit(sums[0, a][0] + sums[1, b][0], sums[0, a][1] + sums[1, b][1], (a, b))
                    for a in (False, True)
                    for b in (False, True)
                ],
            )


@dataclass(frozen=True, slots=True)
class _Split:
    """The best split of each sub-block."""

    exists: NDArray[np.bool_]
    """Whether any is good for anything."""
    scale: F32Array
    down: NDArray[np.bool_]
    """(n, 2)."""
    levels: NDArray[np.intp]

    def where(self, chosen: NDArray[np.bool_]) -> _Split:
        """Those of some sub-blocks."""
        return _Split(self.exists[chosen], self.scale[chosen], self.down[chosen], self.levels[chosen])


def _split(x: F32Array, counts: F32Array) -> _Split:
    order = np.argsort(x, axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    n = len(x)
    best, scale = np.full(n, -_LARGEST, np.float32), np.zeros(n, np.float32)
    places, down, exists = np.zeros((n, 2), np.intp), np.zeros((n, 2), bool), np.zeros(n, bool)
    for first, second, fits in (_fits_of_s if x.shape[1] == 32 else _fits_of_m)(x, counts, order):  # noqa: PLR2004
        for fit in fits:
            better = (fit.q2 > 0) & (fit.qx * fit.qx > best * fit.q2)
            if not better.any():
                continue
            scale = np.where(better, fit.qx / fit.q2, scale)
            best = np.where(better, scale * fit.qx, best)
            places[better], down[better] = (first, second), fit.down
            exists |= better
    levels = (rank >= places[:, :1]).astype(np.intp) + (rank >= places[:, 1:])
    turned = (scale < 0)[:, np.newaxis]
    return _Split(exists, np.abs(scale), np.where(turned, ~down, down), np.where(turned, 2 - levels, levels))


def _values(down: NDArray[np.bool_], n_groups: int) -> F32Array:
    """Say what levels stand for in each group, (n, n_groups, 3)."""
    of_halves = np.where(down[:, :, np.newaxis], _DOWN, _UP)
    return np.repeat(of_halves, n_groups // 2, axis=1)


def _settle(x: F32Array, counts: F32Array, split: _Split) -> _Found:
    """Bring splits of sub-blocks, (n, 32) or (n, 16), onto the grid, and fit their scales again."""
    grid = grid_of(Type.IQ1_S)
    n, n_groups = len(x), x.shape[1] // 8
    values = _values(split.down, n_groups).reshape(-1, 3)
    scaled = np.repeat(split.scale, n_groups)[:, np.newaxis] * values
    points = grid.pack(split.levels.reshape(-1, 8))
    settled, on_grid = grid.settle(points, x.reshape(-1, 8), counts.reshape(-1, 8), scaled)
    places = settled.reshape(n, n_groups)
    q = np.take_along_axis(values, grid.levels[settled].astype(np.intp), axis=1).reshape(x.shape)
    qx, q2 = ordered_sum(counts * q * x)[:, 0], ordered_sum(counts * q * q)[:, 0]
    refit = ~on_grid.reshape(n, n_groups).all(axis=1) & (qx > 0) & (q2 > 0)
    scale = np.where(refit, qx / q2, split.scale)
    refused = (places < 0).any(axis=1) | np.isnan(scale)
    if refused.any():
        raise BlocksRefused(int(refused.sum()))
    return _Found(scale, split.down, places)


def _search(x: F32Array, counts: F32Array, tiny: np.float32) -> _Found:
    """Search sub-blocks; of those that are (almost) 0, or that no split fits, all is 0."""
    n, n_groups = len(x), x.shape[1] // 8
    scale, down, places = np.zeros(n, np.float32), np.zeros((n, 2), bool), np.zeros((n, n_groups), np.int64)
    split = _split(x, counts)
    live = split.exists & (np.abs(x).max(axis=1) >= tiny)
    found = _settle(x[live], counts[live], split.where(live))
    scale[live], down[live], places[live] = found.scale, found.down, found.places
    return _Found(scale, down, places)


def _important(blocks: F32Array, weighting: Weighting) -> F32Array:
    return weigh(blocks, weighting.importance, twice_mean_square(blocks))


def encode_iq1_s(blocks: F32Array, weighting: Weighting) -> U8Array:
    """Quantize float32 (n, 256) to uint8 (n, 50). Raises BlocksRefused where ggml aborts."""
    counts = _important(blocks, weighting)
    found = _search(blocks.reshape(-1, 32), counts.reshape(-1, 32), _TINY_S)
    scales, places = found.scale.reshape(-1, 8), found.places.reshape(-1, 8, 4)
    peak = scales.max(axis=1, keepdims=True)
    d = peak / np.float32(15)
    steps = odd_steps(scales, d, 7) | found.down[:, 0].reshape(-1, 8) << 3
    high = (places >> 8 << np.arange(0, 12, 3)).sum(axis=2) | np.where(peak == 0, 0, steps) << 12
    parts = [f16_bytes(d * np.float32(1.125)), places.astype(np.uint8), high.astype("<u2").view(np.uint8)]
    return np.concatenate([part.reshape(len(blocks), -1) for part in parts], axis=1)


def encode_iq1_m(blocks: F32Array, weighting: Weighting | None = None) -> U8Array:
    """Quantize float32 (n, 256) to uint8 (n, 56). Raises BlocksRefused where ggml aborts."""
    counts = blocks * blocks if weighting is None else _important(blocks, weighting)
    found = _search(blocks.reshape(-1, 16), counts.reshape(-1, 16), _TINY_M)
    scales, places = found.scale.reshape(-1, 16), found.places.reshape(-1, 16, 2)
    peak = scales.max(axis=1, keepdims=True)
    steps = odd_steps(scales, peak / np.float32(15), 7)
    d = _fit_super(blocks, counts, found, steps, peak[:, 0] / np.float32(15))
    half = (d * np.float32(1.1125)).astype("<f2").view(np.uint16).astype(np.int64)
    nibbles = half[:, np.newaxis] >> np.arange(0, 16, 4) & 15
    words = (steps.reshape(-1, 4, 4) << np.arange(0, 12, 3)).sum(axis=2) | nibbles << 12
    shifts = (found.down << np.array([3, 7])).sum(axis=1).reshape(-1, 16)
    high = (places >> 8 << np.array([0, 4])).sum(axis=2)
    dead = peak == 0
    parts = [places, high | np.where(dead, 0, shifts), np.where(dead, 0, words).astype("<u2").view(np.uint8)]
    return np.concatenate([part.reshape(len(blocks), -1).astype(np.uint8) for part in parts], axis=1)


def _fit_super(
    blocks: F32Array, counts: F32Array, found: _Found, steps: NDArray[np.int32], otherwise: F32Array
) -> F32Array:
    """Scale d that fits all 256 weights. Parity: dead sub-blocks too, which decode as the grid's first point."""
    levels = grid_of(Type.IQ1_S).levels[found.places].astype(np.intp)
    values = np.take_along_axis(_values(found.down, 2), levels, axis=2).reshape(-1, 16, 16)
    q = (values * (2 * steps + 1).astype(np.float32)[:, :, np.newaxis]).reshape(len(blocks), 256)
    qx, q2 = ordered_sum(counts * q * blocks)[:, 0], ordered_sum(counts * q * q)[:, 0]
    return np.where(q2 > 0, qx / q2, otherwise)
