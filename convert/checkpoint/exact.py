"""A model's tensor as blocks that hold what was packed, through all that is done to it on its way.

Views that only move whole rows move rows of blocks as well; whatever computes or regroups numbers cannot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convert.checkpoint.packed.blocks import EXACT_TYPES, PackedBlocks, packed_blocks
from convert.checkpoint.source import TensorSource, matrix_shape
from convert.checkpoint.views import Blocks, Concatenated, OfOne, Rows, Swapped, leaves, row_unit
from convert.codec import row_nbytes

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

    from convert.checkpoint.source import Shape, Tensor
    from convert.checkpoint.source_files import SourceFiles, U8Array


__all__ = ["EXACT_TYPES", "ExactBlocks", "exact_blocks"]


@dataclass(frozen=True, slots=True)
class ExactBlocks:
    """A tensor of a GGML type whose rows are blocks of packed integers.

    base: these rows as bytes. scale: what all numbers are to be multiplied with besides, or those of each matrix of a
    stack; empty where there is nothing.
    """

    base: Tensor
    name: str
    shape: Shape
    dtype: GGMLQuantizationType
    scale: tuple[float, ...] = ()

    @property
    def nbytes(self) -> int:
        """As the base's."""
        return self.base.nbytes

    @property
    def row_unit(self) -> int:
        """As the base's."""
        return row_unit(self.base)

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        self.base.read_rows(files, first, out)


def exact_blocks(tensor: Tensor, kind: GGMLQuantizationType) -> ExactBlocks | str:
    """Give a tensor as blocks of a type that stand for exactly its numbers, or say why there are none.

    Reads the scales of what it is made of. Rows are whole blocks of the type.
    """
    rows = _as_bytes(tensor, kind)
    if isinstance(rows, str):
        return rows
    found = [part.common for part in leaves(rows) if isinstance(part, PackedBlocks)]
    n_matrices = tensor.shape[-3] if len(tensor.shape) > 2 else 1  # noqa: PLR2004
    scale = tuple(found) if len(found) == n_matrices else tuple(dict.fromkeys(found)) * n_matrices
    if len(scale) != n_matrices:
        return f"it is made of several, which have a factor each, and {kind.name} has one"
    return ExactBlocks(rows, tensor.name, tensor.shape, kind, () if set(scale) == {1.0} else scale)


def _as_bytes(tensor: Tensor, kind: GGMLQuantizationType) -> Tensor | str:
    if isinstance(tensor, Concatenated):
        return _concatenated(tensor, kind)
    if isinstance(tensor, (Rows, Blocks, Swapped)) and _n_cols(tensor.base) == _n_cols(tensor):
        base = _as_bytes(tensor.base, kind)
        if isinstance(base, str):
            return base
        if isinstance(tensor, Swapped):
            return replace(tensor, base=base)
        return replace(tensor, base=base, shape=_in_bytes(tensor.shape, kind))
    if isinstance(tensor, OfOne):
        return "its numbers are changed or regrouped on the way"
    return "it is not packed" if isinstance(tensor, TensorSource) else packed_blocks(tensor, kind)


def _concatenated(tensor: Concatenated, kind: GGMLQuantizationType) -> Tensor | str:
    parts: list[Tensor] = []
    for part in tensor.parts:
        rows = "its rows are regrouped" if _n_cols(part) != _n_cols(tensor) else _as_bytes(part, kind)
        if isinstance(rows, str):
            return rows
        parts.append(rows)
    return replace(tensor, parts=tuple(parts), shape=_in_bytes(tensor.shape, kind))


def _n_cols(tensor: Tensor) -> int:
    return matrix_shape(tensor.shape)[1]


def _in_bytes(shape: Shape, kind: GGMLQuantizationType) -> Shape:
    return (*shape[:-1], row_nbytes(kind, shape[-1]))
