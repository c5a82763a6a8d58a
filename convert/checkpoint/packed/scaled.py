"""Codes that share scales: what fp8, compressed-tensors and modelopt checkpoints hold, whatever they call it.

    weight[row, col] = (code[row, col] - zero[row // block_rows, group]) x scale[row // block_rows, group]
                                                                          group = col // block_cols, or listed

One scale for all is a block as large as the matrix, one a row is a block of one row, a group is a part of one row; the
last blocks may be partial. A tensor with more than two dimensions is a stack of matrices, each with its own scales.

The product of an 8-bit code and a scale of 8 or 11 bits of precision is exact in float32, and so is the difference of
two integer codes: float32 and one rounding at the end give what torch gives when it multiplies in the scales' type.
Where a producer multiplies in float32 and rounds, it is the same formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.float8 import decode_bytes, decode_nibbles
from convert.checkpoint.packed.integers import E2M1_SPAN, Apart, Integers, Span
from convert.checkpoint.packed.values import FLOATS, as_float32, pieces, rounded, to_bytes
from convert.checkpoint.source import Shape, StoredType, TensorSource, matrix_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.checkpoint.packed.integers import Codes, Factors
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array

FLOAT_TYPES: Final = tuple(FLOATS)


@dataclass(frozen=True, slots=True)
class BlockShape:
    """How many neighbouring rows and columns share a scale."""

    rows: int
    cols: int

    def grid(self, shape: Shape) -> Shape:
        """Return the shape of the scales of a weight of at least two dimensions."""
        *stack, n_rows, n_cols = shape
        return (*stack, -(-n_rows // self.rows), -(-n_cols // self.cols))


def whole(shape: Shape) -> BlockShape:
    """One scale for each matrix."""
    return BlockShape(shape[-2], shape[-1])


def each_row(shape: Shape) -> BlockShape:
    """One scale for each row: what producers call per channel."""
    return BlockShape(1, shape[-1])


@dataclass(frozen=True, slots=True)
class ByteCodes:
    """Codes of one byte: I8 or an 8-bit float."""

    source: TensorSource

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    @property
    def span(self) -> Span | None:
        return Span(-128, 127) if self.source.dtype is StoredType.I8 else None

    def read(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        return decode_bytes(read_rows(self.source, files, first, n_rows), self.source.dtype)


@dataclass(frozen=True, slots=True)
class NibbleCodes:
    """Codes of four bits, e2m1, two in a byte of U8, the low nibble first."""

    source: TensorSource
    has_negative_zero: bool = True

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    @property
    def span(self) -> Span:
        return E2M1_SPAN

    def read(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        raw = read_rows(self.source, files, first, n_rows)
        return decode_nibbles(raw, has_negative_zero=self.has_negative_zero)


@dataclass(frozen=True, slots=True)
class FactorGrid:
    """Scales or zero points, one a block.

    source: a matrix (n_matrices * grid rows, grid columns). n_rows: of one matrix of the weight.
    multiplier, divisor: what all are multiplied with or divided by in float32, before they are used.
    rounded_to: the type that they are cast to first; None to take them as they are.
    """

    source: TensorSource
    block_rows: int
    n_rows: int
    multiplier: float | None = None
    divisor: float | None = None
    rounded_to: StoredType | None = None

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def read(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        rows = np.arange(first, first + n_rows)
        matrices, rows_in_matrix = np.divmod(rows, self.n_rows)
        grid_rows = matrices * -(-self.n_rows // self.block_rows) + rows_in_matrix // self.block_rows
        start, end = int(grid_rows[0]), int(grid_rows[-1]) + 1
        stored = self._values(read_rows(self.source, files, start, end - start))
        values: F32Array = np.take(stored, grid_rows - start, axis=0)
        return values

    def apart(self, dtype: StoredType) -> Apart | None:
        """Take out the factor that all have in common; None where there is none. dtype: of the weight."""
        if self.rounded_to is not None or (self.multiplier is None) is (self.divisor is None):
            return None
        common = self.multiplier if self.divisor is None else np.float32(1) / np.float32(self.divisor)
        return Apart(replace(self, multiplier=None, divisor=None), float(np.float32(common)), dtype)

    def _values(self, raw: U8Array) -> F32Array:
        dtype = self.source.dtype
        values = as_float32(raw, dtype) if dtype in FLOAT_TYPES else decode_bytes(raw, dtype)
        if self.multiplier is not None:
            values = values * np.float32(self.multiplier)
        if self.divisor is not None:
            values = values / np.float32(self.divisor)
        return values if self.rounded_to is None else rounded(values, self.rounded_to)


def factor_grid(source: TensorSource, shape: Shape, blocks: BlockShape) -> FactorGrid:
    """View a tensor of as many numbers as the weight's grid of blocks has, in that order, as the grid."""
    *stack, n_rows, n_cols = blocks.grid(shape)
    return FactorGrid(replace(source, shape=(math.prod(stack) * n_rows, n_cols)), blocks.rows, shape[-2])


