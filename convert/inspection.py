"""Look into a checkpoint directory or a GGUF file: what is there, and what it would become."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf import Keys, LlamaFileType

from convert.architecture import find_family, read_hyperparameters
from convert.architecture.metadata import head_dim
from convert.checkpoint import NOTHING_STATED, Checkpoint, Stated, open_checkpoint
from convert.checkpoint.packed import ModelTensors, model_tensors, read_quantization
from convert.errors import CheckpointError, ConvertError, PlanError
from convert.gguf_file import GGUFFile, as_one, is_gguf, read_gguf, read_parts
from convert.importance import ImportanceStatistics, is_importance, read_importance, statistics_of
from convert.llama_cpp.front_end import open_gguf_model
from convert.memory import Memory, measure_memory
from convert.model import GGUFModel, ModelRequest, absolute
from convert.plan import FileLayout, lay_out
from convert.quant_mix import FILE_TYPES
from convert.remote import located, said
from convert.shown import nearest, shown

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_SHOWN_ITEMS = 8
_FLOAT32 = 4
_MOST_WORDS = 8  # `.weight.quant_state.bitsandbytes__nf4` has six


@dataclass(frozen=True, slots=True)
class InspectedTensor:
    """A tensor as it lies in its file: NumPy shape, stored type, bytes.

    part_of: the tensor of the model that it is packed into, alone or with others; None where it is one itself.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int
    part_of: str | None = None


@dataclass(frozen=True, slots=True)
class DecodedTensor:
    """A tensor of the model that a checkpoint holds packed: its shape, what it decodes to, the bytes of its parts."""

    name: str
    shape: tuple[int, ...]
    type: str
    stored_nbytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a path holds.

    kind: "checkpoint", "gguf" or "imatrix". n_parameters: the model's weights, whatever packs them; None where that
    is not known, because the packing is not decoded, or where there is no model. stored: bytes by stored type.
    outputs: for a checkpoint, the exact length of the GGUF file of each type. metadata: a GGUF's own, or what the F16
    file would declare; long arrays are cut. problem: why the checkpoint cannot be converted, if so. packing: who packed
    a checkpoint's weights, None for a plain one; decoded: what each packed tensor decodes to; notes: what else is to
    say about it. memory: what a checkpoint's model takes in every precision, None where its packing is not decoded.
    importance: what an importance matrix says of each tensor.
    """

    path: str
    kind: str
    architecture: str
    n_parameters: int | None
    stored: Mapping[str, int]
    outputs: Mapping[str, int]
    metadata: Mapping[str, Any]
    tensors: tuple[InspectedTensor, ...]
    problem: str | None = None
    packing: str | None = None
    decoded: tuple[DecodedTensor, ...] = ()
    notes: tuple[str, ...] = ()
    memory: Memory | None = None
    importance: tuple[ImportanceStatistics, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return asdict(self)


def inspect(path: str | os.PathLike[str], stated: Stated = NOTHING_STATED) -> Inspection:
    """Describe a checkpoint directory or a GGUF file, also a split one, by its first part; no weight is read.

    stated: what a checkpoint does not say itself.

    Raises CheckpointError if there is neither.
    """
    target = Path(located(path))
    if is_gguf(target):
        file = read_gguf(target)
        return _inspect_importance(target, file.metadata) if is_importance(file) else _inspect_gguf(read_parts(target))
    if target.is_file() and target.suffix == ".dat":
        return _inspect_importance(target, {})
    if not target.exists():
        raise CheckpointError(f"{shown(target)} does not exist", hint=nearest(target))
    target = absolute(target)
    return _inspect_checkpoint(open_checkpoint(target, stated), ModelRequest(target, stated=stated))


def _inspect_gguf(parts: Sequence[GGUFFile]) -> Inspection:
    file = as_one(parts)
    tensors = tuple(InspectedTensor(info.name, info.shape, info.type.name, info.nbytes) for info in file.tensors)
    return Inspection(
        path=said(str(file.path)),
        kind="gguf",
        architecture=str(file.metadata.get("general.architecture", "unknown")),
        n_parameters=sum(prod(tensor.shape) for tensor in tensors),
        stored=_by_type(tensors),
        outputs={},
        metadata={key: _shown(key, value) for key, value in file.metadata.items()},
        tensors=tensors,
        notes=(f"in {len(parts)} parts, {file.nbytes} bytes together",) if len(parts) > 1 else (),
    )


def _inspect_importance(path: Path, metadata: Mapping[str, Any]) -> Inspection:
    read = read_importance(path)
    unseen = {name: len(entry.unseen) for name, entry in read.entries.items() if entry.unseen}
    told = {"imatrix.datasets": list(read.datasets), "imatrix.chunk_count": read.n_chunks}
    return Inspection(
        path=str(path),
        kind="imatrix",
        architecture=str(metadata.get("general.architecture", "unknown")),
        n_parameters=None,
        stored={"F32": sum(entry.n_values for entry in read.entries.values()) * _FLOAT32},
        outputs={},
        metadata=told | {key: _shown(key, value) for key, value in metadata.items()},
        tensors=(),
        notes=(f"{len(unseen)} tensors have experts that no token was sent to",) if unseen else (),
        importance=tuple(map(statistics_of, read.entries.values())),
    )


def _inspect_checkpoint(checkpoint: Checkpoint, request: ModelRequest) -> Inspection:
    unpacked, reasons = _unpack(checkpoint)
    model, problem = _model(request, checkpoint)
    files = {} if model is None else dict(_files(model))
    memory = None if unpacked is None else _measure(checkpoint, unpacked, files)
    decoded = {} if unpacked is None else _decoded(checkpoint, unpacked)
    missing = () if checkpoint.lacking is None else (checkpoint.lacking.message,)
    tensors = tuple(
        InspectedTensor(source.name, source.shape, source.dtype.value, source.nbytes, decoded.get(source.name))
        for source in checkpoint.tensors.values()
    )
    return Inspection(
        path=said(str(checkpoint.directory)),
        kind="checkpoint",
        architecture=_architecture(checkpoint.known_config),
        n_parameters=None if memory is None else memory.n_parameters,
        stored=_by_type(tensors),
        outputs={name: file.nbytes for name, file in files.items()},
        metadata={} if model is None else _metadata(model),
        tensors=tensors,
        problem=problem and said(problem),
        packing=None if unpacked is None else unpacked.packing,
        decoded=() if unpacked is None else _decoded_tensors(unpacked, tensors),
        notes=tuple(map(said, (*checkpoint.notes, *missing, *reasons, *(() if unpacked is None else unpacked.notes)))),
        memory=memory,
    )


def _unpack(checkpoint: Checkpoint) -> tuple[ModelTensors | None, tuple[str, ...]]:
    """Give the model's tensors, or a note that says why they are not known."""
    try:
        return model_tensors(checkpoint), ()
    except ConvertError as error:
        return None, (f"parameters and memory are not known: {error.message}",)


