"""Safetensors files to be: which tensor goes to which, their headers, and the work, before any weight is read.

    length of the header, 8 bytes · header, JSON padded with spaces to 8 bytes · tensors, one after another

The names, the greedy cut and the order within a file are those of huggingface_hub, transformers and safetensors, whose
`save_pretrained` writes the same bytes.
Source: safetensors 0.8, README (format) and serialize; huggingface_hub 2.4, serialization/_base.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

from gguf import GGMLQuantizationType

from convert.checkpoint import StoredType, Tensor
from convert.checkpoint.packed.values import FLOATS
from convert.errors import Remedy, UsageError
from convert.gguf_file import TensorInfo
from convert.plan import FileKind, Output, Plan, Target, Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

INDEX_NAME: Final = "model.safetensors.index.json"
MAX_SHARDS: Final = 99_999  # five digits
# Bytes that go through as they are; only their number matters.
_CARRIED: Final = {
    1: GGMLQuantizationType.I8,
    2: GGMLQuantizationType.I16,
    4: GGMLQuantizationType.I32,
    8: GGMLQuantizationType.I64,
}
# The order in which safetensors has tensors of one file: wide types first, then by name (dtype.rs, enum Dtype).
_ORDER: Final = (
    StoredType.BOOL, StoredType.U8, StoredType.I8, StoredType.I16, StoredType.U16, StoredType.F16, StoredType.BF16,
    StoredType.I32, StoredType.U32, StoredType.F32, StoredType.I64, StoredType.U64,
)  # fmt: skip
INTEGERS: Final = frozenset(_ORDER) - frozenset(FLOATS)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a shard is to hold it."""

    tensor: Tensor
    name: str
    stored: StoredType

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the shard."""
        return prod(self.tensor.shape) * self.stored.itemsize


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: its tensors in file order, and the plan that makes it."""

    name: str
    tensors: tuple[StoredTensor, ...]
    plan: Plan


def cut_into_shards(tensors: Sequence[StoredTensor], max_nbytes: int) -> list[list[StoredTensor]]:
    """Fill one shard after the other, in the given order; a tensor that is larger than a shard has one of its own.

    Raises UsageError for more shards than names can count.
    """
    shards: list[list[StoredTensor]] = []
    current: list[StoredTensor] = []
    filled = 0
    for tensor in tensors:
        if tensor.nbytes > max_nbytes:
            shards.append([tensor])
            continue
        if filled + tensor.nbytes > max_nbytes:
            shards.append(current)
            current, filled = [], 0
        current.append(tensor)
        filled += tensor.nbytes
    if current:
        shards.append(current)
    if len(shards) > MAX_SHARDS:
        raise UsageError(f"there would be {len(shards)} shards, at most {MAX_SHARDS}", remedies=(Remedy.LARGER_SHARDS,))
    return shards


def shard_names(count: int) -> list[str]:
    """Name the files: `model.safetensors`, or `model-00001-of-0000N.safetensors` and so on."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def plan_shard(
    path: Path, tensors: Sequence[StoredTensor], source: Path, *, architecture: str, reasons: Mapping[str, str]
) -> Shard:
    """Lay out one file and gather its work. reasons: for the tensors that are changed on the way, why."""
    ordered = sorted(tensors, key=lambda tensor: (-_ORDER.index(tensor.stored), tensor.name))
    header, offsets = _header(ordered)
    filled = [(tensor, offset) for tensor, offset in zip(ordered, offsets, strict=True) if tensor.nbytes]
    infos = tuple(
        TensorInfo(tensor.name, tensor.tensor.shape, _carried_type(tensor.stored), offset, tensor.nbytes)
        for tensor, offset in filled
    )
    nbytes = len(header) + sum(tensor.nbytes for tensor in ordered)
    said = {tensor.name: reasons[tensor.name] for tensor in ordered if tensor.name in reasons}
    output = Output(path, header, infos, nbytes, FileKind.SAFETENSORS, reasons=said)
    plan = Plan(
        source=source,
        architecture=architecture,
        n_parameters=sum(prod(tensor.tensor.shape) for tensor in ordered),
        source_nbytes=sum(tensor.tensor.nbytes for tensor in ordered),
        outputs=(output,),
        tasks=tuple(_task(tensor, offset) for tensor, offset in filled),
    )
    return Shard(path.name, tuple(ordered), plan)


def _header(ordered: Sequence[StoredTensor]) -> tuple[bytes, list[int]]:
    """Write the header, and say where each tensor lies in the file."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets, end = [], 0
    for tensor in ordered:
        start, end = end, end + tensor.nbytes
        offsets.append(start)
        described[tensor.name] = {
            "dtype": tensor.stored.value,
            "shape": list(tensor.tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    header = len(text).to_bytes(8, "little") + text
    return header, [len(header) + offset for offset in offsets]


def _task(tensor: StoredTensor, offset: int) -> Task:
    target_type = _carried_type(tensor.stored)
    source_type = target_type if tensor.stored is tensor.tensor.dtype else FLOATS[tensor.tensor.dtype]
    return Task(tensor.name, tensor.tensor, source_type, (Target(target_type, ((0, offset),)),))


def _carried_type(stored: StoredType) -> GGMLQuantizationType:
    return FLOATS[stored] if stored in FLOATS else _CARRIED[stored.itemsize]


def index_json(shards: Sequence[Shard]) -> Mapping[str, Any]:
    """Give the index as transformers writes it: totals, and each tensor's file."""
    listed = [(tensor, shard.name) for shard in shards for tensor in shard.tensors]
    totals = {
        "total_parameters": sum(prod(tensor.tensor.shape) for tensor, _ in listed),
        "total_size": sum(tensor.nbytes for tensor, _ in listed),
    }
    return {"metadata": totals, "weight_map": dict(sorted((tensor.name, name) for tensor, name in listed))}
