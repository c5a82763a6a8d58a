"""Whether two stored tensors hold the same: what tells a tied model from one that was untied by training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.source import matrix_shape
from convert.checkpoint.source_files import SourceFiles

if TYPE_CHECKING:
    from convert.checkpoint.source import TensorSource

_CHUNK_NBYTES: Final = 8 << 20


def hold_the_same(one: TensorSource, other: TensorSource) -> bool:
    """Compare the bytes of two tensors, up to the first that differ; those of one place are not read."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if (one.path, one.offset) == (other.path, other.offset):
        return True
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
