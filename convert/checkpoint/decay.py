"""A state space's decay as a view, and the way back: checkpoints hold the logarithm of its speed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint.packed.values import as_float32, to_bytes
from convert.checkpoint.source import StoredType, matrix_shape
from convert.checkpoint.source_files import SourceFiles
from convert.checkpoint.views import OfWhole, read_rows
from convert.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.checkpoint.source import Tensor
    from convert.checkpoint.source_files import U8Array


@dataclass(frozen=True, slots=True)
class Decay(OfWhole):
    """Minus the exponential of every value: in float16 of float16, in float32 of all others.

    Correctly rounded. Torch's own, where it has Intel's library compute it, is one unit in the last place off for about
    one value in a hundred.
    Source: conversion/qwen.py, Qwen3NextModel.modify_tensors @ 0c1e570.
    """

    @property
    def dtype(self) -> StoredType:
        """What the result is rounded to."""
        return StoredType.F16 if self.base.dtype is StoredType.F16 else StoredType.F32

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        out[:] = _decay(_values(self.base, files, first, len(out)), self.dtype)


@dataclass(frozen=True, slots=True)
class Speed(OfWhole):
    """The logarithm of minus every value, whose decay is that value again. kind: its type. Made by `speed_of`."""

    kind: StoredType

    @property
    def dtype(self) -> StoredType:
        """What the logarithm is rounded to."""
        return self.kind

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        out[:] = _speed(_values(self.base, files, first, len(out)), self.kind)


def speed_of(tensor: Tensor, name: str) -> Speed:
    """Undo a decay, one number a head, in the type whose decay is the same again: float32, or else float16.

    It reads the tensor. Raises UnsupportedError for values that are no decay.
    """
    with closing(SourceFiles()) as files:
        values = _values(tensor, files, 0, matrix_shape(tensor.shape)[0])
    if not (values <= 0).all():
        raise UnsupportedError(f"tensor `{tensor.name}` holds what is no decay: numbers above 0")
    for kind in (StoredType.F32, StoredType.F16):
        again = _decay(as_float32(_speed(values, kind), kind).astype(np.float64), kind)
        if np.array_equal(as_float32(again, kind), values.astype(np.float32)):
            return Speed(tensor, name, kind)
    return Speed(tensor, name, StoredType.F32)


def _values(tensor: Tensor, files: SourceFiles, first: int, n_rows: int) -> NDArray[np.float64]:
    assert isinstance(tensor.dtype, StoredType)  # noqa: S101 - see `read_rows`
    return as_float32(read_rows(tensor, files, range(first, first + n_rows)), tensor.dtype).astype(np.float64)


def _decay(values: NDArray[np.float64], dtype: StoredType) -> U8Array:
    with np.errstate(over="ignore", under="ignore"):
        return to_bytes((-np.exp(values)).astype(np.float32), dtype)


def _speed(values: NDArray[np.float64], dtype: StoredType) -> U8Array:
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        return to_bytes(np.log(-values).astype(np.float32), dtype)
