"""An importance matrix as plain values: where its numbers lie, and what is read of them when a weight is encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from convert.checkpoint import SourceFiles

    F32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImportanceEntry:
    """The importance of one tensor's columns, one expert after the other.

    name: of the tensor. path, offset: where the sums lie, float32. n_values: columns x experts. counts: how often each
    expert was asked, or one count for all. is_legacy: of a .dat file. Small; the sums stay in the file.
    """

    name: str
    path: Path
    offset: int
    n_values: int
    counts: tuple[int, ...]
    is_legacy: bool = False

    @property
    def unseen(self) -> tuple[int, ...]:
        """The experts that no token was sent to: all their columns count alike."""
        return () if self.is_legacy else tuple(index for index, count in enumerate(self.counts) if count <= 0)

    def read(self, files: SourceFiles, first: int, n_values: int) -> F32Array:
        """Read the importance from the value `first` on: float32 (n_values,).

        Source: tools/quantize/quantize.cpp, load_imatrix @ 0c1e570: a float32 division, by the count as float32; where
        there is none, 1, or in a .dat file the sum itself.
        """
        sums = np.empty(n_values, np.float32)
        files.read_into(self.path, self.offset + first * sums.itemsize, sums.view(np.uint8), name=self.name)
        n_each = self.n_values // len(self.counts)
        places = np.arange(first, first + n_values) // n_each
        # Parity: what is left over when the values do not divide by the counts is 0 in llama-quantize.
        counts = np.append(np.array(self.counts, np.int64), 0)[np.minimum(places, len(self.counts))].astype(np.float32)
        without = sums if self.is_legacy else (places < len(self.counts)).astype(np.float32)
        values: F32Array = np.divide(sums, counts, out=without.copy(), where=counts > 0)
        return values


@dataclass(frozen=True, slots=True)
class Importance:
    """A file's importance of a model's weights.

    file: the path as it was given. entries: by tensor. n_entries: as many as are used of the file, in whatever model.
    datasets: what it was made from. n_chunks: of text, and chunk_size: tokens in each; 0 where the file does not say.
    """

    file: str
    entries: Mapping[str, ImportanceEntry]
    n_entries: int
    datasets: tuple[str, ...] = ()
    n_chunks: int = 0
    chunk_size: int = 0

    def renamed(self, old_names: Mapping[str, str]) -> Importance:
        """Give tensors that have another name now, by their new names, the entries they had."""
        entries = {new: self.entries[old] for new, old in old_names.items() if old in self.entries}
        return replace(self, entries=entries)
