"""What an adapter does to a weight, a slice of whole rows at a time, in float32.

    plain LoRA    w + s * (left @ right)                            left (rows, r), right (r, columns)
    DoRA          m / norm(w0 + d) * (w + d),  d = s * (left @ right)   w0: the weight before any adapter

The norm is over what one output is made from: a row of a linear layer's weight; of an embedding, and of GPT-2's
transposed layers, a column, for which the whole weight is read once, before all else.
Source: peft 0.21.2, tuners/lora/layer.py (get_delta_weight), variants.py (DoraLinearVariant, DoraEmbeddingVariant).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from convert.checkpoint import StoredType, TensorSource, matrix_shape
from convert.checkpoint.packed.values import as_float32, read_elements, read_window
from convert.checkpoint.statistics import OfWhole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from convert.checkpoint import SourceFiles, Tensor
    from convert.codec.contract import F32Array

_CHUNK_VALUES: Final = 1 << 20  # of a factor at a time, however high the rank


class Change(Protocol):
    """One step of a merge: changes rows in place."""

    @property
    def nbytes(self) -> int:
        """Bytes of the adapter's file that it is made from."""

    def apply(self, values: F32Array, unmerged: F32Array, files: SourceFiles, first: int) -> None:
        """Change `values`, float32 (n_rows, n_cols), which are the rows from `first` on.

        unmerged: the same rows before any change; not to be written to. May be the same array.
        """


@dataclass(frozen=True, slots=True)
class Factor:
    """A matrix that an adapter stores, or its transpose, or an expert's part of it.

    first_row, first_col, col_step: where the part begins in the stored matrix (before transposing), and how far apart
    its columns are.
    """

    source: TensorSource
    is_transposed: bool = False
    first_row: int = 0
    first_col: int = 0
    col_step: int = 1

    def read(self, files: SourceFiles, rows: range, cols: range) -> F32Array:
        """Read part of the matrix: float32 (len(rows), len(cols))."""
        if self.is_transposed:
            transposed: F32Array = self._stored(files, cols, rows).T
            return transposed
        return self._stored(files, rows, cols)

    def _stored(self, files: SourceFiles, rows: range, cols: range) -> F32Array:
        rows = range(self.first_row + rows.start, self.first_row + rows.stop)
        first = self.first_col + cols.start * self.col_step
        cols = range(first, first + (len(cols) - 1) * self.col_step + 1)
        window: F32Array = _window(self.source, files, rows, cols)[:, :: self.col_step]
        return window


def _window(source: TensorSource, files: SourceFiles, rows: range, cols: range) -> F32Array:
    if source.is_transposed:
        flipped = replace(source, shape=source.shape[::-1], is_transposed=False)
        transposed: F32Array = as_float32(read_window(flipped, files, rows=cols, cols=rows), source.dtype).T
        return transposed
    return as_float32(read_window(source, files, rows=rows, cols=cols), source.dtype)


