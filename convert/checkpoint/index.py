"""The index of a sharded checkpoint, and the rule that keeps its files inside it.

An index entry is a relative path without `..`. The file it names, links followed, must lie in the model directory; or,
where that is a snapshot of a Hugging Face cache, in the same cached repository, since a cache's snapshots are links:

    models--org--name/            the repository: has `snapshots` and `blobs`
    ├── blobs/HASH                the bytes
    └── snapshots/REV/FILE   ->   ../../blobs/HASH

The rule holds for every file of weights found in a directory, indexed or not; a file that the user names is the user's.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from convert.checkpoint.json_file import read_json
from convert.errors import CheckpointError
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
    for tensor, file_name in weight_map.items():
        if not isinstance(file_name, str):
            raise CheckpointError(f"{shown(path)} maps {shown(tensor)} to {shown(file_name)}, wanted a file name")
        if fault := _fault_in_entry(file_name, suffix):
            raise CheckpointError(f"{shown(path)} maps {shown(tensor)} to {shown(file_name)}, {fault}")
    return weight_map


def _fault_in_entry(file_name: str, suffix: str) -> str | None:
    entry = PurePosixPath(file_name)
    if entry.is_absolute() or ".." in entry.parts:
        return "a path out of the checkpoint"
    if not file_name.endswith(suffix) or "\0" in file_name:
        return f"wanted a name that ends in `{suffix}`"
    return None


def require_files(directory: Path, names: Iterable[str], *, wanted_by: str) -> None:
    """Raise CheckpointError listing every file that is missing from the directory, or that links out of it."""
    names = list(names)
    missing = [name for name in names if not _exists(directory / name)]
    if missing:
        count = f"{len(missing)} of {len(names)} files"
        raise CheckpointError(
            f"{shown(directory)} lacks {count} that {wanted_by} names: {shown_list(missing)}",
            hint="download the checkpoint again: `hf download` resumes where it stopped",
        )
    for name in names:
        require_inside(directory, directory / name)


def require_inside(directory: Path, path: Path) -> None:
    """Raise CheckpointError if a path, links followed, leaves the model directory and its cached repository."""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise CheckpointError(f"{shown(path)} is a link that leads nowhere") from error
    if not any(resolved.is_relative_to(root) for root in _roots(directory.resolve())):
        raise CheckpointError(
            f"{shown(path)} is a link out of the checkpoint, to {shown(resolved)}",
            hint="put the file itself there, or name the directory that has it",
        )


def _roots(directory: Path) -> list[Path]:
    """List the directory, and the cached repository that it is a snapshot of."""
    snapshots = (parent for parent in directory.parents if parent.name == "snapshots")
    return [directory, *(parent.parent for parent in snapshots if (parent.parent / "blobs").is_dir())]


def cached_name(directory: Path) -> str | None:
    """Return `ORG/NAME`, where a directory is a snapshot in the Hub's cache and so called after a commit; else None."""
    repository = directory.parent.parent.name
    if directory.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long to be one
        return False


def check_weight_map(weight_map: Mapping[str, str], sources: Mapping[str, TensorSource], *, index: Path) -> None:
    """Check that an index and its files tell the same: each tensor, and the file it is in.

    Raises CheckpointError naming the tensors that are in one only, or the first that is in another file.
    """
    # conversion/base.py, ModelBase.index_tensors @ 0c1e570 compares the names, not which file has a tensor.
    missing = [name for name in weight_map if name not in sources]
    if missing:
        files = sorted({weight_map[name] for name in missing})
        raise CheckpointError(
            f"{shown(index)} names {len(missing)} tensors that are not in their files: {shown_list(missing)},"
            f" looked for in {shown_list(files)}"
        )
    extra = [name for name in sources if name not in weight_map]
    if extra:
        files = sorted({source.path.name for name, source in sources.items() if name not in weight_map})
        raise CheckpointError(
            f"{shown(index)} does not name {len(extra)} tensors that its files have: {shown_list(extra)},"
            f" found in {shown_list(files)}"
        )
    for name, file_name in weight_map.items():
        if sources[name].path != index.parent / file_name:
            got = sources[name].path.name
            raise CheckpointError(f"{shown(index)} puts {shown(name)} in {shown(file_name)}, it is in {shown(got)}")


def merge(parts: Sequence[Sequence[TensorSource]]) -> dict[str, TensorSource]:
    """Put the tensors of several files into one map, in order.

    Raises CheckpointError if two have a tensor of one name: the reference would silently take the later.
    """
    merged: dict[str, TensorSource] = {}
    for part in parts:
        for source in part:
            if (first := merged.setdefault(source.name, source)) is not source:
                raise CheckpointError(
                    f"tensor {shown(source.name)} is in {shown(first.path)} and in {shown(source.path)}, wanted once",
                    hint="to convert one of them, name the file instead of the directory",
                )
    return merged
