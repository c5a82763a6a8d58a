"""Which files of a directory are the model, in the order in which transformers looks for them.

    model.safetensors                  alone, before an index of shards: a second save leaves the old one beside it
    model.safetensors.index.json       the files that it names
    model*.safetensors                 all of them
    pytorch_model.bin …                the same three
    X-00001-of-00002.safetensors …     shards of one other name, as AutoGPTQ's user likes to call them
    one .pt, .pth or .ckpt             a bare state dict

Source: transformers 5.23, modeling_utils.py, _get_resolved_checkpoint_files. The order of files is the reference's, by
name (conversion/base.py, ModelBase.index_tensors @ 0c1e570), which takes an index before the single file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from convert.checkpoint.index import lacks_files, link_notes, missing_of, read_weight_map
from convert.checkpoint.no_weights import TRAINER_FILE, missing_path, no_weights, sharded_parts
from convert.errors import CheckpointError, Remedy
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class WeightFormat(Enum):
    """How a checkpoint's files are written."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"


@dataclass(frozen=True, slots=True)
class ChosenFiles:
    """The files that hold a model, in the order to read them, and the index that named them, if one did.

    lacking: what is wrong if the files that are there do not hold the whole model.
    """

    directory: Path
    weight_format: WeightFormat
    paths: tuple[Path, ...]
    index: Path | None = None
    weight_map: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
    lacking: CheckpointError | None = None


BARE_SUFFIXES: Final = (".pt", ".pth", ".ckpt")
_FILE_FORMATS: Final = {
    ".safetensors": WeightFormat.SAFETENSORS,
    ".bin": WeightFormat.TORCH,
    **dict.fromkeys(BARE_SUFFIXES, WeightFormat.TORCH),
}
_SHARD: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
_AUTOGPTQ_CONFIG: Final = "quantize_config.json"  # auto_gptq 0.7.1, modeling/_base.py, save_quantized
_EXLLAMA: Final = frozenset({"output"})  # what it calls its shards, which are not decoded
_HQQ_PICKLE: Final = "qmodel.pt"  # hqq 0.2.8, models/base.py: no state dict, a dict of each layer's


def choose_parts(path: Path) -> ChosenFiles:
    """Choose the files to read: of a model directory, of a repository in the Hub's cache, or the one file named.

    Raises CheckpointError if there is nothing to read, or if several state dicts could be meant.
    """
    try:
        return _choose_parts(path)
    except OSError as error:
        raise CheckpointError(f"{shown(path)} cannot be read: {error.strerror}") from error


def _choose_parts(path: Path) -> ChosenFiles:
    if not path.exists():
        raise missing_path(path)
    if not path.is_dir():
        return _named_file(path)
    path = snapshot_of(path) or path
    parts = _choose(path, sorted(entry.name for entry in path.iterdir()))
    return replace(parts, notes=(*parts.notes, *link_notes(path, parts.paths)))


def snapshot_of(repository: Path) -> Path | None:
    """Return what a repository in the Hub's cache has of its main branch, or its one snapshot."""
    snapshots, main = repository / "snapshots", repository / "refs" / "main"
    if not snapshots.is_dir() or not (repository / "blobs").is_dir():
        return None
    found = [entry for entry in snapshots.iterdir() if entry.is_dir()]
    named = [entry for entry in found if main.is_file() and entry.name == main.read_text(encoding="utf-8").strip()]
    return next(iter(named or (found if len(found) == 1 else ())), None)


def _choose(directory: Path, names: Sequence[str]) -> ChosenFiles:
    # An index of which no file is there is a leftover, unless there is nothing else.
    choices = [parts for parts in _choices(directory, names) if parts is not None]
    for parts in choices:
        if parts.paths:
            return parts
    for parts in choices:
        if parts.lacking is not None:
            raise parts.lacking
    return _bare(directory, names)


def _choices(directory: Path, names: Sequence[str]) -> Iterator[ChosenFiles | None]:
    yield _of_stem(directory, names, "model", ".safetensors")
    yield _of_stem(directory, names, "pytorch_model", ".bin")
    yield _of_another_stem(directory, names)


def _of_stem(directory: Path, names: Sequence[str], stem: str, suffix: str) -> ChosenFiles | None:
    found, whole, index = _matching(names, stem, suffix), f"{stem}{suffix}", directory / f"{stem}{suffix}.index.json"
    weight_map = read_weight_map(index, suffix=suffix) if index.is_file() else None
    if whole in found and (weight_map is None or whole not in weight_map.values()):
        return ChosenFiles(directory, _FILE_FORMATS[suffix], (directory / whole,), notes=_notes(names, [whole], index))
    if weight_map is None:
        return None if not found else _parts(directory, names, found, suffix, _missing_numbers(directory, found))
    named = sorted(set(weight_map.values()))
    missing = missing_of(directory, named)
    lacking = lacks_files(directory, missing, len(named), wanted_by=shown(index.name)) if missing else None
    parts = _parts(directory, names, [name for name in named if name not in missing], suffix, lacking)
    return replace(parts, index=index, weight_map=weight_map)


