"""AWQ, as AutoAWQ and llm-awq's first layout store it: 4 bits, groups along the input dimension, two layouts.

    GEMM   X.qweight int32 (in, out / 8)   X.qzeros int32 (groups, out / 8)   X.scales f16 (groups, out)
           eight neighbouring output columns in a word, lowest four bits first: columns 0 2 4 6 1 3 5 7
    GEMV   X.qweight int32 (out, in / 8)   X.qzeros int32 (out, words)        X.scales f16 (out, words * 8)
           eight neighbouring input columns in a word, in order; groups padded with zeros to whole words and more

The weight is (out, in) in the scales' type: (code - zero) * scale, as AutoAWQ 0.2.7 (utils/packing_utils.py,
dequantize_gemm) computes it; GEMV's kernels have no such function, but the same formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.grouped import (
    Grouping,
    checked,
    contradiction,
    dequantize_into,
    integers_of,
    read_bit_stream,
)
from convert.checkpoint.packed.packed_module import FLOAT_TYPES, WORD_TYPES, PackedModule, unpack_modules
from convert.checkpoint.packed.values import as_float32, read_window
from convert.errors import ConfigError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.integers import Integers
    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Shape, StoredType, Tensor, TensorSource
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array

SUFFIXES: Final = ("qweight", "qzeros", "scales")
_BITS: Final = 4
_CODES: Final = 8  # in a word
# The columns whose codes are the low and the high halves of a word's four bytes.
_LOW: Final = (0, 4, 1, 5)
_HIGH: Final = (2, 6, 3, 7)
# `exllama` is what a GEMM checkpoint is loaded as; nothing saves what it makes of the weights.
_GEMM: Final = ("gemm", "exllama")
_GEMV: Final = "gemv"


@dataclass(frozen=True, slots=True)
class AwqScheme:
    """What a config says of all modules: the groupings they may have, the model's own first, and the layout."""

    groupings: tuple[Grouping, ...]
    layout: str
    where: str


