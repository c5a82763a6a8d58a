"""The one vocabulary for what is done to a tensor on its way: each view is a tensor, made of others.

    Rows           some rows, or all of them under another name
    Blocks         of each `period` rows, `n_taken` from `first` on: one of Q, K and V, a gate of gate and up
    Swapped        rows seen as (…, a, b, inner) become (…, b, a, inner): rotary halves interleaved
    Concatenated   one after the other along the first axis; Stacked: along a new one, as experts are
    Transposed     the last two axes changed
    Shifted        a number added: Gemma's norms
    AsFloat32      the same values in float32
    Constant       numbers that are computed from the config

A view is frozen and pickles; it gives any rows, a slice at a time, and says by `nbytes` how many bytes of the files
these are made from. Rows may be asked for anywhere; `row_unit` says at which multiples slices are cut best.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import lcm, prod
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.values import as_float32, to_bytes
from convert.checkpoint.source import Shape, StoredType, matrix_shape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.checkpoint.source import Tensor
    from convert.checkpoint.source_files import SourceFiles, U8Array

_CHUNK_VALUES: Final = 1 << 20  # what a view that must look at more than it gives reads at a time


def row_unit(tensor: Tensor) -> int:
    """Return the number of rows at whose multiples slices are cut best: what a view must read together anyway."""
    unit: int = getattr(tensor, "row_unit", 1)
    return unit


def leaves(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the checkpoint's tensors that a view is made of; what is not a view is one."""
    if isinstance(tensor, OfSeveral):
        for part in tensor.parts:
            yield from leaves(part)
    elif isinstance(tensor, OfOne):
        yield from leaves(tensor.base)
    else:
        yield tensor


def read_rows(tensor: Tensor, files: SourceFiles, rows: range) -> U8Array:
    """Read rows of a tensor into memory of their own: uint8 (len(rows), bytes of a row)."""
    assert isinstance(tensor.dtype, StoredType)  # noqa: S101 - views are of floats; a GGUF's blocks go as they are
    out = np.empty((len(rows), matrix_shape(tensor.shape)[1] * tensor.dtype.itemsize), np.uint8)
    tensor.read_rows(files, rows.start, out)
    return out


