"""Decide what a dequantized directory holds: tensors, shards, config, card, and where everything lies."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.adapter import MergedTensors, MergeRequest, merge_adapters, other_bases, resolve_model
from convert.checkpoint import Checkpoint, StoredType, Tensor, open_checkpoint
from convert.checkpoint.index import cached_name
from convert.checkpoint.packed import CAST_TYPES, CastTensor, ModelTensors, model_tensors
from convert.checkpoint.packed.values import FLOATS
from convert.checkpoint.source import TORCH_FLOATS, TORCH_NAMES
from convert.dequantization.data import DequantizePlan
from convert.dequantization.from_gguf import open_gguf
from convert.dequantization.model_card import model_card, new_card
from convert.dequantization.shards import (
    INDEX_NAME,
    INTEGERS,
    Shard,
    StoredTensor,
    cut_into_shards,
    index_json,
    plan_shard,
    shard_names,
)
from convert.dequantization.side_files import SideFile, copied_files, json_file, mended_config
from convert.dequantization.through import Through, quantized_weights, refuse_transposed, take_through
from convert.errors import CheckpointError, Remedy, UsageError
from convert.gguf_file import is_gguf
from convert.model import ModelRequest, PathLike, absolute, as_request
from convert.plan import FileKind, Output, Plan, parse_size, require_directory
from convert.shown import shown, shown_list
from convert.tokenizer import TokenizerFiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from gguf import GGMLQuantizationType

DTYPES: Final = {"f16": StoredType.F16, "bf16": StoredType.BF16, "f32": StoredType.F32}


@dataclass(frozen=True, slots=True)
class DequantizeRequest:
    """A plain Hugging Face directory to make.

    dtype: f16, bf16 or f32, by default the checkpoint's own. through: nf4, nf4-dq, fp4, fp4-dq or int8, to be taken
    down to and up again. max_shard_size: bytes, or such as `5GB`.
    """

    outdir: PathLike
    dtype: str | None = None
    through: str | None = None
    max_shard_size: str | int = "5GB"


def plan_dequantize(model: PathLike | ModelRequest, outputs: PathLike | DequantizeRequest) -> DequantizePlan:
    """Plan a plain Hugging Face directory of a checkpoint that may be packed, of any architecture; or of a GGUF file.

    Raises UsageError, CheckpointError, UnsupportedError or PlanError; nothing is written.
    """
    request = outputs if isinstance(outputs, DequantizeRequest) else DequantizeRequest(outputs)
    outdir = absolute(request.outdir)
    limit = parse_size(request.max_shard_size)
    wanted, down = _parse_dtype(request.dtype), _parse_through(request.through)
    asked = as_request(model)
    if is_gguf(asked.path):
        _refuse_for_gguf(asked, down)
        return _plan_gguf(absolute(asked.path), outdir, wanted, limit)
    base = resolve_model(asked.path, asked.adapters)
    checkpoint = open_checkpoint(base.model, asked.stated)
    _check_outdir(checkpoint.directory, outdir)
    opened = _open_tensors(checkpoint, wanted, down, base.requests)
    notes = (*base.notes, *other_bases(asked.adapters, checkpoint), *checkpoint.notes, *opened.notes)
    return _lay_out(checkpoint, outdir, opened, limit, notes)


@dataclass(frozen=True, slots=True)
class _Opened:
    """The tensors to write, and how they came about. reasons: for each that is decoded or taken through, why."""

    merged: MergedTensors
    unpacked: ModelTensors
    dtype: StoredType
    through: Through | None
    reasons: Mapping[str, str]
    requests: tuple[MergeRequest, ...]
    notes: tuple[str, ...]


def _open_tensors(
    checkpoint: Checkpoint, wanted: StoredType | None, through: Through | None, requests: Sequence[MergeRequest]
) -> _Opened:
    checkpoint.require_whole()
    unpacked = model_tensors(checkpoint)
    tensors = {name: _floating(tensor) for name, tensor in unpacked.tensors.items()}
    decoded = [name for name in unpacked.tensors if name in unpacked.decoded]
    dtype = wanted or _own_dtype([tensors[name] for name in decoded] or tensors.values())
    reasons = dict.fromkeys(decoded, f"packed by {unpacked.packing}")
    if through is not None:
        _check_through(checkpoint, unpacked, through)
        reasons = dict.fromkeys(sorted(quantized_weights(tensors)), f"down to {through.value} and up again")
        tensors = take_through(tensors, through, dtype)
    merged = merge_adapters(tensors, requests) if requests else MergedTensors(tensors)
    # The first tells what is packed, as `_statements` does.
    notes = (*unpacked.notes[0 if unpacked.packing is None else 1 :], *merged.notes)
    return _Opened(merged, unpacked, dtype, through, reasons, tuple(requests), notes)


def _refuse_for_gguf(asked: ModelRequest, through: Through | None) -> None:
    if through is not None:
        raise UsageError("a GGUF file does not go through a packed type", remedies=(Remedy.WITHOUT_THROUGH,))
    if asked.adapters:
        raise UsageError(
            "an adapter is merged into a checkpoint, not into a GGUF file",
            hint="make a directory of the file first, and merge the adapter into that",
        )


def _plan_gguf(path: Path, outdir: Path, wanted: StoredType | None, limit: int) -> DequantizePlan:
    """Plan the way back of a GGUF file; without a dtype each tensor keeps what holds its values exactly."""
    require_directory(outdir)
    opened = open_gguf(path)
    architecture = _architecture(opened.config)
    stored = [_stored(tensor, name, wanted or _float_type(tensor.dtype)) for name, tensor in opened.tensors.items()]
    dtype = wanted or _own_dtype(opened.tensors.values())
    reasons = {name: f"decoded from {kind}" for name, kind in opened.types.items()}
    shards = _cut(stored, outdir, path, limit, architecture=architecture, reasons=reasons)
    statements = (_said_of_gguf(path, dtype, wanted, reasons, n_tensors=len(stored)),)
    card = new_card(outdir.name, statements, opened.front_matter)
    index = [json_file(INDEX_NAME, index_json(shards))] if len(shards) > 1 else []
    config = json_file("config.json", {**opened.config, "torch_dtype": TORCH_NAMES[dtype]})
    return DequantizePlan(
        source=path,
        outdir=outdir,
        architecture=architecture,
        dtype=dtype,
        packing=None,
        through=None,
        n_changed=len(reasons),
        merged=(),
        shards=shards,
        side_files=_plan_side_files(path, outdir, architecture, [*opened.files, card, *index, config]),
        statements=statements,
        notes=opened.notes,
    )


def _float_type(dtype: StoredType | GGMLQuantizationType) -> StoredType:
    assert isinstance(dtype, StoredType)  # noqa: S101 - blocks are decoded
    return dtype


def _said_of_gguf(
    path: Path, dtype: StoredType, wanted: StoredType | None, reasons: Mapping[str, str], *, n_tensors: int
) -> str:
    made = f"Made of the GGUF file {shown(path.name)}"
    if reasons:
        kinds = ", ".join(sorted({reason.removeprefix("decoded from ") for reason in reasons.values()}))
        made += f", {len(reasons)} of whose {n_tensors} tensors were quantized: {kinds}"
    if wanted is None:
        return f"{made}. Every tensor has the values that the file has, exactly."
    return f"{made}. All floating-point tensors are {TORCH_NAMES[dtype]}."


def _cut(
    stored: Sequence[StoredTensor],
    outdir: Path,
    source: Path,
    limit: int,
    *,
    architecture: str,
    reasons: Mapping[str, str],
) -> tuple[Shard, ...]:
    cut = cut_into_shards(stored, limit)
    return tuple(
        plan_shard(outdir / name, tensors, source, architecture=architecture, reasons=reasons)
        for name, tensors in zip(shard_names(len(cut)), cut, strict=True)
    )


def _lay_out(
    checkpoint: Checkpoint, outdir: Path, opened: _Opened, limit: int, notes: tuple[str, ...]
) -> DequantizePlan:
    config = checkpoint.require_config()
    config_file = mended_config(config, opened.dtype, vocab_size=opened.merged.vocab_size, unties=opened.merged.unties)
    architecture = _architecture(config)
    stored = [_stored(tensor, name, opened.dtype) for name, tensor in opened.merged.tensors.items()]
    shards = _cut(stored, outdir, checkpoint.directory, limit, architecture=architecture, reasons=opened.reasons)
    copied, left = copied_files(checkpoint.directory, opened.merged.tokenizer or checkpoint.stated_tokenizer)
    files = TokenizerFiles(opened.merged.tokenizer or checkpoint.tokenizer, config)
    copied += [json_file(name, value) for name, value in files.made.items()]
    statements = _statements(checkpoint.directory, opened)
    card = model_card(checkpoint.directory, outdir.name, statements)
    index = [json_file(INDEX_NAME, index_json(shards))] if len(shards) > 1 else []
    if left:
        notes = (*notes, f"not copied: {shown_list(left)}")
    return DequantizePlan(
        source=checkpoint.directory,
        outdir=outdir,
        architecture=architecture,
        dtype=opened.dtype,
        packing=opened.unpacked.packing,
        through=opened.through,
        n_changed=len(opened.reasons),
        merged=opened.requests,
        shards=shards,
        side_files=_plan_side_files(checkpoint.directory, outdir, architecture, [*copied, card, *index, config_file]),
        statements=statements,
        notes=notes,
    )


def _plan_side_files(source: Path, outdir: Path, architecture: str, files: Sequence[SideFile]) -> Plan:
    """Plan the small files as outputs that are header only: they are written, compared and renamed as all outputs."""
    outputs = tuple(Output(outdir / file.name, file.data, (), len(file.data), FileKind.PLAIN) for file in files)
    return Plan(source, architecture, 0, 0, outputs, ())


def _statements(source: Path, opened: _Opened) -> tuple[str, ...]:
    """Say, for the model card, what was made of what: a sentence for each step."""
    name, dtype = shown(_name(source)), TORCH_NAMES[opened.dtype]
    said = []
    if opened.unpacked.packing is not None:
        said.append(
            f"Dequantized from {name}: {len(opened.reasons)} of {len(opened.unpacked.tensors)} tensors were packed by "
            f"{opened.unpacked.packing}. All floating-point tensors are {dtype}."
        )
    elif opened.through is not None:
        said.append(
            f"The weights of {name} were quantized to {opened.through.description} and dequantized again: "
            f"{len(opened.reasons)} of {len(opened.unpacked.tensors)} tensors, those that transformers would quantize. "
            f"All floating-point tensors are {dtype}."
        )
    else:
        said.append(f"The weights are those of {name}; all floating-point tensors are {dtype}.")
    for request in opened.requests:
        weight = "" if request.weight == 1 else f" with the weight {request.weight:g}"
        said.append(f"Then the adapter {shown(_name(request.directory))} was merged into them{weight}.")
    return tuple(said)


def _name(directory: Path) -> str:
    return cached_name(directory) or directory.name


def _stored(tensor: Tensor, name: str, dtype: StoredType) -> StoredTensor:
    if name == "__metadata__" or name != name.encode(errors="replace").decode():  # half of a surrogate pair
        raise CheckpointError(f"a tensor is called {shown(name)}, which safetensors cannot hold")
    if tensor.dtype in FLOATS:
        return StoredTensor(tensor, name, dtype)
    if tensor.dtype in INTEGERS:
        return StoredTensor(tensor, name, tensor.dtype)
    raise CheckpointError(
        f"tensor {shown(name)} is stored as {tensor.dtype.value}, which has no plain form here",
        hint="a packed or quantized checkpoint without its quantization_config cannot be decoded",
    )


def _floating(tensor: Tensor) -> Tensor:
    return CastTensor(tensor) if tensor.dtype in CAST_TYPES else tensor


def _own_dtype(tensors: Iterable[Tensor]) -> StoredType:
    """Return the float type that most numbers have."""
    counts: Counter[StoredType] = Counter()
    for tensor in tensors:
        if tensor.dtype in FLOATS:
            counts[tensor.dtype] += prod(tensor.shape)
    return max(counts, key=lambda kind: counts[kind], default=StoredType.F32)


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else config.get("model_type")
    return first if isinstance(first, str) else "unknown"


def _check_through(checkpoint: Checkpoint, unpacked: ModelTensors, through: Through) -> None:
    if unpacked.packing is not None:
        raise UsageError(
            f"the way through a packed type takes a 16-bit checkpoint, {shown(checkpoint.directory)} is packed by"
            f" {unpacked.packing}",
            remedies=(Remedy.WITHOUT_THROUGH,),
        )
    refuse_transposed(checkpoint.require_config(), through)


def _check_outdir(source: Path, outdir: Path) -> None:
    require_directory(outdir)
    target, model = Path(os.path.realpath(outdir)), Path(os.path.realpath(source))
    if target == model or target.is_relative_to(model):
        where = "is the model's own directory" if target == model else f"is inside the model's directory `{model}`"
        raise UsageError(f"`{outdir}` {where}", hint="choose another directory")


def _parse_dtype(text: str | None) -> StoredType | None:
    if text is None:
        return None
    spelled = {**DTYPES, **TORCH_FLOATS}
    if text.lower() not in spelled:
        raise UsageError(f"unknown dtype `{text}`", hint=f"known are {', '.join(DTYPES)}")
    return spelled[text.lower()]


def _parse_through(text: str | None) -> Through | None:
    if text is None:
        return None
    try:
        return Through(text.lower())
    except ValueError:
        known = ", ".join(kind.value for kind in Through)
        raise UsageError(f"unknown type `{text}` to go through", hint=f"known are {known}") from None
