"""A tensor whose blocks lie apart, as processes that each held some of it saved them: a view puts them together."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from convert.checkpoint.source import matrix_shape
from convert.checkpoint.views import OfSeveral, read_rows

if TYPE_CHECKING:
    from convert.checkpoint.source import Shape, Tensor
    from convert.checkpoint.source_files import SourceFiles, U8Array


@dataclass(frozen=True, slots=True)
class Pieced(OfSeveral):
    """Blocks of one type that fill a tensor, each place once. offsets: where in the tensor each begins.

    shape (4, 6), offsets (0, 0) (0, 3) (2, 0) (2, 3):    | a b |
                                                          | c d |
    """

    offsets: tuple[Shape, ...]

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        shape = _at_least_matrix(self.shape)
        for part, offsets in zip(self.parts, self.offsets, strict=True):
            if prod(part.shape):
                self._read_block(files, part, _Place(shape, _at_least_matrix(part.shape), offsets), first, out)

    def _read_block(self, files: SourceFiles, part: Tensor, place: _Place, first: int, out: U8Array) -> None:
        """Read what a block has of the rows from `first` on: a run of neighbours at a time."""
        itemsize = self.dtype.itemsize
        start, end = place.first_col * itemsize, (place.first_col + place.n_cols) * itemsize
        rows = range(place.n_rows)
        row, stop = (bisect_left(rows, wanted, key=place.row_in_whole) for wanted in (first, first + len(out)))
        while row < stop:
            count = min(place.run - row % place.run, stop - row)
            into = place.row_in_whole(row) - first
            if end - start == out.shape[1]:
                part.read_rows(files, row, out[into : into + count])
            else:
                out[into : into + count, start:end] = read_rows(part, files, range(row, row + count))
            row += count


def _at_least_matrix(shape: Shape) -> Shape:
    """See a vector's elements as rows, as `matrix_shape` does."""
    return shape if len(shape) > 1 else (*matrix_shape(shape),)


@dataclass(frozen=True, slots=True)
class _Place:
    """A block in a whole, both of two axes at least; offsets may lack the last, of a vector."""

    whole: Shape
    block: Shape
    offsets: Shape

    @property
    def n_cols(self) -> int:
        return self.block[-1]

    @property
    def first_col(self) -> int:
        return self.offsets[-1] if len(self.offsets) == len(self.whole) else 0

    @property
    def n_rows(self) -> int:
        return prod(self.block[:-1])

    @property
    def run(self) -> int:
        """How many rows of the block are neighbours in the whole too."""
        run = 1
        for whole, block in zip(reversed(self.whole[:-1]), reversed(self.block[:-1]), strict=True):
            run *= block
            if block != whole:
                break
        return run

    def row_in_whole(self, row: int) -> int:
        """Give the row of the whole that a row of the block is; both counted over all axes but the last."""
        found, stride = 0, 1
        axes = len(self.block) - 1
        for axis in range(axes - 1, -1, -1):
            row, index = divmod(row, self.block[axis])
            found += (self.offsets[axis] + index if axis < len(self.offsets) else index) * stride
            stride *= self.whole[axis]
        return found
