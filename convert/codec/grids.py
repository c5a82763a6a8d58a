"""The grids of the IQ types: which points of small integers may be stored, and the near points of all others.

A point is four levels of three bits or eight of two, the first in the lowest place. Where weights round to a point off
the grid, ggml looks only among the points of the nearest few distances, by distance, then by place in the grid.

The points are the `gguf` package's. Source: ggml-quants.c, iq2xs_init_impl and iq3xs_init_impl @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from convert.codec.contract import F32Array

_AT_ONCE: Final = 4096  # groups whose near points are compared at once, to bound the temporaries
_LARGEST: Final = np.float32(np.finfo(np.float32).max)

_N_SHELLS: Final[Mapping[Type, int]] = MappingProxyType(
    {Type.IQ2_XXS: 2, Type.IQ2_XS: 2, Type.IQ2_S: 1, Type.IQ1_S: 3, Type.IQ1_M: 3, Type.IQ3_XXS: 2, Type.IQ3_S: 3}
)
"""How many distances are near, for each type that has a grid."""


def has_grid(tensor_type: Type) -> bool:
    """Whether blocks of the type store points of a grid."""
    return tensor_type in _N_SHELLS


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A grid, and for every point its place in the grid or its list of near points."""

    levels: NDArray[np.uint8]
    """(n, dims)."""
    n_bits: int
    """In a level."""
    index: NDArray[np.int16]
    """(1 << dims * n_bits,): each point's place in the grid, or -1."""
    starts: NDArray[np.int64]
    """(1 << dims * n_bits,): where each point's list begins in `near`; it ends where the next point's begins."""
    near: NDArray[np.int16]
    """Places in the grid, list after list."""

    @property
    def points(self) -> NDArray[np.uint16]:
        """(n,): the points of the grid, in its order."""
        return self.pack(self.levels).astype(np.uint16)

    def pack(self, levels: NDArray[np.generic]) -> NDArray[np.int64]:
        """(..., dims) levels to (...) points."""
        return _pack(levels, self.n_bits)

    def settle(
        self, points: NDArray[np.int64], x: F32Array, counts: F32Array, values: F32Array
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Give each point's place in the grid; of a point off the grid, that of the near point of least error.

        points: (n,). x, counts: float32 (n, dims), the weights and how much an error in each counts.
        values: float32 (n, n_levels), what each level stands for: scale included.
        Also says which were on the grid; a place is -1 where no near point has a finite error: there ggml aborts.
        """
        places = self.index[points].astype(np.int64)
        on_grid = places >= 0
        off = np.flatnonzero(~on_grid)
        for first in range(0, len(off), _AT_ONCE):
            some = off[first : first + _AT_ONCE]
            places[some] = self._nearest(points[some], x[some], counts[some], values[some])
        return places, on_grid

    def _nearest(self, points: NDArray[np.int64], x: F32Array, counts: F32Array, values: F32Array) -> NDArray[np.int64]:
        n_near = self.starts[points + 1] - self.starts[points]
        begins = np.cumsum(n_near) - n_near  # of each group's pairs, in a list of (group, near point)
        group = np.repeat(np.arange(len(points)), n_near)
        near = self.near[np.arange(len(group)) + np.repeat(self.starts[points] - begins, n_near)]
        error = np.zeros(len(group), np.float32)
        for i in range(self.levels.shape[1]):
            off = values[group, self.levels[near, i]] - x[group, i]
            error += counts[group, i] * off * off
        error = np.where(error < _LARGEST, error, np.float32(np.inf))  # NaN too
        least = np.minimum.reduceat(error, begins)
        order = np.where(error == least[group], np.arange(len(group)), len(group))
        first = near[np.minimum.reduceat(order, begins)].astype(np.int64)
        return np.where(least < _LARGEST, first, -1)


def _pack(levels: NDArray[np.generic], n_bits: int) -> NDArray[np.int64]:
    shifts = n_bits * np.arange(levels.shape[-1])
    packed: NDArray[np.int64] = (levels.astype(np.int64) << shifts).sum(axis=-1)
    return packed


@cache
def grid_levels(tensor_type: Type) -> tuple[NDArray[np.uint8], int]:
    """Give the grid's levels, uint8 (n, dims), and how many bits a level takes; quick."""
    traits = quants.IQ1_S if tensor_type is Type.IQ1_M else getattr(quants, tensor_type.name)
    traits.init_grid()
    levels = np.searchsorted(np.float32(traits.grid_map), traits.grid.reshape(traits.grid_shape)).astype(np.uint8)
    return levels, 2 if len(traits.grid_map) == 3 else 3  # noqa: PLR2004 - levels


def grid_points(tensor_type: Type) -> NDArray[np.uint16]:
    """Give the points of the grid, uint16 (n,), in its order; quick."""
    levels, n_bits = grid_levels(tensor_type)
    return _pack(levels, n_bits).astype(np.uint16)


@cache
def grid_of(tensor_type: Type) -> Grid:
    """Give the grid of a type, with its lists; takes part of a second."""
    levels, n_bits = grid_levels(tensor_type)
    n_levels, dims = int(levels.max()) + 1, levels.shape[1]
    index = np.full(1 << dims * n_bits, -1, np.int16)
    index[_pack(levels, n_bits)] = np.arange(len(levels))
    off_levels = np.stack(np.unravel_index(np.arange(n_levels**dims), (n_levels,) * dims), axis=1)
    off = np.sort(_pack(off_levels, n_bits))
    off = off[index[off] < 0]
    n_near = np.zeros(len(index) + 1, np.int64)
    lists = []
    for first in range(0, len(off), 512):
        some = off[first : first + 512]
        point, place = _near_points(some, levels, n_bits, _N_SHELLS[tensor_type])
        lists.append(place)
        n_near[some + 1] = np.bincount(point, minlength=len(some))
    return Grid(levels, n_bits, index, np.cumsum(n_near), np.concatenate(lists).astype(np.int16))


def _near_points(
    points: NDArray[np.int64], levels: NDArray[np.uint8], n_bits: int, n_shells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (which of the points, place in the grid), by point, distance and place."""
    shifts = n_bits * np.arange(levels.shape[1])
    here = (points[:, np.newaxis] >> shifts & (1 << n_bits) - 1).astype(np.float32)
    there = levels.astype(np.float32)
    distance = (
        (here * here).sum(1)[:, np.newaxis] - 2 * here @ there.T + (there * there).sum(1)
    )  # exact: small integers
    limit = distance.min(axis=1, keepdims=True)
    for _ in range(n_shells - 1):
        limit = np.where(distance > limit, distance, np.float32(np.inf)).min(axis=1, keepdims=True)
    point, place = np.nonzero(distance <= limit)
    order = np.lexsort((place, distance[point, place], point))
    return point[order], place[order]
