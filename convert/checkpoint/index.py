"""The index of a sharded checkpoint, and the rule that keeps its files inside it.

An index entry is a relative path without `..`: an index is data from elsewhere, and may not point out of the model
directory. A link in the directory is its owner's: shards linked in from another disk or from a cache are followed, with
a note where they lead out. What is *copied* from a directory, its tokenizer and the like, must lie in it, links
followed; or, where it is a snapshot of a Hugging Face cache, in the same repository, since its snapshots are links:

    models--org--name/            the repository: has `snapshots` and `blobs`
    ├── blobs/HASH                the bytes
    └── snapshots/REV/FILE   ->   ../../blobs/HASH

Which tensor is where, the files say. What the index says otherwise is a note, and what it names and no file has is
kept for whoever can tell whether the model needs it.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from convert.checkpoint.json_file import read_json
from convert.errors import CheckpointError
from convert.remote import hub_name
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from convert.checkpoint.source import TensorSource

MAX_INDEX_NBYTES: Final = 64 << 20  # an entry takes about 100 bytes


def read_weight_map(path: Path, *, suffix: str) -> dict[str, str]:
    """Read the `weight_map` of an index: tensor name → file name, relative to the index's directory.

    suffix: what every file name must end with.
    Raises CheckpointError if it is missing, empty, not strings to strings, or names a file outside the directory.
    """
    weight_map = read_json(path, max_nbytes=MAX_INDEX_NBYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{shown(path)} has no `weight_map` from tensor names to file names")
    sound: set[str] = set()  # of ten thousands of entries a few hundred files are looked at
    for tensor, file_name in weight_map.items():
        if not isinstance(file_name, str):
            raise CheckpointError(f"{shown(path)} maps {shown(tensor)} to {shown(file_name)}, wanted a file name")
        if file_name in sound:
            continue
        if fault := _fault_in_entry(file_name, suffix):
            raise CheckpointError(f"{shown(path)} maps {shown(tensor)} to {shown(file_name)}, {fault}")
        sound.add(file_name)
    return weight_map


def _fault_in_entry(file_name: str, suffix: str) -> str | None:
    entry = PurePosixPath(file_name)
    if entry.is_absolute() or ".." in entry.parts:
        return "a path out of the checkpoint"
    if not file_name.endswith(suffix) or "\0" in file_name:
        return f"wanted a name that ends in `{suffix}`"
    return None


def missing_of(directory: Path, names: Iterable[str]) -> list[str]:
    """List the files that are not in the directory."""
    return [name for name in names if not _exists(directory / name)]


def lacks_files(directory: Path, missing: Sequence[str], n_wanted: int, *, wanted_by: str) -> CheckpointError:
    """Make the error that lists every file that is missing from the directory."""
    return CheckpointError(
        f"{shown(directory)} lacks {len(missing)} of {n_wanted} files that {wanted_by} names: {shown_list([*missing])}",
        hint="download the checkpoint again: `hf download` resumes where it stopped",
    )


def link_notes(directory: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    """Tell which files are links out of the directory; CheckpointError for one that leads nowhere."""
    outside = [path for path in paths if not _is_inside(directory, path)]
    if not outside:
        return ()
    to = sorted({str(path.resolve().parent) for path in outside})
    return (f"follows links out of the directory, to {shown_list(to)}: {shown_list([p.name for p in outside])}",)


def require_inside(directory: Path, path: Path) -> None:
    """Raise CheckpointError if a path, links followed, leaves the model directory and its cached repository."""
    if not _is_inside(directory, path):
        raise CheckpointError(
            f"{shown(path)} is a link out of the checkpoint, to {shown(path.resolve())}",
            hint="put the file itself there",
        )


def _is_inside(directory: Path, path: Path) -> bool:
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise CheckpointError(f"{shown(path)} is a link that leads nowhere") from error
    return any(resolved.is_relative_to(root) for root in _roots(directory.resolve()))


def _roots(directory: Path) -> list[Path]:
    """List the directory, and the cached repository that it is a snapshot of."""
    snapshots = (parent for parent in directory.parents if parent.name == "snapshots")
    return [directory, *(parent.parent for parent in snapshots if (parent.parent / "blobs").is_dir())]


def cached_name(directory: Path) -> str | None:
    """Return `ORG/NAME`, where a directory is a snapshot in the Hub's cache, or stands for one elsewhere; else None."""
    if (elsewhere := hub_name(directory)) is not None:
        return elsewhere
    repository = directory.parent.parent.name
    if directory.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long to be one
        return False


def compare(weight_map: Mapping[str, str], sources: Mapping[str, TensorSource], *, index: Path) -> tuple[str, ...]:
    """Tell where an index and its files do not say the same; the files are right.

    conversion/base.py, ModelBase.index_tensors @ 0c1e570 refuses names that are in one only.
    """
    extra = [name for name in sources if name not in weight_map]
    paths = {file: index.parent / file for file in set(weight_map.values())}
    moved = [name for name, file in weight_map.items() if name in sources and sources[name].path != paths[file]]
    notes = []
    if extra:
        notes.append(f"{shown(index.name)} does not name {len(extra)} tensors that its files have: {shown_list(extra)}")
    if moved:
        files = sorted({sources[name].path.name for name in moved})
        notes.append(
            f"{shown(index.name)} puts {len(moved)} tensors elsewhere than they are, in {shown_list(files)}:"
            f" {shown_list(moved)}"
        )
    return tuple(notes)


def absent_tensors(weight_map: Mapping[str, str], absent: Sequence[str], *, index: Path) -> CheckpointError:
    """Make the error for tensors that an index names and no file has."""
    files = sorted({weight_map[name] for name in absent})
    return CheckpointError(
        f"{shown(index)} names {len(absent)} tensors that are not in their files: {shown_list(list(absent))},"
        f" looked for in {shown_list(files)}"
    )


def merge(parts: Sequence[Sequence[TensorSource]], meant: Mapping[str, Path] | None = None) -> dict[str, TensorSource]:
    """Put the tensors of several files into one map, in order; of one in two files, that of the file that is meant.

    Raises CheckpointError if two have a tensor of one name, and no index tells: the reference silently takes the later.
    """
    meant = meant or {}
    merged: dict[str, TensorSource] = {}
    for source in (source for part in parts for source in part):
        first = merged.get(source.name)
        if first is None or source.path == meant.get(source.name):
            merged.pop(source.name, None)
            merged[source.name] = source
        elif first.path != meant.get(source.name):
            raise CheckpointError(
                f"tensor {shown(source.name)} is in {shown(first.path)} and in {shown(source.path)}, wanted once",
                hint="to convert one of them, name the file instead of the directory",
            )
    return merged
