"""Small tensors of a model that is elsewhere, read for the other process, which has no network.

Norms, biases and the like are what definitions compute with; large weights they mostly move, and those stream.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint import SourceFiles, StoredType, matrix_shape
from convert.checkpoint.source_files import stored_in
from convert.remote import in_parallel, is_stand_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint import Tensor
    from convert.checkpoint.source import Shape
    from convert.checkpoint.source_files import U8Array

_MAX_NBYTES: Final = 1 << 20  # Mamba's A_log of the largest models has half as many
_MAX_ALL_NBYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor whose bytes are here."""

    name: str
    shape: Shape
    dtype: StoredType
    data: bytes

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        del files
        begin = first * out.shape[1]
        out[:] = np.frombuffer(self.data, np.uint8)[begin : begin + out.size].reshape(out.shape)


def with_small_held(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, the small ones of those that are elsewhere replaced by their bytes, up to 64 MB of them."""
    here: dict[object, bool] = {}
    small, room = [], _MAX_ALL_NBYTES
    for name, tensor in tensors.items():
        paths = {stored.path for stored in stored_in(tensor)}
        if not any(here.setdefault(path, is_stand_in(path)) for path in paths):
            continue
        assert isinstance(tensor.dtype, StoredType)  # noqa: S101 - a checkpoint's
        nbytes = prod(tensor.shape) * tensor.dtype.itemsize
        if 0 < nbytes <= min(_MAX_NBYTES, room):
            small.append((name, tensor))
            room -= nbytes
    return {**tensors, **(dict(in_parallel(_held, small)) if small else {})}


def _held(named: tuple[str, Tensor]) -> tuple[str, Tensor]:
    name, tensor = named
    assert isinstance(tensor.dtype, StoredType)  # noqa: S101 - see above
    n_rows, n_cols = matrix_shape(tensor.shape)
    out = np.empty((n_rows, n_cols * tensor.dtype.itemsize), np.uint8)
    with closing(SourceFiles()) as files:
        tensor.read_rows(files, 0, out)
    return name, Held(tensor.name, tensor.shape, tensor.dtype, out.tobytes())
