"""Numbers as packed checkpoints store them: small tensors read whole, floats rounded as torch rounds them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType

from convert.checkpoint.source import StoredType, TensorSource, matrix_shape
from convert.checkpoint.source_files import SourceFiles
from convert.codec import CODECS, encode_rows
from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array

MAX_SMALL_NBYTES: Final = 1 << 20
_SHORT_ROW_NBYTES: Final = 1 << 13
_SCRATCH_NBYTES: Final = 1 << 18
_PIECE_VALUES: Final = 1 << 16
_MANY_VALUES: Final = 1 << 14  # from which on a call of the kernels costs less than NumPy's slower rounding

FLOATS: Final = {
    StoredType.F32: GGMLQuantizationType.F32,
    StoredType.F16: GGMLQuantizationType.F16,
    StoredType.BF16: GGMLQuantizationType.BF16,
}
_INTEGERS: Final = {
    StoredType.I64: "<i8",
    StoredType.I32: "<i4",
    StoredType.I16: "<i2",
    StoredType.I8: "i1",
    StoredType.U64: "<u8",
    StoredType.U32: "<u4",
    StoredType.U16: "<u2",
    StoredType.U8: "u1",
    StoredType.BOOL: "u1",
}


def read_small(source: TensorSource) -> U8Array:
    """Read a small tensor whole: uint8 (nbytes,). CheckpointError beyond 1 MB: what is small must not be hostile."""
    if source.nbytes > MAX_SMALL_NBYTES:
        raise CheckpointError(f"tensor {shown(source.name)} has {source.nbytes} bytes, at most {MAX_SMALL_NBYTES}")
    out = np.empty(source.nbytes, np.uint8)
    with closing(SourceFiles()) as files:
        files.read_into(source.path, source.offset, out, name=source.name)
    return out


def read_elements(source: TensorSource, files: SourceFiles, first: int, count: int) -> U8Array:
    """Read `count` numbers of a flattened tensor from the number `first` on: uint8 (count * itemsize,)."""
    out = np.empty(count * source.dtype.itemsize, np.uint8)
    files.read_into(source.path, source.offset + first * source.dtype.itemsize, out, name=source.name)
    return out


def read_window(source: TensorSource, files: SourceFiles, *, rows: range, cols: range) -> U8Array:
    """Read part of a matrix: uint8 (len(rows), len(cols) * itemsize). One read where the columns are all there are.

    Where a part of a row is wanted, short rows are read whole, many at once: a read costs as much as 10 KB or so.
    """
    n_cols, itemsize = matrix_shape(source.shape)[1], source.dtype.itemsize
    out = np.empty((len(rows), len(cols) * itemsize), np.uint8)
    row_nbytes, before = n_cols * itemsize, cols.start * itemsize
    start = source.offset + rows.start * row_nbytes
    if len(cols) == n_cols:
        files.read_into(source.path, start, out, name=source.name)
    elif row_nbytes <= _SHORT_ROW_NBYTES:
        scratch = np.empty((min(max(_SCRATCH_NBYTES // row_nbytes, 1), len(rows)), row_nbytes), np.uint8)
        for first in range(0, len(rows), len(scratch)):
            part = out[first : first + len(scratch)]
            files.read_into(source.path, start + first * row_nbytes, scratch[: len(part)], name=source.name)
            part[...] = scratch[: len(part), before : before + out.shape[1]]
    else:
        for index, row in enumerate(out):
            files.read_into(source.path, start + index * row_nbytes + before, row, name=source.name)
    return out


def pieces(n_rows: int, n_cols: int) -> Iterator[range]:
    """Cut rows into runs of about 65536 values: what decoders hold in float32 then stays in a core's cache.

    It also keeps their memory small where many workers have a slice each.
    """
    step = max(_PIECE_VALUES // max(n_cols, 1), 1)
    for first in range(0, n_rows, step):
        yield range(first, min(first + step, n_rows))


def as_float32(raw: U8Array, dtype: StoredType) -> F32Array:
    """Read F32, F16 or BF16 bytes (…, n * itemsize) as float32 (…, n), exactly."""
    rows = CODECS[FLOATS[dtype]].decode(raw.reshape(-1, raw.shape[-1]))
    return rows.reshape(*raw.shape[:-1], -1)


def as_integers(raw: U8Array, dtype: StoredType) -> NDArray[Any]:
    """View bytes (…, n * itemsize) as the integers that they are, (…, n)."""
    return raw.view(_INTEGERS[dtype])


def to_bytes(values: F32Array, dtype: StoredType) -> U8Array:
    """Round float32 (n_rows, n_cols) to nearest, ties to even: uint8 (n_rows, n_cols * itemsize) of a float type."""
    values, tensor_type = np.ascontiguousarray(values), FLOATS[dtype]
    with np.errstate(over="ignore"):
        if values.size < _MANY_VALUES:
            return CODECS[tensor_type].encode(values)
        out = np.empty((len(values), values.shape[1] * dtype.itemsize), np.uint8)
        source, targets = values.reshape(-1).view(np.uint8), [(tensor_type, out.reshape(-1))]
        bad = encode_rows(source, GGMLQuantizationType.F32, n_cols=values.shape[1], through_f16=False, targets=targets)
        # The kernels make every NaN a quiet one, NumPy keeps its bits.
        return CODECS[tensor_type].encode(values) if bad.n_nonfinite else out


def rounded(values: F32Array, dtype: StoredType) -> F32Array:
    """Round float32 values, of any shape, as an operation of torch in `dtype` leaves them."""
    if dtype is StoredType.F32:
        return values
    matrix = values.reshape(1, -1)
    return as_float32(to_bytes(matrix, dtype), dtype).reshape(values.shape)
