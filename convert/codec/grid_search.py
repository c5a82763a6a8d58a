"""The search that IQ2 and IQ3 share, in NumPy: one scale for a sub-block, and a point of the grid for each group.

Some twenty scales are tried. Each rounds every group of weights to a point; a point off the grid gives way to the near
point of least error at that scale; the scale whose fit is best is kept, and what it put off the grid is chosen again
with the fitted scale.

Source: ggml-quants.c, quantize_row_iq{2_xxs,2_xs,2_s,3_xxs,3_s}_impl and iq{2,3}_find_best_neighbour @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from convert.codec.arithmetic import nearest, ordered_sum
from convert.codec.contract import BlocksRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array
    from convert.codec.grids import Grid


class Again(Enum):
    """Which groups are chosen again with the fitted scale."""

    OFF_GRID = "those that the best scale put off the grid"
    ALL_IF_ANY = "all, if the best scale put one off the grid, or none was any good"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Search:
    """What differs between the types."""

    n_side: int
    """Scales tried on each side of the middle."""
    step: float
    """Inverse of a scale tried: (top + step * i) / largest; top is the largest number a level stands for."""
    again: Again


@dataclass(frozen=True, slots=True)
class SubBlocks:
    """Sub-blocks of weights, without their signs."""

    x: F32Array
    """(n, n_groups, dims): magnitudes; one of eight may be negative, where signs have a parity."""
    counts: F32Array
    """How much an error in each weight counts."""

    def where(self, chosen: NDArray[np.bool_]) -> SubBlocks:
        """Give some of the sub-blocks."""
        return SubBlocks(self.x[chosen], self.counts[chosen])


@dataclass(frozen=True, slots=True)
class Found:
    """Of each sub-block: its scale, not negative; the places of its groups in the grid; whether signs turn around."""

    scale: F32Array
    places: NDArray[np.int64]
    turned: NDArray[np.bool_]


def _numbers(grid: Grid) -> F32Array:
    """Say what levels stand for: 1, 3, 5, ..."""
    return np.arange(1, 2 * int(grid.levels.max()) + 2, 2, dtype=np.float32)


def _settle(
    grid: Grid, blocks: SubBlocks, inverse: F32Array, scale: F32Array, wanted: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Round groups with the inverse of a scale, and bring them onto the grid with the scale.

    Raises BlocksRefused if that fails for a group that is wanted.
    """
    n, n_groups, dims = blocks.x.shape
    highest = int(grid.levels.max())
    scaled = np.float32(0.5) * (inverse[:, np.newaxis, np.newaxis] * blocks.x - np.float32(1))
    points = grid.pack(np.clip(nearest(scaled), 0, highest)).reshape(-1)
    values = np.repeat(scale[:, np.newaxis] * _numbers(grid), n_groups, axis=0)
    x, counts = blocks.x.reshape(-1, dims), np.sqrt(blocks.counts).reshape(-1, dims)
    places, on_grid = grid.settle(points, x, counts, values)
    failed = (places < 0).reshape(n, n_groups) & (True if wanted is None else wanted)
    if failed.any():
        raise BlocksRefused(int(failed.any(axis=1).sum()))
    return places.reshape(n, n_groups), on_grid.reshape(n, n_groups)


def _fit(grid: Grid, blocks: SubBlocks, places: NDArray[np.int64]) -> tuple[F32Array, F32Array]:
    """Give the sums of counts * x * q and counts * q * q, in order."""
    n, n_weights = len(blocks.x), blocks.x.shape[1] * blocks.x.shape[2]
    q = _numbers(grid)[grid.levels[places]].reshape(n, n_weights)
    x, counts = blocks.x.reshape(n, n_weights), blocks.counts.reshape(n, n_weights)
    return ordered_sum(counts * x * q)[:, 0], ordered_sum(counts * q * q)[:, 0]


def search_scales(grid: Grid, search: Search, blocks: SubBlocks, largest: F32Array, scale: F32Array) -> Found:
    """Search sub-blocks; `scale` is what they keep if no scale tried is any good.

    Raises BlocksRefused where ggml aborts.
    """
    n, n_groups, _ = blocks.x.shape
    top = np.float32(2 * int(grid.levels.max()) + 1)
    best = np.zeros(n, np.float32)
    places = np.full((n, n_groups), grid.index[0], np.int64)
    again = np.full((n, n_groups), search.again is not Again.OFF_GRID)
    for i in range(-search.n_side, search.n_side + 1):
        inverse = (top + np.float32(i) * np.float32(search.step)) / largest
        tried, on_grid = _settle(grid, blocks, inverse, np.float32(1) / inverse)
        qx, q2 = _fit(grid, blocks, tried)
        better = (q2 > 0) & (qx * qx > best * q2)
        scale = np.where(better, qx / q2, scale)
        best = np.where(better, scale * qx, best)
        places = np.where(better[:, np.newaxis], tried, places)
        again = np.where(better[:, np.newaxis], ~on_grid, again)
    if search.again is Again.ALL_IF_ANY:
        again[:] = again.any(axis=1, keepdims=True)
    elif search.again is Again.ALL:
        again[:] = True
    return _choose_again(grid, blocks, Found(scale, places, scale < 0), again & (scale > 0)[:, np.newaxis])


def _choose_again(grid: Grid, blocks: SubBlocks, found: Found, again: NDArray[np.bool_]) -> Found:
    scale, places = found.scale.copy(), found.places.copy()
    rows = np.asarray(again.any(axis=1))
    some = blocks.where(rows)
    settled, _ = _settle(grid, some, np.float32(1) / scale[rows], scale[rows], again[rows])
    places[rows] = np.where(again[rows], settled, places[rows])
    qx, q2 = _fit(grid, some, places[rows])
    scale[rows] = np.where(q2 > 0, qx / q2, scale[rows])
    if np.isnan(scale).any():
        raise BlocksRefused(int(np.isnan(scale).sum()))
    return Found(np.abs(scale), places, scale < 0)
