"""The model in GGUF's words: one value between whatever gives a model and whatever plans files of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import GGMLQuantizationType, Keys

from convert.checkpoint import StoredType, matrix_shape
from convert.checkpoint.views import Constant
from convert.codec import decode_rows, row_nbytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from convert.checkpoint import SourceFiles, Tensor
    from convert.codec.contract import F32Array
    from convert.gguf_file import Entry
    from convert.model.left_out import LeftOut

_GGML_TYPES: Final = {
    StoredType.F64: GGMLQuantizationType.F64,
    StoredType.F32: GGMLQuantizationType.F32,
    StoredType.F16: GGMLQuantizationType.F16,
    StoredType.BF16: GGMLQuantizationType.BF16,
    StoredType.I64: GGMLQuantizationType.I64,
    StoredType.I32: GGMLQuantizationType.I32,
    StoredType.I16: GGMLQuantizationType.I16,
    StoredType.I8: GGMLQuantizationType.I8,
}


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """What files can be made of.

    source: the directory or the file. architecture: as the source calls it. metadata: in file order; a file type in it
    is a hole that the plan fills. tensors: by name in GGUF, in file order. alignment: of the files.
    through: quantized tensors are made from the values as this type holds them, as the reference's are; None where the
    tensors themselves are what is quantized. notes: a line each, for the plan to show.
    definition: whose words these are: `native`, or llama.cpp's at a commit; empty for a file as it is.
    left_out: tensors of the checkpoint that are in none of these.
    converted: for each type of file that a converter writes itself, by its name, the types of its tensors, by theirs;
    empty where our own rules say them. file_type: what those files declare, where it is not their own type.
    part_of: for the tensors of a GGUF file, by their names in it, which of its parts each lies in, from 0 on.
    """

    source: Path
    architecture: str
    metadata: tuple[Entry, ...]
    tensors: tuple[tuple[str, Tensor], ...]
    alignment: int
    through: GGMLQuantizationType | None
    notes: tuple[str, ...] = ()
    definition: str = ""
    left_out: tuple[LeftOut, ...] = ()
    converted: Mapping[str, Mapping[str, GGMLQuantizationType]] = field(default_factory=dict)
    file_type: int | None = None
    part_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """Metadata by key."""
        return {entry.key: entry.value for entry, _ in self.metadata}

    @property
    def arch(self) -> str:
        """GGUF's name of the architecture."""
        return str(self.values[Keys.General.ARCHITECTURE])

    @property
    def n_parameters(self) -> int:
        """Weights, without what is computed from the config."""
        return sum(prod(tensor.shape) for _, tensor in self.tensors if not isinstance(tensor, Constant))

    @property
    def source_nbytes(self) -> int:
        """Bytes of the files that all tensors are made from."""
        return sum(tensor.nbytes for _, tensor in self.tensors)


def float_values(tensor: Tensor, files: SourceFiles, rows: range) -> F32Array:
    """Read rows of a float tensor: float32 (len(rows), n_cols)."""
    kind = tensor_type(tensor)
    raw = np.empty((len(rows), row_nbytes(kind, matrix_shape(tensor.shape)[1])), np.uint8)
    tensor.read_rows(files, rows.start, raw)
    return decode_rows(raw, kind)


def tensor_type(tensor: Tensor) -> GGMLQuantizationType:
    """Return the type, in GGML's words, of the rows that a tensor gives."""
    return tensor.dtype if isinstance(tensor.dtype, GGMLQuantizationType) else _GGML_TYPES[tensor.dtype]
