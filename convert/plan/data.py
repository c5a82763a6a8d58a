"""What a plan is: frozen data, complete, with nothing left to decide."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from convert.transform import UNCHANGED, Transform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gguf import GGMLQuantizationType

    from convert.checkpoint.source_files import RowSource
    from convert.gguf_file import Entry, KeyValue, TensorInfo
    from convert.quant_mix import Choice, OutputType

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """A tensor to make: where its values come from.

    shape: NumPy order, of the output. type: of the values that the sources give. sources: stacked along the first
    axis, in the order of their rows; or none for a constant, whose bytes are `data`.
    """

    name: str
    shape: Shape
    type: GGMLQuantizationType
    sources: tuple[RowSource, ...]
    transform: Transform = UNCHANGED
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One encoding of a tensor, and every place it goes: (index of the output, offset in its file)."""

    type: GGMLQuantizationType
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Task:
    """Read one tensor once, and write it in every type that any output wants."""

    tensor: PlannedInput
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class RequestedTensor:
    """A tensor as one file is to hold it: its shape in NumPy order, and the choice of its type."""

    name: str
    shape: Shape
    choice: Choice


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """What one file is to hold: its metadata and tensors, in file order."""

    path: Path
    type: OutputType
    entries: tuple[Entry, ...]
    tensors: tuple[RequestedTensor, ...]
    alignment: int


class FileKind(Enum):
    """What kind of file an output is: a file of another kind under its name is never replaced."""

    GGUF = "GGUF file"
    SAFETENSORS = "safetensors file"
    PLAIN = "regular file"


@dataclass(frozen=True, slots=True)
class Output:
    """One file to be: its header is complete, its tensors have their place, its length is known.

    reasons: for each tensor whose type is not the one asked for, why.
    """

    path: Path
    type: OutputType
    key_values: tuple[KeyValue, ...]
    header: bytes
    tensors: tuple[TensorInfo, ...]
    reasons: Mapping[str, str]
    nbytes: int
    kind: FileKind = FileKind.GGUF


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole work.

    source: the checkpoint directory or the GGUF file. source_nbytes: of the tensors that are read.
    through_f16: quantized tensors are made from the values as float16 holds them, as the reference's are.
    notes: what a user should know before the work starts.
    """

    source: Path
    architecture: str
    n_parameters: int
    source_nbytes: int
    outputs: tuple[Output, ...]
    tasks: tuple[Task, ...]
    through_f16: bool
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """The length of all outputs together: what the disk must have room for."""
        return sum(output.nbytes for output in self.outputs)