@dataclass(frozen=True, slots=True)
class LowRank:
    """scaling * left @ right, added. rank: columns of left, rows of right. n_cols: of the weight."""

    left: Factor
    right: Factor
    rank: int
    n_cols: int
    scaling: np.float32

    @property
    def nbytes(self) -> int:
        return self.left.source.nbytes + self.right.source.nbytes

    def delta(self, files: SourceFiles, rows: range) -> F32Array:
        """Compute rows of the change: float32 (len(rows), n_cols)."""
        step = max(1, _CHUNK_VALUES // max(len(rows), self.n_cols))
        total: F32Array | None = None
        with np.errstate(over="ignore", invalid="ignore"):  # the stream tells of what is not finite
            for start in range(0, self.rank, step):
                ranks = range(start, min(start + step, self.rank))
                left = self.left.read(files, rows, ranks)
                product = left @ self.right.read(files, ranks, range(self.n_cols))
                total = product if total is None else np.add(total, product, out=total)
            assert total is not None  # noqa: S101 - a rank is at least 1
            total *= self.scaling
        return total

    def apply(self, values: F32Array, unmerged: F32Array, files: SourceFiles, first: int) -> None:
        del unmerged
        with np.errstate(over="ignore", invalid="ignore"):
            values += self.delta(files, range(first, first + len(values)))


@dataclass(frozen=True, slots=True)
class Dora:
    """A low-rank change whose rows are then scaled to the lengths that were learned. magnitude: one number a row."""

    change: LowRank
    magnitude: TensorSource

    @property
    def nbytes(self) -> int:
        return self.change.nbytes + self.magnitude.nbytes

    def apply(self, values: F32Array, unmerged: F32Array, files: SourceFiles, first: int) -> None:
        delta = self.change.delta(files, range(first, first + len(values)))
        raw = read_elements(self.magnitude, files, first, len(values))
        with np.errstate(all="ignore"):
            before = None if unmerged is values else unmerged + delta
            values += delta
            norms = np.linalg.norm(values if before is None else before, axis=1)
            values *= as_float32(raw.reshape(1, -1), self.magnitude.dtype).reshape(-1, 1) / norms.reshape(-1, 1)


@dataclass(frozen=True, slots=True)
class ColumnDora(OfWhole):
    """DoRA of a weight whose outputs are its columns. magnitude: one number a column. base: the unmerged weight.

    norms: float32 (1, n_cols), the lengths of the changed weight's columns, once they are known.
    """

    change: LowRank
    magnitude: TensorSource
    base: Tensor
    norms: F32Array | None = field(default=None, compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        return self.change.nbytes + self.magnitude.nbytes

    def apply(self, values: F32Array, unmerged: F32Array, files: SourceFiles, first: int) -> None:
        del unmerged
        assert self.norms is not None  # noqa: S101 - the first pass comes before
        raw = read_elements(self.magnitude, files, 0, self.change.n_cols)
        with np.errstate(all="ignore"):
            factors = as_float32(raw.reshape(1, -1), self.magnitude.dtype) / self.norms
            values += self.change.delta(files, range(first, first + len(values)))
            values *= factors

    @property
    def lacks_statistics(self) -> bool:
        """Always at first."""
        return self.norms is None

    def portions(self) -> Iterator[range]:
        """Cut the weight's rows."""
        n_rows, n_cols = matrix_shape(self.base.shape)
        step = max(1, _CHUNK_VALUES // n_cols)
        return (range(first, min(first + step, n_rows)) for first in range(0, n_rows, step))

    def measure(self, files: SourceFiles, portion: range) -> NDArray[np.float64]:
        """Add up the squares of some rows: float64 (1, n_cols)."""
        with np.errstate(all="ignore"):
            changed = read_values(self.base, files, portion) + self.change.delta(files, portion)
            squares: NDArray[np.float64] = np.square(changed, dtype=np.float64).sum(axis=0, keepdims=True)
        return squares

    def gather(self, gathered: list[NDArray[np.float64]], measured: NDArray[np.float64]) -> None:
        """Add, in order: the sum's last bit depends on that."""
        with np.errstate(all="ignore"):
            gathered[:] = [sum(gathered, measured)]

    def with_statistics(self, gathered: Sequence[NDArray[np.float64]]) -> ColumnDora:
        with np.errstate(all="ignore"):
            return replace(self, norms=np.sqrt(gathered[0]).astype(np.float32))


@dataclass(frozen=True, slots=True)
class AddedBias:
    """scaling * bias, added to a vector: what `lora_bias` learns."""

    source: TensorSource
    scaling: np.float32

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def apply(self, values: F32Array, unmerged: F32Array, files: SourceFiles, first: int) -> None:
        del unmerged
        raw = read_elements(self.source, files, first, len(values))
        values += as_float32(raw.reshape(1, -1), self.source.dtype).reshape(-1, 1) * self.scaling


@dataclass(frozen=True, slots=True)
class ReplacedRows:
    """Single rows of an embedding that were trained. rows: which, in the order of the source's."""

    source: TensorSource
    rows: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def apply(self, values: F32Array, unmerged: F32Array, files: SourceFiles, first: int) -> None:
        del unmerged
        for index, row in enumerate(self.rows):
            if first <= row < first + len(values):
                window = range(index, index + 1)
                values[row - first] = _window(self.source, files, window, range(values.shape[1]))[0]


def read_values(tensor: Tensor, files: SourceFiles, rows: range) -> F32Array:
    """Read whole rows of any float tensor: float32 (len(rows), n_cols)."""
    values: F32Array = np.empty((len(rows), matrix_shape(tensor.shape)[1]), np.float32)
    read_values_into(tensor, files, rows.start, values)
    return values


def read_values_into(tensor: Tensor, files: SourceFiles, first: int, out: F32Array) -> None:
    """Read whole rows of any float tensor into float32 (n_rows, n_cols), contiguous."""
    if tensor.dtype is StoredType.F32:
        tensor.read_rows(files, first, out.view(np.uint8))
        return
    raw = np.empty((len(out), out.shape[1] * tensor.dtype.itemsize), np.uint8)
    tensor.read_rows(files, first, raw)
    out[...] = raw.view("<f2") if tensor.dtype is StoredType.F16 else as_float32(raw, tensor.dtype)
