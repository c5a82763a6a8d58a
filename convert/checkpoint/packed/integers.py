"""What a packed weight is before anything is rounded: integers that share a scale, as its stored tensors say.

    weight[row, col] = scale[row, group] * (code[row, col] - zero[row, group]) + bias[row, group]
    group            = col // group_cols

A decoder that holds such offers `integers()`; these become blocks of GGUF that stand for the same numbers (blocks.py).
Floats of four bits (e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6) are integers too, when they are doubled and their scales halved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.checkpoint.source import StoredType
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array

    F64Array = NDArray[np.float64]


class Codes(Protocol):
    """The numbers that are scaled, not yet scaled."""

    @property
    def nbytes(self) -> int:
        """Bytes they take in their file."""

    @property
    def span(self) -> Span | None:
        """What they may be; None if they are no integers."""

    def read(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        """Return float32 (n_rows, n_cols) of the rows from `first` on."""


class Factors(Protocol):
    """Scales or zero points: a row of them for each row of the weight."""

    @property
    def nbytes(self) -> int:
        """Bytes they take in their file."""

    def read(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        """Return float32 (n_rows, n_groups) for the weight's rows from `first` on."""


@dataclass(frozen=True, slots=True)
class Span:
    """The least and the greatest integer. is_float: they are e2m1, doubled."""

    lowest: int
    highest: int
    is_float: bool = False


E2M1_SPAN: Final = Span(-12, 12, is_float=True)


@dataclass(frozen=True, slots=True)
class Apart:
    """Scales that have a factor in common, taken out of them: NVFP4 has one for each tensor.

    dtype: what the products of scale, factor and code are rounded to, in which they must come out the same.
    """

    scales: Factors
    common: float
    dtype: StoredType


@dataclass(frozen=True, slots=True)
class Integers:
    """The integers of a weight seen as a matrix, and what makes numbers of them.

    group_cols: neighbouring columns that share a scale; the last group of a row may be shorter. apart: the scales in
    two parts, where they are stored so.
    """

    codes: Codes
    span: Span
    scales: Factors
    group_cols: int
    zeros: Factors | None = None
    biases: Factors | None = None
    apart: Apart | None = None

    def read_codes(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        """Read the integers of some rows: (n_rows, n_cols)."""
        codes = self.codes.read(files, first, n_rows)
        return codes * np.float32(2) if self.span.is_float else codes

    def read_scales(self, files: SourceFiles, first: int, n_rows: int) -> F64Array:
        """Read the scales of some rows, exact: (n_rows, n_groups)."""
        scales = self.scales.read(files, first, n_rows).astype(np.float64)
        return scales / 2 if self.span.is_float else scales

    def read_zeros(self, files: SourceFiles, first: int, n_rows: int) -> F64Array:
        """Read the codes that stand for the bias: (n_rows, n_groups), or a single 0."""
        return np.zeros((1, 1)) if self.zeros is None else self.zeros.read(files, first, n_rows).astype(np.float64)

    def read_biases(self, files: SourceFiles, first: int, n_rows: int) -> F64Array:
        """Read what is added: (n_rows, n_groups), or a single 0."""
        return np.zeros((1, 1)) if self.biases is None else self.biases.read(files, first, n_rows).astype(np.float64)


@runtime_checkable
class OfIntegers(Protocol):
    """A decoder whose weight may be integers."""

    def integers(self) -> Integers | str:
        """Give them, or say why the weight is none."""
