"""AQLM: each run of a row's weights is the sum of one vector out of each of several codebooks, times the row's scale.

    X.codes      I8 or I16 (out / g, in / h, codebooks)       which vector; read as unsigned
    X.codebooks  float (codebooks, 2 ** bits, g, h)           vectors of g rows and h columns; g is 1 as a rule, h is 8
    X.scales     float (out / g, 1, 1, 1)

The sum is made in float32 and rounded to the codebooks' type, then multiplied and rounded again, as aqlm 1.1.7
(utils.py, _dequantize_weight) does with torch's `embedding_bag`; that rounds ties of bfloat16 up where it uses FBGEMM
(CPUs with AVX2), to even elsewhere and here. Source of the method: arXiv:2401.06118, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.module_names import read_names
from convert.checkpoint.packed.packed_format import nothing_packed
from convert.checkpoint.packed.packed_module import FLOAT_TYPES, PackedModule, unpack_modules
from convert.checkpoint.packed.values import as_float32, as_integers, pieces, read_elements, rounded, to_bytes
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Shape, Tensor, TensorSource
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array

SUFFIXES: Final = ("codes", "codebooks", "scales")
MAX_CODEBOOKS_NBYTES: Final = 8 << 20  # they are read whole for every slice; two of 16 bits are 2 MB
_KEYS: Final = ("num_codebooks", "nbits_per_codebook", "out_group_size", "in_group_size")
_MAX_BITS: Final = 16


@dataclass(frozen=True, slots=True)
class AqlmTensor:
    """The weight of a module packed by AQLM; a slice of its rows is a run of rows of the codes."""

    name: str
    nbytes: int
    codes: TensorSource
    codebooks: TensorSource
    scales: TensorSource

    @property
    def dtype(self) -> StoredType:
        """The codebooks' type."""
        return self.codebooks.dtype

    @property
    def shape(self) -> Shape:
        """The weight's shape."""
        (n_out, n_in, _), (_, _, n_rows, n_cols) = self.codes.shape, self.codebooks.shape
        return n_out * n_rows, n_in * n_cols

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        n_books, n_vectors, *_ = self.codebooks.shape
        raw = read_elements(self.codebooks, files, 0, self.codebooks.n_elements)
        codebooks = raw.reshape(n_books, n_vectors, -1)
        with np.errstate(over="ignore", invalid="ignore"):  # a scale may be infinite; the run says where
            for rows in pieces(len(out), self.shape[1]):
                values = self._decode(files, codebooks, range(first + rows.start, first + rows.stop))
                out[rows.start : rows.stop] = to_bytes(values, self.dtype)

    def _decode(self, files: SourceFiles, codebooks: U8Array, rows: range) -> F32Array:
        """Return some rows, not yet rounded the last time: float32 (n_rows, n_cols)."""
        n_rows, n_cols = self.codebooks.shape[2:]
        groups = range(rows.start // n_rows, (rows.stop - 1) // n_rows + 1)
        vectors = rounded(self._sums(files, codebooks, groups), self.dtype)
        scales = as_float32(read_elements(self.scales, files, groups.start, len(groups)), self.dtype)
        vectors *= scales[:, None, None]
        stacked: F32Array = vectors.reshape(len(groups), -1, n_rows, n_cols).swapaxes(1, 2).reshape(-1, self.shape[1])
        start = rows.start - groups.start * n_rows
        return stacked[start : start + len(rows)]

    def _sums(self, files: SourceFiles, codebooks: U8Array, groups: range) -> F32Array:
        """Return the sums of the vectors of some groups of rows: float32 (n_groups, in / h, g * h)."""
        n_books, n_vectors, n_rows, n_cols = self.codebooks.shape
        per_group = self.codes.shape[1] * n_books
        raw = read_elements(self.codes, files, groups.start * per_group, len(groups) * per_group)
        unsigned = StoredType.U8 if self.codes.dtype is StoredType.I8 else StoredType.U16
        codes = as_integers(raw, unsigned).reshape(len(groups), -1, n_books) & (n_vectors - 1)
        sums = np.zeros((len(groups), self.codes.shape[1], n_rows * n_cols), np.float32)
        for book in range(n_books):
            sums += as_float32(np.take(codebooks[book], codes[:, :, book], axis=0), self.dtype)
        return sums


def marks_aqlm(source: TensorSource) -> bool:
    """Say whether a tensor can only be AQLM's."""
    return source.name.endswith(".codebooks")


def unpack_aqlm(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give the weights of an AQLM checkpoint: see PackedFormat."""
    fields = quantization.fields
    declared = tuple(fields.integer(key) for key in _KEYS)
    left_out = read_names(fields, "linear_weights_not_to_quantize")
    if not any(name.rpartition(".")[2] in SUFFIXES for name in tensors):
        raise nothing_packed(quantization, "a module's codes")
    return unpack_modules(tensors, suffixes=SUFFIXES, decode=partial(_decode, declared, left_out, fields.where))


def _decode(declared: tuple[int | None, ...], left_out: frozenset[str], where: str, module: PackedModule) -> AqlmTensor:
    """Make a module's weight; CheckpointError where its tensors contradict the config or one another."""
    codes = module.part("codes", (StoredType.I8, StoredType.I16), n_dims=3)
    codebooks = module.part("codebooks", FLOAT_TYPES, n_dims=4)
    scales = module.part("scales", (codebooks.dtype,), n_dims=4)
    n_books, n_vectors, n_rows, n_cols = codebooks.shape
    bits = n_vectors.bit_length() - 1
    _check_size(module, codes, codebooks)
    if codes.shape[2] != n_books or scales.shape != (codes.shape[0], 1, 1, 1):
        raise CheckpointError(f"packed module {shown(module.name)} has contradicting shapes: {module.shapes()}")
    stored = (n_books, bits, n_rows, n_cols)
    if any(said not in (None, is_) for said, is_ in zip(declared, stored, strict=True)):
        raise CheckpointError(
            f"packed module {shown(module.name)}: {where} says {_said(declared)}, its tensors are {_said(stored)}"
        )
    name = f"{module.name}.weight"
    if name in left_out:
        raise CheckpointError(f"{where} says that {shown(name)} is not quantized, but {shown(codes.name)} is")
    return AqlmTensor(name, module.nbytes, codes, codebooks, scales)


def _check_size(module: PackedModule, codes: TensorSource, codebooks: TensorSource) -> None:
    """Check that codes of their type tell a codebook's vectors apart, and that codebooks are small."""
    n_vectors = codebooks.shape[1]
    bits = n_vectors.bit_length() - 1
    wanted = StoredType.I8 if bits <= 8 else StoredType.I16  # noqa: PLR2004 - aqlm 1.1.7, utils.py, get_int_dtype
    if n_vectors != 1 << bits or not 1 <= bits <= _MAX_BITS or codes.dtype is not wanted:
        raise CheckpointError(
            f"packed module {shown(module.name)} has codebooks of {n_vectors} vectors and codes in {codes.dtype.value}"
        )
    if codebooks.nbytes > MAX_CODEBOOKS_NBYTES:
        raise UnsupportedError(
            f"tensor {shown(codebooks.name)} has {codebooks.nbytes} bytes, at most {MAX_CODEBOOKS_NBYTES} are decoded",
            hint="get the 16-bit checkpoint that it was made from",
        )


def _said(numbers: tuple[int | None, ...]) -> str:
    return ", ".join(f"{key} {number}" for key, number in zip(_KEYS, numbers, strict=True))