def _parts(
    directory: Path, names: Sequence[str], taken: Sequence[str], suffix: str, lacking: CheckpointError | None
) -> ChosenFiles:
    paths = tuple(directory / name for name in taken)
    return ChosenFiles(directory, _FILE_FORMATS[suffix], paths, notes=_notes(names, taken), lacking=lacking)


def _of_another_stem(directory: Path, names: Sequence[str]) -> ChosenFiles | None:
    """Take shards that have one name, or the one file of weights beside AutoGPTQ's config, whatever it is called."""
    for suffix in (".safetensors", ".bin"):
        found = [name for name in _matching(names, "", suffix) if not _is_beside_weights(name)]
        shards = [_SHARD.fullmatch(name) for name in found]
        stems = {
            shard["stem"] if shard else name.removesuffix(suffix) for shard, name in zip(shards, found, strict=True)
        }
        is_meant = _AUTOGPTQ_CONFIG in names or all(shards)
        if is_meant and len(stems) == 1 and not stems & _EXLLAMA:
            return _of_stem(directory, names, stems.pop(), suffix)
    return None


def _matching(names: Sequence[str], prefix: str, suffix: str) -> list[str]:
    return [name for name in names if name.startswith(prefix) and name.endswith(suffix)]


def _is_beside_weights(name: str) -> bool:
    """Say whether a file is a trainer's or an adapter's, by its name."""
    return TRAINER_FILE.fullmatch(name) is not None or name.startswith("adapter_")


def _bare(directory: Path, names: Sequence[str]) -> ChosenFiles:
    found = [name for name in names if name.endswith(BARE_SUFFIXES) and not TRAINER_FILE.fullmatch(name)]
    found = [name for name in found if name != _HQQ_PICKLE]
    if not found:
        raise no_weights(directory, names)
    if (sharded := sharded_parts(directory, names)) is not None:
        raise sharded
    if len(found) > 1:
        raise CheckpointError(
            f"{shown(directory)} has several files that may be the model: {shown_list(found)}",
            hint="name the file instead of the directory",
        )
    return ChosenFiles(directory, WeightFormat.TORCH, (directory / found[0],), notes=_notes(names, found))


def _named_file(path: Path) -> ChosenFiles:
    weight_format = _FILE_FORMATS.get(path.suffix)
    if path.suffix == ".gguf":
        raise CheckpointError(f"{shown(path)} is a GGUF, wanted a checkpoint", remedies=(Remedy.QUANTIZE_GGUF,))
    if weight_format is None:
        wanted = shown_list(list(_FILE_FORMATS))
        raise CheckpointError(f"{shown(path)} is not a model directory, nor a file of weights: {wanted}")
    if (shard := _SHARD.fullmatch(path.name)) and int(shard["count"]) > 1:
        raise CheckpointError(
            f"{shown(path)} is one of {int(shard['count'])} shards", hint=f"name the directory: {shown(path.parent)}"
        )
    note = f"reads {shown(path.name)} alone, since it was named"
    return ChosenFiles(path.parent, weight_format, (path,), notes=(note,))


def _notes(names: Sequence[str], taken: Sequence[str], index: Path | None = None) -> tuple[str, ...]:
    """Tell which files of weights are passed over, and the index of another save."""
    suffixes = tuple(_FILE_FORMATS)
    others = [name for name in names if name.endswith(suffixes) and name not in taken]
    others = [name for name in others if not _is_beside_weights(name)]
    others += [index.name] if index is not None and index.name in names else []
    if not others:
        return ()
    return (f"reads {shown_list(list(taken))}, passes over {shown_list(others)}",)


def _missing_numbers(directory: Path, found: Sequence[str]) -> CheckpointError | None:
    """Without an index, the shards' own names tell how many there are; the reference would convert what is there."""
    shards = [shard for name in found if (shard := _SHARD.fullmatch(name))]
    for stem, count, suffix in sorted({(shard["stem"], shard["count"], shard["suffix"]) for shard in shards}):
        wanted = [f"{stem}-{number:05d}-of-{count}{suffix}" for number in range(1, int(count) + 1)]
        if missing := missing_of(directory, wanted):
            return lacks_files(directory, missing, len(wanted), wanted_by="the shards' numbering")
    return None
