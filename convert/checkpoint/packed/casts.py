"""Weights that are numbers of an uncommon type and nothing more: doubles, and 8-bit floats that were only cast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint.packed.float8 import FLOAT8_TYPES, decode_bytes
from convert.checkpoint.source import StoredType, matrix_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.source import Shape, Tensor
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import U8Array

CAST_TYPES = (StoredType.F64, *FLOAT8_TYPES)


@dataclass(frozen=True, slots=True)
class CastTensor:
    """The same values in float32, as torch's `.float()` gives them and conversion/base.py, prepare_tensors does."""

    base: Tensor

    @property
    def name(self) -> str:
        """As the base's."""
        return self.base.name

    @property
    def dtype(self) -> StoredType:
        """Float32."""
        return StoredType.F32

    @property
    def shape(self) -> Shape:
        """As the base's."""
        return self.base.shape

    @property
    def nbytes(self) -> int:
        """As the base's."""
        return self.base.nbytes

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        dtype = self.base.dtype
        assert isinstance(dtype, StoredType)  # noqa: S101 - one of CAST_TYPES
        stored = np.empty((len(out), matrix_shape(self.shape)[1] * dtype.itemsize), np.uint8)
        self.base.read_rows(files, first, stored)
        with np.errstate(over="ignore"):  # what overflows is infinite; the run says where
            is_double = dtype is StoredType.F64
            values = stored.view("<f8").astype("<f4") if is_double else decode_bytes(stored, dtype)
        out.view("<f4")[...] = values


def as_floats(tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Give doubles and 8-bit floats as float32, and a note on each type; other tensors as they are."""
    found = {name: tensor for name, tensor in tensors.items() if tensor.dtype in CAST_TYPES}
    if not found:
        return tensors, ()
    kinds = dict.fromkeys(str(tensor.dtype.value) for tensor in found.values())
    counts = {kind: sum(tensor.dtype.value == kind for tensor in found.values()) for kind in kinds}
    given = {name: CastTensor(tensor) for name, tensor in found.items()}
    notes = tuple(
        f"{count} tensors are {kind} without scales, read as the numbers they are" for kind, count in counts.items()
    )
    return {**tensors, **given}, notes
