"""Encodes one slice of a tensor for several outputs in one pass: the fast path, and the one for bad weights.

    source bytes ──▶ x float32 ──▶ F32, F16, BF16 targets
                         └─ through float16, or not ──▶ quantized targets

llama.cpp makes its quantized files from the F16 file, so identity with it means `through_f16=True`: what is quantized
is float32(float16(x)).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType

from convert.codec.compiled import EncodeRequest, EncodeTarget, Kernels, kernel_level, load_kernels
from convert.codec.contract import FLOAT_TYPES, BadValues, BlocksRefused, F32Array, Importance, U8Array, row_nbytes
from convert.codec.numpy_rows import (
    RowGroup,
    Targets,
    count_bad_values,
    encode_group,
    row_groups,
    through_float16,
)
from convert.codec.reference import CODECS
from convert.errors import ShapeError, UnsupportedError

_F16_NAN: Final = np.array([0x00, 0x7E], np.uint8)  # 0x7E00, little endian


@dataclass(frozen=True, slots=True)
class _Slice:
    """The arguments of one call, their sizes checked."""

    source: U8Array
    source_type: GGMLQuantizationType
    n_cols: int
    through_f16: bool
    targets: Targets
    importance: Importance | None
    first_row: int

    def __post_init__(self) -> None:
        if self.source_type not in FLOAT_TYPES:
            raise UnsupportedError(f"a source is F32, F16 or BF16, not {self.source_type.name}")
        if self.n_cols < 1:
            raise ShapeError(f"a row has {self.n_cols} columns")
        for tensor_type, _ in self.targets:
            if tensor_type not in CODECS:
                raise UnsupportedError(f"{tensor_type.name} is not a type this version can encode")
        n_rows = self.source.size // row_nbytes(self.source_type, self.n_cols)
        for tensor_type, buffer in ((self.source_type, self.source), *self.targets):
            _check_buffer(tensor_type, buffer, n_rows, row_nbytes(tensor_type, self.n_cols))
        if not all(out.flags.writeable for _, out in self.targets):
            raise ShapeError("a target's buffer is read-only")
        if self.importance is not None:
            _check_importance(self.importance, self.n_cols, self.first_row + n_rows)
        elif needing := [kind.name for kind, _ in self.targets if CODECS[kind].needs_importance]:
            raise UnsupportedError(f"{needing[0]} cannot be made without an importance matrix")

    @property
    def float16_matters(self) -> bool:
        return self.through_f16 or any(tensor_type is GGMLQuantizationType.F16 for tensor_type, _ in self.targets)

    @property
    def float_targets(self) -> Targets:
        return [target for target in self.targets if target[0] in FLOAT_TYPES]

    @property
    def quantized_targets(self) -> Targets:
        return [target for target in self.targets if target[0] not in FLOAT_TYPES]


def _check_buffer(tensor_type: GGMLQuantizationType, buffer: U8Array, n_rows: int, row_size: int) -> None:
    if buffer.dtype != np.uint8 or buffer.ndim != 1 or not buffer.flags.c_contiguous:
        raise ShapeError(f"a {tensor_type.name} buffer is {buffer.dtype} {buffer.shape}, not contiguous uint8 (n,)")
    if buffer.size != n_rows * row_size:
        raise ShapeError(f"a {tensor_type.name} buffer has {buffer.size} bytes, {n_rows} rows have {n_rows * row_size}")


def _check_importance(importance: Importance, n_cols: int, n_rows: int) -> None:
    columns = importance.columns
    if columns.dtype != np.float32 or not columns.flags.c_contiguous:
        raise ShapeError(f"importance is {columns.dtype} {columns.shape}, not contiguous float32")
    if columns.shape[1:] != (n_cols,) or len(columns) * importance.rows_each < n_rows:
        wanted = f"{n_rows} rows of {n_cols}, a row of it for {importance.rows_each}"
        raise ShapeError(f"importance is {columns.shape}, wanted it for {wanted}")


def encode_rows(
    source: U8Array,
    source_type: GGMLQuantizationType,
    *,
    n_cols: int,
    through_f16: bool,
    targets: Targets,
    importance: Importance | None = None,
    first_row: int = 0,
) -> BadValues:
    """Encode a slice for every target in one pass over its values.

    source: uint8 (n,), the raw bytes of n_rows * n_cols values, in C order, of any alignment.
    source_type: F32, F16 or BF16.
    n_cols: the row's length, a multiple of every target's block size.
    through_f16: quantized targets are computed from float32(float16(x)), not from x.
    targets: a type and the uint8 (n_rows * row_nbytes,) buffer to fill, for each output.
    importance: of the whole tensor's columns; types that do not take it are as without.
    first_row: where in the tensor the slice begins; `importance` may differ between its experts.
    Returns how many source values are bad. If any is not finite, quantized targets hold no particular bytes; nor do
    blocks that are refused.
    F16 and BF16 round to nearest, ties to even; an F16 source goes to an F16 target unchanged.
    Thread-safe; one call into the kernels, without the interpreter's lock and without allocation.
    Raises ShapeError for a length that does not fit, UnsupportedError for a type without a codec, or without the
    importance that it needs.
    """
    work = _Slice(source, source_type, n_cols, through_f16, targets, importance, first_row)
    kernels, level = load_kernels(), kernel_level()
    if kernels is None or level not in kernels.levels:
        return _encode_with_numpy(work)
    return _encode_with_kernels(work, kernels, level)


def _encode_with_kernels(work: _Slice, kernels: Kernels, level: str) -> BadValues:
    n_targets = len(work.targets)
    listed = (EncodeTarget * n_targets)(*(EncodeTarget(kind, out.ctypes.data) for kind, out in work.targets))
    request = EncodeRequest(
        source=work.source.ctypes.data,
        n_values=work.source.size // CODECS[work.source_type].type_size,
        n_cols=work.n_cols,
        source_type=int(work.source_type),
        through_f16=work.through_f16,
        n_targets=n_targets,
        targets=ctypes.cast(listed, ctypes.POINTER(EncodeTarget)),
        importance=work.importance and work.importance.columns.ctypes.data,
        rows_each=work.importance.rows_each if work.importance else 1,
        first_row=work.first_row,
    )
    for kind, _ in work.targets:
        kernels.give_grid(level, kind)
    kernels.encode(level, request)
    return BadValues(request.n_nonfinite, request.n_overflow, request.n_refused)


def _encode_with_numpy(work: _Slice) -> BadValues:
    bad = BadValues(0, 0)
    for group in row_groups(work.source, work.source_type, work.n_cols):
        bad += count_bad_values(group.values, float16_matters=work.float16_matters)
        encode_group(group, group.values, work.source, work.source_type, work.float_targets)
        try:
            values, weights = _to_quantize(work, group), _importance_of(work, group)
            encode_group(group, values, work.source, work.source_type, work.quantized_targets, weights)
        except BlocksRefused as refused:
            bad += BadValues(0, 0, refused.n_blocks)
    return bad


def _to_quantize(work: _Slice, group: RowGroup) -> F32Array:
    return through_float16(group.values) if work.through_f16 else group.values


def _importance_of(work: _Slice, group: RowGroup) -> F32Array | None:
    if work.importance is None:
        return None
    return work.importance.of_rows(work.first_row + group.first_row, group.end_row - group.first_row)


def encode_rows_allowing_nonfinite(
    source: U8Array,
    source_type: GGMLQuantizationType,
    *,
    n_cols: int,
    through_f16: bool,
    targets: Targets,
    importance: Importance | None = None,
    first_row: int = 0,
) -> BadValues:
    """Encode a slice that holds bad values, for `allow_nonfinite`; rare, so in NumPy.

    Arguments and result as for encode_rows. Float targets hold NaN and infinities as NumPy converts them. In a
    quantized target, a block with a value that is not finite (after float16, where weights go through it) has a float16
    NaN as scale, and as minimum, and otherwise the bytes of a block of zeros: all of it decodes to NaN. Other blocks
    are as usual, that is as if the bad ones were zeros.
    """
    work = _Slice(source, source_type, n_cols, through_f16, targets, importance, first_row)
    bad = BadValues(0, 0)
    for group in row_groups(source, source_type, n_cols):
        bad += count_bad_values(group.values, float16_matters=work.float16_matters)
        encode_group(group, group.values, source, source_type, work.float_targets)
        for tensor_type, out in work.quantized_targets:
            bad += _encode_poisoned(work, group, tensor_type, group.part_of(out, tensor_type))
    return bad


def _encode_poisoned(work: _Slice, group: RowGroup, tensor_type: GGMLQuantizationType, out: U8Array) -> BadValues:
    codec, values = CODECS[tensor_type], _to_quantize(work, group)
    blocks = values.reshape(-1, codec.block_size)
    finite = np.isfinite(blocks).all(axis=1, keepdims=True)
    if not codec.scale_offsets and not finite.all():
        n_bad = int((~finite).sum())
        raise UnsupportedError(
            f"{tensor_type.name} has no scale that is NaN, as {n_bad} block{'s' * (n_bad > 1)} needs one"
        )
    bad = encode_rows(
        np.where(finite, blocks, np.float32(0)).reshape(-1).view(np.uint8),
        GGMLQuantizationType.F32,
        n_cols=work.n_cols,
        through_f16=False,
        targets=[(tensor_type, out)],
        importance=work.importance,
        first_row=work.first_row + group.first_row,
    )
    encoded = out.reshape(-1, codec.type_size)
    for offset in codec.scale_offsets:
        scale = encoded[:, offset : offset + 2]
        scale[:] = np.where(finite, scale, _F16_NAN)
    return bad