def _unit_in(tensor: Tensor, n_cols: int) -> int:
    """Return a tensor's row unit in rows of another length."""
    own_cols = matrix_shape(tensor.shape)[1]
    if own_cols == n_cols:
        return row_unit(tensor)
    return max(lcm(row_unit(tensor) * own_cols, n_cols) // max(n_cols, 1), 1)


def _read_values(tensor: Tensor, files: SourceFiles, first: int, n_cols: int, out: U8Array) -> None:
    """Read values of the flattened tensor from the value `first` on, as rows of `n_cols`.

    The rows of a vector are its elements: it has others where it is a row of a stack, or a row is a vector.
    """
    own_cols = matrix_shape(tensor.shape)[1]
    if own_cols == n_cols:
        tensor.read_rows(files, first // max(n_cols, 1), out)
        return
    rows = range(first // own_cols, -(-(first + len(out) * n_cols) // own_cols))
    read, itemsize = read_rows(tensor, files, rows).reshape(-1), out.shape[1] // n_cols
    before = (first - rows.start * own_cols) * itemsize
    out[:] = read[before : before + out.size].reshape(out.shape)


@dataclass(frozen=True, slots=True)
class OfOne:
    """A view of one tensor: of its type, made from its bytes."""

    base: Tensor
    name: str

    @property
    def dtype(self) -> StoredType:
        """As the base's."""
        dtype = self.base.dtype
        assert isinstance(dtype, StoredType)  # noqa: S101 - see `read_rows`
        return dtype

    @property
    def row_unit(self) -> int:
        """As the base's, where rows stay where they are."""
        return row_unit(self.base)


@dataclass(frozen=True, slots=True)
class OfWhole(OfOne):
    """A view of all of a tensor."""

    @property
    def shape(self) -> Shape:
        """As the base's."""
        return self.base.shape

    @property
    def nbytes(self) -> int:
        """As the base's."""
        return self.base.nbytes


@dataclass(frozen=True, slots=True)
class _Part(OfOne):
    """A view of some rows of a tensor."""

    shape: Shape

    @property
    def nbytes(self) -> int:
        """The view's share of the base's bytes."""
        return self.base.nbytes * prod(self.shape) // max(prod(self.base.shape), 1)


@dataclass(frozen=True, slots=True)
class Rows(_Part):
    """Some rows of a tensor as one of its own: an expert of a stack, a cut vocabulary, or all under a new name.

    first_row: counted in the base's rows, as `matrix_shape` gives them.
    """

    first_row: int = 0

    @property
    def row_unit(self) -> int:
        """As the base's, in rows of this view."""
        return _unit_in(self.base, matrix_shape(self.shape)[1])

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        n_cols, base_cols = matrix_shape(self.shape)[1], matrix_shape(self.base.shape)[1]
        _read_values(self.base, files, self.first_row * base_cols + first * n_cols, n_cols, out)


@dataclass(frozen=True, slots=True)
class Blocks(_Part):
    """Of each `period` rows, the `n_taken` from `first` on.

    period 6, first 2, n_taken 2:    in 0 1 2 3 4 5 | 6 7 8 9 10 11    out 2 3 | 8 9
    """

    period: int
    first: int
    n_taken: int

    @property
    def row_unit(self) -> int:
        """One block; any row will do."""
        return 1

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        filled = 0
        while filled < len(out):
            block, within = divmod(first + filled, self.n_taken)
            count = min(self.n_taken - within, len(out) - filled)
            self.base.read_rows(files, block * self.period + self.first + within, out[filled : filled + count])
            filled += count


@dataclass(frozen=True, slots=True)
class Swapped(OfWhole):
    """Rows seen as (…, a, b, inner) become (…, b, a, inner).

    transformers rotates row j of a head with row j + head_dim / 2, llama.cpp with its neighbour: a = 2, b the half.

        in   a0 a1 a2 … b0 b1 b2 …        (head_dim rows of one head)
        out  a0 b0 a1 b1 a2 b2 …

    Source: conversion/llama.py, LlamaModel.permute @ 0c1e570.
    """

    a: int
    b: int
    inner: int = 1

    @property
    def row_unit(self) -> int:
        """What is swapped among itself."""
        return self.a * self.b * self.inner

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        unit = self.row_unit
        start, stop = first // unit * unit, -(-(first + len(out)) // unit) * unit
        read = np.empty((stop - start, out.shape[1]), np.uint8)
        self.base.read_rows(files, start, read)
        seen = read.reshape(-1, self.a, self.b, self.inner, out.shape[1]).swapaxes(1, 2)
        if len(out) == len(read):
            np.copyto(out.reshape(seen.shape), seen)
        else:
            out[:] = seen.reshape(read.shape)[first - start : first - start + len(out)]


def interleaved(base: Tensor, head_dim: int) -> Swapped | Rows:
    """Bring each head's two rotary halves together, pair by pair; head_dim is even."""
    if isinstance(base, Swapped) and (base.a, base.b, base.inner) == (head_dim // 2, 2, 1):
        return Rows(base.base, base.name, base.shape)  # pairs that were put into halves
    return Swapped(base, base.name, 2, head_dim // 2)


@dataclass(frozen=True, slots=True)
class OfSeveral:
    """A view of several tensors of one type."""

    name: str
    shape: Shape
    parts: tuple[Tensor, ...]

    @property
    def dtype(self) -> StoredType:
        """As the parts'."""
        dtype = self.parts[0].dtype
        assert isinstance(dtype, StoredType)  # noqa: S101 - see `read_rows`
        return dtype

    @property
    def nbytes(self) -> int:
        """Of all parts."""
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Concatenated(OfSeveral):
    """Tensors of one type, one after the other along the first axis; or, by the shape, stacked along a new one.

    ends: for each part, the row of this view behind its last: with hundreds of experts, a slice must not ask them all.
    Made by `concatenated` and `stacked`.
    """

    ends: tuple[int, ...]

    @property
    def row_unit(self) -> int:
        """What suits all parts, or, where that is too much, the largest of theirs."""
        n_cols = matrix_shape(self.shape)[1]
        units = {_unit_in(part, n_cols) for part in self.parts}
        together = lcm(*units)
        return together if together * n_cols <= _CHUNK_VALUES else max(units)

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        n_cols = matrix_shape(self.shape)[1]
        index, filled = bisect_right(self.ends, first), 0
        while filled < len(out):
            start, stop = self.ends[index - 1] if index else 0, self.ends[index]
            row = first + filled
            rows = out[filled : filled + stop - row]
            _read_values(self.parts[index], files, (row - start) * n_cols, n_cols, rows)
            index, filled = index + 1, filled + len(rows)


def concatenated(name: str, parts: tuple[Tensor, ...]) -> Concatenated:
    """Put tensors one after the other along their first axis."""
    return _joined(name, (sum(part.shape[0] for part in parts), *parts[0].shape[1:]), parts)


def stacked(name: str, parts: tuple[Tensor, ...]) -> Concatenated:
    """Stack tensors of one shape along a new first axis."""
    return _joined(name, (len(parts), *parts[0].shape), parts)


def _joined(name: str, shape: Shape, parts: tuple[Tensor, ...]) -> Concatenated:
    n_cols = max(matrix_shape(shape)[1], 1)
    ends = accumulate(prod(part.shape) // n_cols for part in parts)
    return Concatenated(name, shape, parts, tuple(ends))


@dataclass(frozen=True, slots=True)
class Transposed(OfOne):
    """The last two axes changed: (…, rows, cols) becomes (…, cols, rows).

    A matrix is read once for each slice of the view, so slices are whole matrices where these are small.
    """

    @property
    def shape(self) -> Shape:
        """The base's, its last two axes changed."""
        *batch, n_rows, n_cols = self.base.shape
        return (*batch, n_cols, n_rows)

    @property
    def nbytes(self) -> int:
        """As the base's."""
        return self.base.nbytes

    @property
    def row_unit(self) -> int:
        """A whole matrix, where that is not much."""
        n_rows, n_cols = self.shape[-2:]
        return n_rows if n_rows * n_cols <= _CHUNK_VALUES else 1

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        n_rows = self.shape[-2]
        filled = 0
        while filled < len(out):
            matrix, row = divmod(first + filled, n_rows)
            count = min(n_rows - row, len(out) - filled)
            self._read_columns(files, matrix, row, out[filled : filled + count])
            filled += count

    def _read_columns(self, files: SourceFiles, matrix: int, first_col: int, out: U8Array) -> None:
        """Read columns of one matrix as rows: uint8 (n, bytes of a column)."""
        n_rows, n_cols = self.base.shape[-2:]
        itemsize = self.dtype.itemsize
        columns = out.reshape(len(out), n_rows, itemsize)
        step = max(_CHUNK_VALUES // max(n_cols, 1), 1)
        for start in range(0, n_rows, step):
            rows = range(start, min(start + step, n_rows))
            read = read_rows(self.base, files, range(matrix * n_rows + rows.start, matrix * n_rows + rows.stop))
            wanted = read.reshape(len(rows), n_cols, itemsize)[:, first_col : first_col + len(out)]
            columns[:, rows.start : rows.stop] = wanted.swapaxes(0, 1)


@dataclass(frozen=True, slots=True)
class Shifted(OfWhole):
    """A number added to every value, as torch adds it: in float16 to float16, in float32 to all others.

    Source: conversion/base.py, ModelBase.prepare_tensors: what is not float16 is float32 before that @ 0c1e570.
    """

    by: float

    @property
    def dtype(self) -> StoredType:
        """What the sum is rounded to."""
        return StoredType.F16 if self.base.dtype is StoredType.F16 else StoredType.F32

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        rows = range(first, first + len(out))
        with np.errstate(over="ignore"):
            out[:] = to_bytes(_values(self.base, files, rows) + np.float32(self.by), self.dtype)


@dataclass(frozen=True, slots=True)
class AsFloat32(OfWhole):
    """The same values in float32."""

    @property
    def dtype(self) -> StoredType:
        """Float32."""
        return StoredType.F32

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        out[:] = _values(self.base, files, range(first, first + len(out))).view(np.uint8)


def _values(tensor: Tensor, files: SourceFiles, rows: range) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    assert isinstance(tensor.dtype, StoredType)  # noqa: S101 - see `read_rows`
    return as_float32(read_rows(tensor, files, rows), tensor.dtype)


@dataclass(frozen=True, slots=True)
class Constant:
    """Numbers in one dimension that stand in no file. data: float32, little endian."""

    name: str
    data: bytes

    @property
    def dtype(self) -> StoredType:
        """Float32."""
        return StoredType.F32

    @property
    def shape(self) -> Shape:
        """One axis."""
        return (len(self.data) // StoredType.F32.itemsize,)

    @property
    def nbytes(self) -> int:
        """None of any file."""
        return 0

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        del files
        start = first * out.shape[1]
        out.reshape(-1)[:] = np.frombuffer(self.data, np.uint8)[start : start + out.size]
