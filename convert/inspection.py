"""Look into a checkpoint directory or a GGUF file: what is there, and what it would become."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf import LlamaFileType

from convert.checkpoint import Checkpoint, open_checkpoint
from convert.conversion import model_directory, plan_all
from convert.errors import CheckpointError, ConvertError
from convert.gguf_reader import GGUFFile, read_gguf
from convert.model_config import read_model_config
from convert.quant_mix import OutputType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SHOWN_ITEMS = 8


@dataclass(frozen=True, slots=True)
class InspectedTensor:
    """A tensor as it lies in its file: NumPy shape, stored type, bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a path holds.

    kind: "checkpoint" or "gguf". stored: bytes by stored type. outputs: for a checkpoint, the exact
    length of the GGUF file of each type. metadata: a GGUF's own, or what the F16 file would declare;
    long arrays are cut. problem: why the checkpoint cannot be converted, if so.
    """

    path: str
    kind: str
    architecture: str
    n_parameters: int
    stored: Mapping[str, int]
    outputs: Mapping[str, int]
    metadata: Mapping[str, Any]
    tensors: tuple[InspectedTensor, ...]
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return asdict(self)


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Describe a checkpoint directory or a GGUF file; no weight is read.

    Raises CheckpointError if there is neither.
    """
    target = Path(path)
    if target.is_file() and _is_gguf(target):
        return _inspect_gguf(read_gguf(target))
    if not target.exists():
        raise CheckpointError(f"`{target}` does not exist")
    return _inspect_checkpoint(open_checkpoint(Path(os.path.abspath(target))))


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix == ".gguf" or file.read(4) == b"GGUF"


def _inspect_gguf(file: GGUFFile) -> Inspection:
    tensors = tuple(InspectedTensor(info.name, info.shape, info.type.name, info.nbytes) for info in file.tensors)
    return Inspection(
        path=str(file.path),
        kind="gguf",
        architecture=str(file.metadata.get("general.architecture", "unknown")),
        n_parameters=sum(prod(tensor.shape) for tensor in tensors),
        stored=_by_type(tensors),
        outputs={},
        metadata={key: _shown(key, value) for key, value in file.metadata.items()},
        tensors=tensors,
    )


def _inspect_checkpoint(checkpoint: Checkpoint) -> Inspection:
    tensors = tuple(
        InspectedTensor(source.name, source.shape, source.dtype.value, source.nbytes)
        for source in checkpoint.tensors.values()
    )
    config = read_model_config(checkpoint.directory)
    outputs, metadata, problem = _what_it_becomes(checkpoint.directory)
    return Inspection(
        path=str(checkpoint.directory),
        kind="checkpoint",
        architecture=config.architecture,
        n_parameters=sum(prod(tensor.shape) for tensor in tensors),
        stored=_by_type(tensors),
        outputs=outputs,
        metadata=metadata,
        tensors=tensors,
        problem=problem,
    )


def _what_it_becomes(directory: Path) -> tuple[dict[str, int], dict[str, Any], str | None]:
    try:
        plan = plan_all(model_directory(directory), directory, types=OutputType, name="model")
    except ConvertError as error:
        return {}, {}, error.message
    f16 = next(output for output in plan.outputs if output.type is OutputType.F16)
    metadata = {entry.key: _shown(entry.key, entry.value) for entry in f16.key_values}
    return {output.type.name: output.nbytes for output in plan.outputs}, metadata, None


def _by_type(tensors: Iterable[InspectedTensor]) -> dict[str, int]:
    stored: Counter[str] = Counter()
    for tensor in tensors:
        stored[tensor.type] += tensor.nbytes
    return dict(stored)


def _shown(key: str, value: object) -> object:
    if key == "general.file_type" and isinstance(value, int) and value in LlamaFileType._value2member_map_:
        return f"{value} ({LlamaFileType(value).name})"
    if isinstance(value, tuple):
        items = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in value[:_SHOWN_ITEMS]]
        return items if len(value) <= _SHOWN_ITEMS else [*items, f"… {len(value)} items"]
    return value
