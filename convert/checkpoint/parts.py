"""Which files of a directory are the model: safetensors before `pytorch_model*.bin` before one bare state dict.

Where the reference reads a directory, the choice and the order are its own (conversion/base.py,
ModelBase.index_tensors @ 0c1e570): the files that an index names, else every `model*.safetensors`, else every
`pytorch_model*.bin`; sorted by name. A bare `.pt`, `.pth` or `.ckpt` it does not read, nor what AutoGPTQ saves, which
is called `gptq_model-4bit-128g.safetensors`, or as its user likes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from convert.checkpoint.index import read_weight_map, require_files, require_inside
from convert.checkpoint.no_weights import missing_path, no_weights
from convert.errors import CheckpointError, Remedy
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class WeightFormat(Enum):
    """How a checkpoint's files are written."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"


@dataclass(frozen=True, slots=True)
class Parts:
    """The files that hold a model, in the order to read them, and the index that named them, if one did."""

    directory: Path
    weight_format: WeightFormat
    paths: tuple[Path, ...]
    index: Path | None = None
    weight_map: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()


BARE_SUFFIXES: Final = (".pt", ".pth", ".ckpt")
_FILE_FORMATS: Final = {
    ".safetensors": WeightFormat.SAFETENSORS,
    ".bin": WeightFormat.TORCH,
    **dict.fromkeys(BARE_SUFFIXES, WeightFormat.TORCH),
}
_SHARD: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
# What trainers leave beside the weights: transformers/trainer.py, OPTIMIZER_NAME and its neighbours.
_TRAINER_FILE: Final = re.compile(
    r"(optimizer|scheduler|scaler|training_args|trainer_state|rng_state(_\d+)?)\.(pt|pth|bin)|consolidated.*\.pth"
)
_AUTOGPTQ_CONFIG: Final = "quantize_config.json"  # auto_gptq 0.7.1, modeling/_base.py, save_quantized
_HQQ_PICKLE: Final = "qmodel.pt"  # hqq 0.2.8, models/base.py: no state dict, a dict of each layer's


def choose_parts(path: Path) -> Parts:
    """Choose the files to read: of a model directory, or the one file that the path names.

    Raises CheckpointError if there is nothing to read, if files are missing or link out of the directory, or if several
    state dicts could be meant.
    """
    try:
        return _choose_parts(path)
    except OSError as error:
        raise CheckpointError(f"{shown(path)} cannot be read: {error.strerror}") from error


def _choose_parts(path: Path) -> Parts:
    if not path.exists():
        raise missing_path(path)
    if not path.is_dir():
        return _named_file(path)
    parts = _choose(path, sorted(entry.name for entry in path.iterdir()))
    _require_all_numbers(parts)
    for part in parts.paths:
        require_inside(path, part)
    return parts


def _choose(directory: Path, names: Sequence[str]) -> Parts:
    safetensors = _matching(names, "model", ".safetensors")
    if safetensors or (directory / "model.safetensors.index.json").is_file():
        return _whole_or_sharded(directory, names, safetensors, "model", WeightFormat.SAFETENSORS)
    bins = _matching(names, "pytorch_model", ".bin")
    if bins or (directory / "pytorch_model.bin.index.json").is_file():
        return _whole_or_sharded(directory, names, bins, "pytorch_model", WeightFormat.TORCH)
    return _from_autogptq(directory, names) or _bare(directory, names)


def _from_autogptq(directory: Path, names: Sequence[str]) -> Parts | None:
    """Take the one file of weights beside AutoGPTQ's config, or the shards of one, whatever it is called."""
    if _AUTOGPTQ_CONFIG not in names:
        return None
    for suffix, weight_format in ((".safetensors", WeightFormat.SAFETENSORS), (".bin", WeightFormat.TORCH)):
        found = [name for name in _matching(names, "", suffix) if not _is_beside_weights(name)]
        shards = [_SHARD.fullmatch(name) for name in found]
        stems = {
            shard["stem"] if shard else name.removesuffix(suffix) for shard, name in zip(shards, found, strict=True)
        }
        if len(stems) == 1:
            return _whole_or_sharded(directory, names, found, stems.pop(), weight_format)
    return None


def _matching(names: Sequence[str], prefix: str, suffix: str) -> list[str]:
    return [name for name in names if name.startswith(prefix) and name.endswith(suffix)]


def _is_beside_weights(name: str) -> bool:
    """Say whether a file is a trainer's or an adapter's, by its name."""
    return _TRAINER_FILE.fullmatch(name) is not None or name.startswith("adapter_")


def _whole_or_sharded(
    directory: Path, names: Sequence[str], found: list[str], stem: str, weight_format: WeightFormat
) -> Parts:
    suffix = ".safetensors" if weight_format is WeightFormat.SAFETENSORS else ".bin"
    index, weight_map, taken = directory / f"{stem}{suffix}.index.json", None, found
    if index.is_file():
        weight_map = read_weight_map(index, suffix=suffix)
        taken = sorted(set(weight_map.values()))
        require_files(directory, taken, wanted_by=shown(index.name))
    return Parts(
        directory=directory,
        weight_format=weight_format,
        paths=tuple(directory / name for name in taken),
        index=index if weight_map is not None else None,
        weight_map=weight_map,
        notes=_notes(names, taken),
    )


def _bare(directory: Path, names: Sequence[str]) -> Parts:
    found = [name for name in names if name.endswith(BARE_SUFFIXES) and not _TRAINER_FILE.fullmatch(name)]
    found = [name for name in found if name != _HQQ_PICKLE]
    if not found:
        raise no_weights(directory, names)
    if len(found) > 1:
        raise CheckpointError(
            f"{shown(directory)} has several files that may be the model: {shown_list(found)}",
            hint="name the file instead of the directory",
        )
    return Parts(directory, WeightFormat.TORCH, (directory / found[0],), notes=_notes(names, found))


def _named_file(path: Path) -> Parts:
    weight_format = _FILE_FORMATS.get(path.suffix)
    if path.suffix == ".gguf":
        raise CheckpointError(f"{shown(path)} is a GGUF, wanted a checkpoint", remedies=(Remedy.QUANTIZE_GGUF,))
    if weight_format is None:
        wanted = shown_list(list(_FILE_FORMATS))
        raise CheckpointError(f"{shown(path)} is not a model directory, nor a file of weights: {wanted}")
    if shard := _SHARD.fullmatch(path.name):
        raise CheckpointError(
            f"{shown(path)} is one of {int(shard['count'])} shards", hint=f"name the directory: {shown(path.parent)}"
        )
    note = f"reads {shown(path.name)} alone, since it was named"
    return Parts(path.parent, weight_format, (path,), notes=(note,))


def _notes(names: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    """Tell which files of weights are passed over."""
    suffixes = tuple(_FILE_FORMATS)
    others = [name for name in names if name.endswith(suffixes) and name not in taken]
    others = [name for name in others if not _is_beside_weights(name)]
    if not others:
        return ()
    return (f"reads {shown_list(list(taken))}, passes over {shown_list(others)}",)


def _require_all_numbers(parts: Parts) -> None:
    """Without an index, the shards' own names tell how many there are; the reference would convert what is there."""
    if parts.weight_map is not None:
        return
    shards = [shard for path in parts.paths if (shard := _SHARD.fullmatch(path.name))]
    for stem, count, suffix in sorted({(shard["stem"], shard["count"], shard["suffix"]) for shard in shards}):
        wanted = [f"{stem}-{number:05d}-of-{count}{suffix}" for number in range(1, int(count) + 1)]
        require_files(parts.directory, wanted, wanted_by="the shards' numbering")
