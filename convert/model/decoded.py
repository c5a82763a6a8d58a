"""Quantized tensors of a GGUF file as float32, for quantizing them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint import StoredType, matrix_shape
from convert.codec import decode_rows, row_nbytes
from convert.model.gguf_model import float_values, tensor_type

if TYPE_CHECKING:
    from convert.checkpoint import SourceFiles, Tensor
    from convert.codec.contract import F32Array, U8Array


@dataclass(frozen=True, slots=True)
class Decoded:
    """A view: the values that a tensor's blocks stand for.

    scale: what llama.cpp multiplies with besides, float32, a factor for each matrix of a stack; None where it does not.
    """

    base: Tensor
    scale: Tensor | None = None

    @property
    def name(self) -> str:
        """As the base's."""
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        """As the base's."""
        return self.base.shape

    @property
    def dtype(self) -> StoredType:
        """Float32."""
        return StoredType.F32

    @property
    def nbytes(self) -> int:
        """As the base's."""
        return self.base.nbytes

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        kind = tensor_type(self.base)
        blocks = np.empty((len(out), row_nbytes(kind, matrix_shape(self.shape)[1])), np.uint8)
        self.base.read_rows(files, first, blocks)
        values = decode_rows(blocks, kind)
        out[:] = (values if self.scale is None else values * self._factors(self.scale, files, first, len(out))).view(
            np.uint8
        )

    def _factors(self, scale: Tensor, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        """Give the factor of each row: float32 (n_rows, 1)."""
        (count,) = scale.shape
        factors = float_values(scale, files, range(count)).reshape(-1)
        return factors[np.arange(first, first + n_rows) * count // matrix_shape(self.shape)[0], None]
