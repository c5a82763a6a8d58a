"""A tensor whose values the other process computes whole, and gives by rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.gguf_file import tensor_nbytes
from convert.model import tensor_type

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

    from convert.checkpoint import SourceFiles, StoredType
    from convert.checkpoint.source import Shape
    from convert.checkpoint.source_files import U8Array
    from convert.llama_cpp.front_end.session import Session


@dataclass(frozen=True, slots=True)
class Computed:
    """A tensor of a session's model. index: its place in the file. nbytes: of the stored tensors that it is made from.

    It pickles: the session is opened again where it is read.
    """

    name: str
    shape: Shape
    dtype: StoredType | GGMLQuantizationType
    nbytes: int
    index: int
    session: Session

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        """See RowSource. Raises ToolchainError if the process fails."""
        del files
        whole = tensor_nbytes(self.shape, tensor_type(self))
        self.session.read(self.index, whole, first * out.shape[1], out)
