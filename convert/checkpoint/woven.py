"""Tensors woven into one, the reverse of taking Blocks or Columns: of each in turn some rows, or some columns.

a0 a1 a2 a3   b0 b1   counts (2, 1)    out a0 a1 b0 a2 a3 b1
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from convert.checkpoint.source import StoredType, matrix_shape
from convert.checkpoint.views import read_rows

if TYPE_CHECKING:
    from convert.checkpoint.source import Shape, Tensor
    from convert.checkpoint.source_files import SourceFiles, U8Array


@dataclass(frozen=True, slots=True)
class _Woven:
    """Parts of one type. counts: how many rows or columns of each stand together."""

    name: str
    shape: Shape
    parts: tuple[Tensor, ...]
    counts: tuple[int, ...]

    @property
    def dtype(self) -> StoredType:
        """As the parts'."""
        dtype = self.parts[0].dtype
        assert isinstance(dtype, StoredType)  # noqa: S101 - views are of floats
        return dtype

    @property
    def nbytes(self) -> int:
        """Of all parts."""
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class WovenRows(_Woven):
    """Rows of the parts in turn."""

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        filled, period = 0, sum(self.counts)
        while filled < len(out):
            turn, row = divmod(first + filled, period)
            for part, count in zip(self.parts, self.counts, strict=True):
                if row < count:
                    taken = out[filled : filled + count - row]
                    part.read_rows(files, turn * count + row, taken)
                    filled += len(taken)
                    break
                row -= count


@dataclass(frozen=True, slots=True)
class WovenColumns(_Woven):
    """Columns of the parts in turn."""

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        itemsize, start = self.dtype.itemsize, 0
        seen = out.reshape(len(out), -1, sum(self.counts), itemsize)
        for part, count in zip(self.parts, self.counts, strict=True):
            read = read_rows(part, files, range(first, first + len(out)))
            seen[:, :, start : start + count] = read.reshape(len(out), -1, count, itemsize)
            start += count


def woven_rows(name: str, shape: Shape, parts: tuple[Tensor, ...], counts: tuple[int, ...]) -> WovenRows:
    """Weave rows. Raises AssertionError for parts that do not make up the shape."""
    assert sum(prod(part.shape) for part in parts) == prod(shape)  # noqa: S101
    assert all(matrix_shape(part.shape)[1] == matrix_shape(shape)[1] for part in parts)  # noqa: S101
    return WovenRows(name, shape, parts, counts)
