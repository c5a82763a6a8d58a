"""What a directory of GGUF files holds: models of one or several parts, and what lies beside them.

What a file is its header says; its name matters to those who choose by names (`choosers`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any, Final

from gguf import Keys

from convert.errors import CheckpointError, Remedy, UsageError
from convert.gguf_file import read_gguf
from convert.importance import is_importance
from convert.publish.choosers import tag_of
from convert.quant_mix import FILE_TYPES
from convert.shown import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from convert.gguf_file import GGUFFile

# common/download.cpp, get_gguf_split_info @ 0c1e570
PART: Final = re.compile(r"(?P<whole>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_DECLARED: Final = {row.declared: row.name for row in FILE_TYPES.values() if row.declared is not None}


class FileRole(Enum):
    """What a GGUF file is to whoever runs a model."""

    MODEL = "model"
    MMPROJ = "mmproj"
    MTP = "mtp"
    IMPORTANCE = "imatrix"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class DescribedFile:
    """A GGUF file, or all parts of a split one.

    names: paths in the directory, with slashes, the first part first. label: its type, such as `Q4_K_M`.
    values: the metadata, of the first part. n_parameters: of all parts.
    """

    names: tuple[str, ...]
    role: FileRole
    label: str
    nbytes: int
    values: Mapping[str, Any]
    n_parameters: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file for each weight, metadata included."""
        return 8 * self.nbytes / max(self.n_parameters, 1)


@dataclass(frozen=True, slots=True)
class DescribedDirectory:
    """A directory of GGUF files. files: models first, the largest first."""

    path: Path
    files: tuple[DescribedFile, ...]

    def of(self, role: FileRole) -> tuple[DescribedFile, ...]:
        """Give the files of a role."""
        return tuple(file for file in self.files if file.role is role)

    @property
    def models(self) -> tuple[DescribedFile, ...]:
        """The models of any type, the largest first."""
        return self.of(FileRole.MODEL)


def describe_directory(directory: Path) -> DescribedDirectory:
    """Read the headers of a directory's GGUF files, and of those in its folders.

    Raises CheckpointError for a broken file, or parts that do not make a whole; UsageError for no directory, or one
    without a model.
    """
    if not directory.is_dir():
        raise UsageError(f"{shown(directory)} is not a directory", hint=nearest(directory))
    return describe(directory, gguf_names(directory), lambda name: read_gguf(directory / name))


def describe(directory: Path, names: Iterable[str], read: Callable[[str], GGUFFile]) -> DescribedDirectory:
    """Describe files by their headers, which are there or planned; one is held at a time, and a vocabulary once.

    names: paths in the directory. Raises as for `describe_directory`.
    """
    seen: dict[str, Any] = {}
    described = [_described(group, read, seen) for group in grouped(names)]
    if not any(file.role is FileRole.MODEL for file in described):
        raise UsageError(f"{shown(directory)} has no GGUF model in it", remedies=(Remedy.CONVERT_CHECKPOINT,))
    return DescribedDirectory(directory, tuple(sorted(described, key=_rank)))


def gguf_names(directory: Path) -> list[str]:
    """Give the paths of a directory's GGUF files, two levels deep, hidden ones left out."""
    found = [path for pattern in ("*.gguf", "*/*.gguf") for path in directory.glob(pattern) if path.is_file()]
    names = (path.relative_to(directory).as_posix() for path in found)
    return sorted(name for name in names if not name.startswith(".") and "/." not in name)


def grouped(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Put the parts of a split file together; a file of one part is alone."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        part = PART.fullmatch(name)
        groups.setdefault(name if part is None else f"{part['whole']}/{part['count']}", []).append(name)
    return [tuple(group) for group in groups.values()]


def _described(names: tuple[str, ...], read: Callable[[str], GGUFFile], seen: dict[str, Any]) -> DescribedFile:
    part = PART.fullmatch(names[0])
    if part is not None and [*map(_number, names)] != [*range(1, int(part["count"]) + 1)]:
        raise CheckpointError(
            f"of the {int(part['count'])} parts of {shown(part['whole'])} there are {len(names)}",
            hint="bring the others, or take these away",
        )
    first = read(names[0])
    lengths = [(first.nbytes, _n_parameters(first))]
    lengths += [(file.nbytes, _n_parameters(file)) for file in map(read, names[1:])]
    return DescribedFile(
        names=names,
        role=role_of(first),
        label=label_of(names[0], first.metadata),
        nbytes=sum(nbytes for nbytes, _ in lengths),
        values={key: _once(key, value, seen) for key, value in first.metadata.items()},
        n_parameters=sum(n_parameters for _, n_parameters in lengths),
    )


def _n_parameters(file: GGUFFile) -> int:
    return sum(prod(tensor.shape) for tensor in file.tensors)


def _once(key: str, value: object, seen: dict[str, Any]) -> object:
    """Give the same long value that another file has, where it is equal."""
    return value if not isinstance(value, tuple) or seen.setdefault(key, value) != value else seen[key]


def _number(name: str) -> int:
    part = PART.fullmatch(name)
    return 0 if part is None else int(part["number"])


def role_of(file: GGUFFile) -> FileRole:
    """Say what a file is, by its header; only what predicts further tokens is known by its name."""
    kind = file.metadata.get(Keys.General.TYPE)
    if is_importance(file):
        return FileRole.IMPORTANCE
    if kind == "mmproj" or file.metadata.get(Keys.General.ARCHITECTURE) == "clip":
        return FileRole.MMPROJ
    if kind == "adapter":
        return FileRole.ADAPTER
    return FileRole.MTP if file.path.name.startswith("mtp-") else FileRole.MODEL


def label_of(name: str, values: Mapping[str, Any]) -> str:
    """Say a file's type: as its name says it, since publishers know types that the metadata does not; else by that."""
    declared = values.get(Keys.General.FILE_TYPE)
    return tag_of(name) or _DECLARED.get(declared if isinstance(declared, int) else -1, "unknown")


def _rank(file: DescribedFile) -> tuple[bool, str, int, tuple[str, ...]]:
    return file.role is not FileRole.MODEL, file.role.value, -file.nbytes, file.names
