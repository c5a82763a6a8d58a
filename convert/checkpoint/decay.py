"""A state space's decay as a view: checkpoints hold the logarithm of its speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint.packed.values import as_float32, to_bytes
from convert.checkpoint.source import StoredType
from convert.checkpoint.views import OfOne, read_rows

if TYPE_CHECKING:
    from convert.checkpoint.source import Shape
    from convert.checkpoint.source_files import SourceFiles, U8Array


@dataclass(frozen=True, slots=True)
class Decay(OfOne):
    """Minus the exponential of every value: in float16 of float16, in float32 of all others.

    Correctly rounded. Torch's own, where it has Intel's library compute it, is one unit in the last place off for about
    one value in a hundred.
    Source: conversion/qwen.py, Qwen3NextModel.modify_tensors @ 0c1e570.
    """

    @property
    def shape(self) -> Shape:
        """As the base's."""
        return self.base.shape

    @property
    def nbytes(self) -> int:
        """As the base's."""
        return self.base.nbytes

    @property
    def dtype(self) -> StoredType:
        """What the result is rounded to."""
        return StoredType.F16 if self.base.dtype is StoredType.F16 else StoredType.F32

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        stored = read_rows(self.base, files, range(first, first + len(out)))
        assert isinstance(self.base.dtype, StoredType)  # noqa: S101 - see `read_rows`
        values = as_float32(stored, self.base.dtype).astype(np.float64)
        with np.errstate(over="ignore", under="ignore"):
            out[:] = to_bytes((-np.exp(values)).astype(np.float32), self.dtype)
