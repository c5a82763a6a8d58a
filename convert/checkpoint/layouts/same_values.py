"""Whether two stored tensors hold the same: what tells a tied model from one that was untied by training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.source import StoredType, TensorSource, matrix_shape
from convert.checkpoint.source_files import SourceFiles
from convert.checkpoint.views import leaves

if TYPE_CHECKING:
    from pathlib import Path

    from convert.checkpoint.source import Tensor

_CHUNK_NBYTES: Final = 8 << 20


def hold_the_same(one: Tensor, other: Tensor) -> bool:
    """Compare the bytes of two tensors, up to the first that differ; those of one place are not read."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if _places(one) == _places(other):
        return True
    assert isinstance(one.dtype, StoredType)  # noqa: S101 - layouts are of plain numbers
    n_rows, n_cols = matrix_shape(one.shape)
    row_nbytes, files = n_cols * one.dtype.itemsize, SourceFiles()
    step = max(_CHUNK_NBYTES // max(row_nbytes, 1), 1)
    read = [np.empty((min(step, n_rows), row_nbytes), np.uint8) for _ in range(2)]
    for first in range(0, n_rows, step):
        count = min(step, n_rows - first)
        for source, rows in zip((one, other), read, strict=True):
            source.read_rows(files, first, rows[:count])
        if not np.array_equal(read[0][:count], read[1][:count]):
            return False
    return True


def _places(tensor: Tensor) -> list[tuple[Path, int]]:
    return [(leaf.path, leaf.offset) for leaf in leaves(tensor) if isinstance(leaf, TensorSource)]
