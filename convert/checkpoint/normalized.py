"""Rows divided by their length, as a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.views import AsFloat32

if TYPE_CHECKING:
    from convert.checkpoint.source_files import SourceFiles, U8Array

_LEAST: Final = np.float32(1e-12)  # torch.nn.functional.normalize


@dataclass(frozen=True, slots=True)
class Normalized(AsFloat32):
    """Each row divided by its Euclidean length, or by 1e-12 where that is less; float32."""

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        AsFloat32(self.base, self.name).read_rows(files, first, out)
        values = out.view(np.float32)
        lengths = np.sqrt(np.square(values.astype(np.float64)).sum(axis=1, keepdims=True))
        values /= np.maximum(lengths.astype(np.float32), _LEAST)
