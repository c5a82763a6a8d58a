"""What the compiled kernels do, in NumPy: a slice of raw values to several targets, in groups of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from gguf import GGMLQuantizationType

from convert.codec.contract import F16_OVERFLOW, BadValues, F32Array, U8Array
from convert.codec.reference import CODECS

Targets: TypeAlias = Sequence[tuple[GGMLQuantizationType, U8Array]]

_GROUP_VALUES: Final = 1 << 17  # about how many values are converted at once, to bound the temporaries


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Some whole rows of a slice: where their bytes lie in its buffers, and their values."""

    first_row: int
    end_row: int
    values: F32Array
    """float32 (end_row - first_row, n_cols), as stored."""

    def part_of(self, buffer: U8Array, tensor_type: GGMLQuantizationType) -> U8Array:
        """View the bytes of `buffer`, a whole slice in `tensor_type`, that belong to these rows."""
        row_nbytes = CODECS[tensor_type].row_nbytes(self.values.shape[1])
        return buffer[self.first_row * row_nbytes : self.end_row * row_nbytes]


def row_groups(source: U8Array, source_type: GGMLQuantizationType, n_cols: int) -> Iterator[RowGroup]:
    """Bring a slice to float32, some rows at a time."""
    codec = CODECS[source_type]
    rows = source.reshape(-1, codec.row_nbytes(n_cols))
    step = max(1, _GROUP_VALUES // n_cols)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        yield RowGroup(first, first + len(part), codec.decode(part))


def through_float16(values: F32Array) -> F32Array:
    """Round to float16 and back; what does not fit becomes infinite."""
    with np.errstate(all="ignore"):
        return values.astype(np.float16).astype(np.float32)


def encode_group(
    group: RowGroup,
    values: F32Array,
    source: U8Array,
    source_type: GGMLQuantizationType,
    targets: Targets,
    importance: F32Array | None = None,
) -> None:
    """Encode `values`, which stand for the group's rows, into the group's part of each target.

    importance: float32 (end_row - first_row, n_cols), or none.
    """
    for tensor_type, out in targets:
        part = group.part_of(out, tensor_type)
        if tensor_type is source_type is GGMLQuantizationType.F16:
            part[:] = group.part_of(source, source_type)  # keeps the bits of a NaN
        else:
            part[:] = CODECS[tensor_type].encode(values, importance).reshape(-1)


def count_bad_values(values: F32Array, *, float16_matters: bool) -> BadValues:
    """Count what is not finite, and what float16 cannot hold."""
    n_finite = int(np.isfinite(values).sum())
    n_fitting = int((np.abs(values) < F16_OVERFLOW).sum()) if float16_matters else n_finite
    return BadValues(values.size - n_finite, n_finite - n_fitting)