@dataclass(frozen=True, slots=True)
class AwqGemmTensor:
    """The weight of a module in the GEMM layout; a slice of its rows is a window of columns of what is stored."""

    name: str
    shape: Shape
    nbytes: int
    qweight: TensorSource
    qzeros: TensorSource
    scales: TensorSource

    @property
    def dtype(self) -> StoredType:
        """The scales' type."""
        return self.scales.dtype

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        _read_rows(self, files, first, out)

    def integers(self) -> Integers:
        """See OfIntegers."""
        return integers_of(self, _BITS, self.shape[1] // self.scales.shape[0])

    def read_codes(self, files: SourceFiles, rows: range) -> U8Array:
        """See GroupedTensor."""
        return _read_columns(self.qweight, files, rows)

    def read_zeros(self, files: SourceFiles, rows: range) -> U8Array:
        """See GroupedTensor."""
        return _read_columns(self.qzeros, files, rows)

    def read_scales(self, files: SourceFiles, rows: range) -> F32Array:
        """See GroupedTensor."""
        scales = read_window(self.scales, files, rows=range(self.scales.shape[0]), cols=rows)
        return np.ascontiguousarray(as_float32(scales, self.dtype).T)


def _read_rows(tensor: AwqGemmTensor | AwqGemvTensor, files: SourceFiles, first: int, out: U8Array) -> None:
    rows = range(first, first + len(out))
    dequantize_into(
        out,
        tensor.read_codes(files, rows),
        zeros=tensor.read_zeros(files, rows),
        scales=tensor.read_scales(files, rows),
        group_of=None,
        dtype=tensor.dtype,
    )


def _read_columns(source: TensorSource, files: SourceFiles, cols: range) -> U8Array:
    """Read some columns of packed codes as rows: uint8 (len(cols), rows of the source)."""
    words = range(cols.start // _CODES, -(-cols.stop // _CODES))
    raw = np.ascontiguousarray(read_window(source, files, rows=range(source.shape[0]), cols=words).T)
    pairs = raw.reshape(len(words), _CODES // 2, -1)  # a word's four bytes, each two codes
    codes = np.empty((len(words), _CODES, pairs.shape[2]), np.uint8)
    for byte, (low, high) in enumerate(zip(_LOW, _HIGH, strict=True)):
        np.bitwise_and(pairs[:, byte], 15, out=codes[:, low])
        np.right_shift(pairs[:, byte], 4, out=codes[:, high])
    start = cols.start - words.start * _CODES
    return codes.reshape(len(words) * _CODES, -1)[start : start + len(cols)]


@dataclass(frozen=True, slots=True)
class AwqGemvTensor:
    """The weight of a module in the GEMV layout, whose rows are stored as rows."""

    name: str
    shape: Shape
    nbytes: int
    n_groups: int
    qweight: TensorSource
    qzeros: TensorSource
    scales: TensorSource

    @property
    def dtype(self) -> StoredType:
        """The scales' type."""
        return self.scales.dtype

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        _read_rows(self, files, first, out)

    def integers(self) -> Integers:
        """See OfIntegers."""
        return integers_of(self, _BITS, self.shape[1] // self.n_groups)

    def read_codes(self, files: SourceFiles, rows: range) -> U8Array:
        """See GroupedTensor."""
        return read_bit_stream(_whole_rows(self.qweight, files, rows), _BITS)

    def read_zeros(self, files: SourceFiles, rows: range) -> U8Array:
        """See GroupedTensor."""
        return read_bit_stream(_whole_rows(self.qzeros, files, rows), _BITS)[:, : self.n_groups]

    def read_scales(self, files: SourceFiles, rows: range) -> F32Array:
        """See GroupedTensor."""
        return as_float32(_whole_rows(self.scales, files, rows), self.dtype)[:, : self.n_groups]


def _whole_rows(source: TensorSource, files: SourceFiles, rows: range) -> U8Array:
    return read_window(source, files, rows=rows, cols=range(source.shape[1]))


def marks_awq(source: TensorSource) -> bool:
    """Say whether a tensor can only be AWQ's, or GPTQ's, which calls its words the same."""
    return source.name.endswith(".qweight") and source.dtype in WORD_TYPES


def unpack_awq(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give the weights of an AWQ checkpoint: see PackedFormat."""
    return unpack_modules(tensors, suffixes=SUFFIXES, decode=partial(decode_awq, read_scheme(quantization)))


def read_scheme(quantization: Quantization) -> AwqScheme:
    """Read the section as AutoAWQ and transformers write it; `w_bit` and `q_group_size` are AutoAWQ's own names.

    Raises ConfigError for values of a wrong type or absurd ones, UnsupportedError for layouts of single kernels.
    """
    fields = quantization.fields
    bits = fields.integer("bits", "w_bit")
    if bits is None:
        raise ConfigError(f"{fields.where} has no `bits`")
    group_size = fields.integer("group_size", "q_group_size")
    own = checked(Grouping(bits, 128 if group_size is None else group_size), bits=(_BITS,), where=fields.where)
    layout = fields.name("version") or fields.name("checkpoint_format") or fields.name("format") or "gemm"
    if layout not in (*_GEMM, _GEMV) or fields.name("backend") == "llm-awq":
        raise UnsupportedError(
            f"{fields.where} says AWQ's layout {shown(layout)}; decoded are `gemm` and `gemv` of AutoAWQ",
            hint="get the 16-bit checkpoint, or the same model in AutoAWQ's `gemm` layout",
        )
    return AwqScheme((own,), layout, fields.where)


def decode_awq(scheme: AwqScheme, module: PackedModule) -> Tensor:
    """Make a module's weight; CheckpointError where its tensors contradict the config or one another."""
    for suffix, types in zip(SUFFIXES, (WORD_TYPES, WORD_TYPES, FLOAT_TYPES), strict=True):
        module.part(suffix, types, n_dims=2)
    fits = _fits_gemv if scheme.layout == _GEMV else _fits_gemm
    grouping = next((grouping for grouping in scheme.groupings if fits(grouping, module)), None)
    if grouping is None:
        raise contradiction(module, scheme.groupings, f"{scheme.where}, layout {shown(scheme.layout)},")
    qweight, qzeros, scales = (module.parts[suffix] for suffix in SUFFIXES)
    name = f"{module.name}.weight"
    if scheme.layout != _GEMV:
        return AwqGemmTensor(name, (scales.shape[1], qweight.shape[0]), module.nbytes, qweight, qzeros, scales)
    n_cols = qweight.shape[1] * _CODES
    n_groups = grouping.n_groups(n_cols)
    return AwqGemvTensor(name, (qweight.shape[0], n_cols), module.nbytes, n_groups, qweight, qzeros, scales)


def _fits_gemm(grouping: Grouping, module: PackedModule) -> bool:
    """Say whether the shapes are those of AutoAWQ 0.2.7, modules/linear/gemm.py, WQLinear_GEMM."""
    n_cols, n_words = module.parts["qweight"].shape
    n_groups = grouping.n_groups(n_cols)
    return (
        n_cols % n_groups == 0
        and (grouping.group_size == -1 or n_cols == n_groups * grouping.group_size)
        and module.parts["qzeros"].shape == (n_groups, n_words)
        and module.parts["scales"].shape == (n_groups, n_words * _CODES)
    )


def _fits_gemv(grouping: Grouping, module: PackedModule) -> bool:
    """Say whether the shapes are those of AutoAWQ 0.2.7, modules/linear/gemv.py, WQLinear_GEMV."""
    n_rows, n_words = module.parts["qweight"].shape
    n_cols = n_words * _CODES
    n_groups = grouping.n_groups(n_cols)
    group_size = n_cols // n_groups
    n_zero_words = _gemv_zero_words(group_size, n_groups)
    return (
        n_cols == n_groups * group_size
        and grouping.group_size in {-1, group_size}
        and module.parts["qzeros"].shape == (n_rows, n_zero_words)
        and module.parts["scales"].shape == (n_rows, n_zero_words * _CODES)
    )


def _gemv_zero_words(group_size: int, n_groups: int) -> int:
    """Return the words of a row of zero points (calculate_zeros_width): small groups are padded; 0 for other sizes."""
    multiple = 1 if group_size >= 128 else {64: 2, 32: 4}.get(group_size)  # noqa: PLR2004
    return 0 if multiple is None else -(-n_groups // (_CODES * multiple)) * multiple
