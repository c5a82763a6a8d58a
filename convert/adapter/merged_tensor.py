"""A tensor of the model with adapters merged into it: one more thing that gives rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.adapter.low_rank import read_values_into
from convert.checkpoint import StoredType

if TYPE_CHECKING:
    from convert.adapter.low_rank import Change
    from convert.checkpoint import SourceFiles, Tensor
    from convert.checkpoint.source import Shape
    from convert.checkpoint.source_files import U8Array


@dataclass(frozen=True, slots=True)
class MergedTensor:
    """A tensor's rows in float32, with changes made to them in order; without any, it is the tensor in float32."""

    base: Tensor
    changes: tuple[Change, ...] = ()

    @property
    def name(self) -> str:
        """As the base's."""
        return self.base.name

    @property
    def dtype(self) -> StoredType:
        """Float32, whatever the base is stored as: only the output rounds."""
        return StoredType.F32

    @property
    def shape(self) -> Shape:
        """As the base's."""
        return self.base.shape

    @property
    def nbytes(self) -> int:
        """The base's bytes and the adapters'."""
        return self.base.nbytes + sum(change.nbytes for change in self.changes)

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        values = out.view("<f4")
        read_values_into(self.base, files, first, values)
        # One change sees the unmerged rows in `values`; a later one does not.
        unmerged = values.copy() if len(self.changes) > 1 else values
        for change in self.changes:
            change.apply(values, unmerged, files, first)
