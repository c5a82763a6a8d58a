"""Views of columns: some of a tensor's, or in another order; several tensors side by side; and rows of zeros behind."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint.source import matrix_shape
from convert.checkpoint.views import OfOne, OfSeveral, OfWhole, read_rows, row_unit

if TYPE_CHECKING:
    from convert.checkpoint.source import Shape, Tensor
    from convert.checkpoint.source_files import SourceFiles, U8Array


@dataclass(frozen=True, slots=True)
class Columns(OfOne):
    """Of each `period` columns, the `n_taken` from `first` on.

    period 2, first 1, n_taken 1:    in a0 b0 a1 b1 a2 b2    out b0 b1 b2
    """

    period: int
    first: int
    n_taken: int

    @property
    def shape(self) -> Shape:
        """The base's, with fewer columns."""
        *batch, n_cols = self.base.shape
        return (*batch, n_cols // self.period * self.n_taken)

    @property
    def nbytes(self) -> int:
        """The view's share of the base's bytes."""
        return self.base.nbytes * self.n_taken // self.period

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        read = read_rows(self.base, files, range(first, first + len(out)))
        seen = read.reshape(len(out), -1, self.period, self.dtype.itemsize)
        taken = seen[:, :, self.first : self.first + self.n_taken]
        out.reshape(taken.shape)[:] = taken


@dataclass(frozen=True, slots=True)
class SideBySide(OfSeveral):
    """Matrices of one type and as many rows, the columns of one after those of the other. Made by `side_by_side`."""

    @property
    def row_unit(self) -> int:
        """What suits all parts."""
        return lcm(*map(row_unit, self.parts))

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        start = 0
        for part in self.parts:
            end = start + matrix_shape(part.shape)[1] * self.dtype.itemsize
            out[:, start:end] = read_rows(part, files, range(first, first + len(out)))
            start = end


def side_by_side(name: str, parts: tuple[Tensor, ...]) -> SideBySide:
    """Put matrices side by side."""
    return SideBySide(name, (parts[0].shape[0], sum(part.shape[1] for part in parts)), parts)


@dataclass(frozen=True, slots=True)
class SwappedColumns(OfWhole):
    """Columns seen as (a, b, inner) become (b, a, inner).

    a 2, b 3, inner 1:    in a0 a1 a2 b0 b1 b2    out a0 b0 a1 b1 a2 b2
    """

    a: int
    b: int
    inner: int

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        read = read_rows(self.base, files, range(first, first + len(out)))
        seen = read.reshape(len(out), self.a, self.b, -1).swapaxes(1, 2)
        np.copyto(out.reshape(seen.shape), seen)


@dataclass(frozen=True, slots=True)
class Padded(OfOne):
    """A tensor with rows of zeros behind its own."""

    shape: Shape

    @property
    def nbytes(self) -> int:
        """The base's: the zeros are read from nowhere."""
        return self.base.nbytes

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        n_stored = max(min(self.base.shape[0] - first, len(out)), 0)
        if n_stored:
            self.base.read_rows(files, first, out[:n_stored])
        out[n_stored:] = 0
