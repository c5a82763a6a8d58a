"""What a plan is: frozen data, complete, with nothing left to decide. It pickles: another process can carry it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gguf import GGMLQuantizationType

    from convert.checkpoint import Tensor
    from convert.gguf_file import Part, TensorInfo
    from convert.importance import ImportanceEntry
    from convert.model import LeftOut


@dataclass(frozen=True, slots=True)
class Target:
    """One encoding of a tensor, and every place it goes: (index of the output, offset in its file)."""

    type: GGMLQuantizationType
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Task:
    """Read one tensor once, and write it in every type that any output wants.

    name: in the outputs. type: of the values that the tensor gives. importance: of its columns, where it is known.
    through: quantized targets are made from the values as this type holds them, as the reference's are; None: as read.
    """

    name: str
    tensor: Tensor
    type: GGMLQuantizationType
    targets: tuple[Target, ...]
    importance: ImportanceEntry | None = None
    through: GGMLQuantizationType | None = None


class FileKind(Enum):
    """What kind of file an output is: a file of another kind under its name is never replaced."""

    GGUF = "GGUF file"
    SAFETENSORS = "safetensors file"
    PLAIN = "regular file"


@dataclass(frozen=True, slots=True)
class FileLayout:
    """A GGUF file that needs no path yet: header, tensors in their places, length, and why types are not the usual."""

    header: bytes
    tensors: tuple[TensorInfo, ...]
    nbytes: int
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Output:
    """One file to be: its header is complete, its tensors have their place, its length is known.

    label: what people call it, such as `Q4_0`. reasons: for each tensor whose type is not the one asked for, why.
    part: which of a model that is split; None for a whole one.
    """

    path: Path
    header: bytes
    tensors: tuple[TensorInfo, ...]
    nbytes: int
    kind: FileKind = FileKind.GGUF
    label: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole work.

    source: the checkpoint directory or the GGUF file. source_nbytes: of the tensors that are read.
    notes: what a user should know before the work starts. definition, left_out: see GGUFModel.
    """

    source: Path
    architecture: str
    n_parameters: int
    source_nbytes: int
    outputs: tuple[Output, ...]
    tasks: tuple[Task, ...]
    notes: tuple[str, ...] = ()
    definition: str = ""
    left_out: tuple[LeftOut, ...] = ()

    @property
    def nbytes(self) -> int:
        """The length of all outputs together: what the disk must have room for."""
        return sum(output.nbytes for output in self.outputs)

    @property
    def models(self) -> tuple[tuple[Output, ...], ...]:
        """The outputs, those together that are one model: the parts of a split one, in order; or one file."""
        starts = [index for index, output in enumerate(self.outputs) if output.part is None or output.part.number == 1]
        return tuple(self.outputs[start:end] for start, end in pairwise([*starts, len(self.outputs)]))