def is_grid(shape: Shape, wanted: Shape) -> bool:
    """Tell whether a shape is a grid's as producers write it.

    (32, 1) may be (32,), and (1, 1) may be (1,) or (): dimensions of 1 at the end are left out. modelopt writes (4, 6)
    also as (4, 1, 6, 1).
    """
    if len(shape) < len(wanted):
        return shape == wanted[: len(shape)] and set(wanted[len(shape) :]) == {1}
    interleaved = tuple(n for size in wanted for n in (size, 1))
    return shape in {wanted, interleaved}


@dataclass(frozen=True, slots=True)
class ScaledTensor:
    """A weight of the model as codes and what scales them.

    dtype: what the products are rounded to. group_of: the group of each column, where columns do not fill their groups
    in order. rounds_differences: codes and zero points are floats, whose differences torch rounds too.
    """

    name: str
    shape: Shape
    dtype: StoredType
    codes: Codes
    scales: Factors
    block_cols: int
    zeros: Factors | None = None
    group_of: NDArray[np.intp] | None = field(default=None, compare=False, repr=False)
    rounds_differences: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the files that all rows are made from."""
        return self.codes.nbytes + self.scales.nbytes + (self.zeros.nbytes if self.zeros else 0)

    def integers(self) -> Integers | str:
        """See OfIntegers."""
        if self.group_of is not None:
            return "its columns are not in the order of their groups"
        if self.codes.span is None or (self.zeros is not None and self.rounds_differences):
            return "its codes or zero points are floats"
        apart = self.scales.apart(self.dtype) if isinstance(self.scales, FactorGrid) else None
        return Integers(self.codes, self.codes.span, self.scales, self.block_cols, self.zeros, apart=apart)

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        with np.errstate(all="ignore"):  # a scale may be NaN or infinite; the run says where
            for rows in pieces(len(out), self.shape[-1]):
                values = self._decode(files, first + rows.start, len(rows))
                out[rows.start : rows.stop] = to_bytes(values, self.dtype)

    def _decode(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        values = self.codes.read(files, first, n_rows)
        if self.zeros is not None:
            self._apply(np.subtract, values, self.zeros.read(files, first, n_rows))
            if self.rounds_differences:
                values = rounded(values, self.dtype)
        self._apply(np.multiply, values, self.scales.read(files, first, n_rows))
        return values

    def _apply(self, operation: np.ufunc, values: F32Array, factors: F32Array) -> None:
        """Combine values (n_rows, n_cols) with the factors (n_rows, n_groups) of their columns, in place."""
        if self.group_of is not None:
            operation(values, np.take(factors, self.group_of, axis=1), out=values)
            return
        n_full = values.shape[1] // self.block_cols
        n_even = n_full * self.block_cols
        if n_full:
            # A view, since only the last axis splits: the operation is in place.
            blocks = values[:, :n_even].reshape(len(values), n_full, self.block_cols)
            operation(blocks, factors[:, :n_full, None], out=blocks)
        if n_even < values.shape[1]:
            operation(values[:, n_even:], factors[:, n_full:], out=values[:, n_even:])


def read_rows(source: TensorSource, files: SourceFiles, first: int, n_rows: int) -> U8Array:
    """Read whole rows of a stored matrix: uint8 (n_rows, bytes of a row)."""
    out = np.empty((n_rows, matrix_shape(source.shape)[1] * source.dtype.itemsize), np.uint8)
    source.read_rows(files, first, out)
    return out
