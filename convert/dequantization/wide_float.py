"""float64 tensors, as torch narrows them: to float32, from which any narrower type is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint import StoredType, Tensor

if TYPE_CHECKING:
    from convert.checkpoint import SourceFiles
    from convert.codec.contract import U8Array


@dataclass(frozen=True, slots=True)
class NarrowedDouble:
    """A float64 tensor read as float32. torch too makes float16 and bfloat16 of a double by way of a float."""

    base: Tensor

    @property
    def name(self) -> str:
        """As the base's."""
        return self.base.name

    @property
    def dtype(self) -> StoredType:
        """What `read_rows` gives."""
        return StoredType.F32

    @property
    def shape(self) -> tuple[int, ...]:
        """As the base's."""
        return self.base.shape

    @property
    def nbytes(self) -> int:
        """As the base's."""
        return self.base.nbytes

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        raw = np.empty((len(out), 2 * out.shape[1]), np.uint8)
        self.base.read_rows(files, first, raw)
        with np.errstate(over="ignore"):  # an infinity is found by the encoder
            out[:] = raw.view("<f8").astype("<f4").view(np.uint8)
