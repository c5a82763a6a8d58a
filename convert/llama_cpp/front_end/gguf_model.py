"""What llama.cpp's definitions answer, as a GGUFModel: views of our reader where that is all, else computed tensors."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gguf import GGMLQuantizationType, Keys

from convert.checkpoint import StoredType
from convert.gguf_file.cursor import Cursor
from convert.gguf_file.key_values import decode_key_value
from convert.llama_cpp.front_end.computed import Computed
from convert.llama_cpp.front_end.memory import Memory, check_memory
from convert.llama_cpp.front_end.prepared import prepare
from convert.llama_cpp.front_end.recognised import view_of
from convert.llama_cpp.front_end.request import Part, Wanted
from convert.llama_cpp.front_end.session import Session
from convert.model import GGUFModel, left_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convert.checkpoint import Checkpoint, Tensor
    from convert.gguf_file import Entry
    from convert.llama_cpp.front_end.prepared import Prepared
    from convert.llama_cpp.front_end.session import Answer


@dataclass(frozen=True, slots=True)
class Through:
    """A model through llama.cpp's definitions.

    whole: of every tensor the other process's own values, by name; most of the model's tensors are views instead.
    used: the checkpoint's tensors that these are made from, or that the definition has read for its metadata.
    """

    model: GGUFModel
    whole: Mapping[str, Computed]
    used: frozenset[str]
    memory: Memory


def model_through(wanted: Wanted, checkpoint: Checkpoint | None = None) -> Through:
    """Have a model planned by llama.cpp's definitions.

    checkpoint: the model's, where it has been opened already.
    Raises CheckpointError, UnsupportedError or PlanError for the model, ToolchainError for the process.
    """
    prepared = prepare(wanted.model, checkpoint)
    session = Session(wanted)
    answer = session.plan(prepared)
    described = answer.header["tensors"]
    whole = [_computed(index, each, prepared.tensors, session) for index, each in enumerate(described)]
    memory = Memory.of(described, answer.header["kept_nbytes"])
    check_memory(memory, wanted.definition.max_nbytes)
    tensors = [_tensor(each, computed, prepared.tensors) for each, computed in zip(described, whole, strict=True)]
    is_text = wanted.part is Part.TEXT
    used = frozenset(name for each in described for name in each["stored"]).union(answer.header["loaded"])
    metadata = _metadata(prepared, answer)
    model = GGUFModel(
        source=prepared.checkpoint.directory,
        architecture=answer.header["architecture"],
        metadata=metadata,
        tensors=tuple((tensor["name"], view) for tensor, view in zip(described, tensors, strict=True)),
        alignment=answer.header["alignment"],
        through=GGMLQuantizationType.F16 if is_text else None,
        notes=(*prepared.notes, *answer.header["notes"], *_not_written(answer), *memory.notes),
        definition=f"llama.cpp {wanted.definition.commit}",
        left_out=left_out(prepared.tensors, used, other_files=answer.header["other_models"]),
        converted=_converted(answer.header["types"]),
        file_type=_insisted(metadata, answer.header["file_type"]),
    )
    return Through(model, {computed.name: computed for computed in whole}, used, memory)


def _computed(index: int, described: Mapping[str, Any], tensors: Mapping[str, Tensor], session: Session) -> Computed:
    dtype = described["dtype"]
    return Computed(
        name=described["name"],
        shape=tuple(described["shape"]),
        dtype=StoredType(dtype) if dtype in StoredType.__members__ else GGMLQuantizationType[dtype],
        nbytes=sum(tensors[name].nbytes for name in described["stored"]),
        index=index,
        session=session,
    )


def _tensor(described: Mapping[str, Any], computed: Computed, tensors: Mapping[str, Tensor]) -> Tensor:
    if described["made_of"] is None:
        return computed
    view = view_of(described["made_of"], computed.name, tensors)
    assert view.shape == computed.shape, f"`{view.name}` is {view.shape}, wanted {computed.shape}"  # noqa: S101
    return view


def _metadata(prepared: Prepared, answer: Answer) -> tuple[Entry, ...]:
    """Decode the entries."""
    cursor = Cursor(prepared.checkpoint.directory, io.BytesIO(answer.entries), len(answer.entries))
    entries = []
    for _ in range(answer.header["n_entries"]):
        start = cursor.position
        entry = decode_key_value(cursor)
        entries.append((entry, cursor.since(start)))
    return tuple(entries)


def _not_written(answer: Answer) -> tuple[str, ...]:
    """Tell of files that a definition would write beside its own: adapters that are part of a checkpoint."""
    others = answer.header["other_files"]
    return (f"llama.cpp's definition would write {len(others)} adapters beside it, which are left out",) * bool(others)


def _insisted(metadata: Sequence[Entry], asked: int) -> int | None:
    """Return the file type that a definition declares whatever was asked for, as for MXFP4; None where it does not."""
    declared = next((entry.value for entry, _ in metadata if entry.key == Keys.General.FILE_TYPE), asked)
    return None if declared == asked else int(declared)


def _converted(types: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, GGMLQuantizationType]]:
    return {
        kind: {name: GGMLQuantizationType[tensor_type] for name, tensor_type in tensors.items()}
        for kind, tensors in types.items()
    }