def _model(request: ModelRequest, checkpoint: Checkpoint) -> tuple[GGUFModel | None, str | None]:
    """Put the model into GGUF's words, or say why that cannot be done."""
    try:
        return open_gguf_model(request, checkpoint), None
    except ConvertError as error:
        return None, error.message


def _files(model: GGUFModel) -> Iterator[tuple[str, FileLayout]]:
    """Lay out the file of each type that the model can become."""
    for name, row in FILE_TYPES.items():
        with contextlib.suppress(PlanError):  # rows that no block of the type fits into
            if not row.copies:
                yield name, lay_out(model, row)


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else "unknown"


def _measure(checkpoint: Checkpoint, unpacked: ModelTensors, files: Mapping[str, FileLayout]) -> Memory:
    config = checkpoint.known_config
    model_type = config.get("model_type")
    return measure_memory(
        unpacked.tensors,
        checkpoint.tensors,
        {name: file.tensors for name, file in files.items()},
        dtype=read_quantization(checkpoint).dtype,
        model_type=model_type if isinstance(model_type, str) else None,
        ties_output=config.get("tie_word_embeddings") is True,
        buffers_nbytes=_buffers_nbytes(config),
    )


def _buffers_nbytes(config: Mapping[str, Any]) -> int | None:
    try:
        h = read_hyperparameters(config)
        n_tables = find_family(h.architecture).facts.n_rotary_tables
        return None if n_tables is None else _FLOAT32 * (head_dim(h) // 2) * n_tables
    except ConvertError:
        return None


def _decoded(checkpoint: Checkpoint, unpacked: ModelTensors) -> dict[str, str]:
    """Say of which of the model's tensors a stored one is a part: companions begin with its name, or its module's.

    q_proj.weight, q_proj.weight.absmax, …      q_proj.qweight, q_proj.scales, …      experts.down_proj_blocks, …
    """
    packed = [name for name in unpacked.tensors if name in unpacked.decoded]
    modules = {name.removesuffix(".weight"): name for name in packed}
    parts = {}
    for name in checkpoint.tensors:
        if name in unpacked.tensors and name not in modules.values():
            continue  # stored as the model has it
        for length in _word_ends(name):
            if (whole := modules.get(name[:length])) is not None:
                parts[name] = whole
                break
    return parts


def _word_ends(name: str) -> list[int]:
    """Where a module's name may end in a tensor's: the longest first, and not more than a companion's name has."""
    ends = (index for index in reversed(range(len(name))) if name[index] in "._")
    return [len(name), *islice(ends, _MOST_WORDS)]


def _decoded_tensors(unpacked: ModelTensors, stored: Iterable[InspectedTensor]) -> tuple[DecodedTensor, ...]:
    nbytes: Counter[str] = Counter()
    for part in stored:
        if part.part_of is not None:
            nbytes[part.part_of] += part.nbytes
    decoded = (unpacked.tensors[name] for name in nbytes)
    return tuple(
        DecodedTensor(tensor.name, tensor.shape, tensor.dtype.value, nbytes[tensor.name]) for tensor in decoded
    )


def _metadata(model: GGUFModel) -> dict[str, Any]:
    """Give what the F16 file would declare."""
    declared = {Keys.General.FILE_TYPE: FILE_TYPES["F16"].declared}
    return {key: _shown(key, declared.get(key, value)) for key, value in model.values.items()}


def _by_type(tensors: Iterable[InspectedTensor]) -> dict[str, int]:
    stored: Counter[str] = Counter()
    for tensor in tensors:
        stored[tensor.type] += tensor.nbytes
    return dict(stored)


def _shown(key: str, value: object) -> object:
    if key == "general.file_type" and isinstance(value, int) and value in LlamaFileType._value2member_map_:
        return f"{value} ({LlamaFileType(value).name})"
    if key == "general.file_type" and (names := [row.name for row in FILE_TYPES.values() if row.declared == value]):
        return f"{value} ({names[0]})"  # one that the package lacks
    if isinstance(value, tuple):
        items = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in value[:_SHOWN_ITEMS]]
        return items if len(value) <= _SHOWN_ITEMS else [*items, f"… {len(value)} items"]
    return value
