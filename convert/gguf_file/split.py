"""Models in parts: `NAME-00001-of-00003.gguf` and so on; only the first part has the model's metadata.

    split.no             uint16   which part it is, from 0
    split.count          uint16   of how many
    split.tensors.count  int32    how many tensors the whole model has

Source: tools/gguf-split/gguf-split.cpp; src/llama-model-loader.cpp, llama_get_list_splits @ 0c1e570.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from gguf import GGUFValueType, Keys

from convert.errors import CheckpointError, UsageError
from convert.gguf_file.data import Entry, KeyValue
from convert.gguf_file.key_values import encoded_entry
from convert.gguf_file.reader import GGUFFile, read_gguf
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SPLIT_NO: Final = Keys.Split.LLM_KV_SPLIT_NO
SPLIT_COUNT: Final = Keys.Split.LLM_KV_SPLIT_COUNT
SPLIT_TENSORS: Final = Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT
SPLIT_KEYS: Final = (SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS)
MAX_PARTS: Final = 65535  # uint16


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a model a file is: `number` counts from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        """Say it in words."""
        return f"part {self.number} of {self.count} of a split model"

    @property
    def suffix(self) -> str:
        """What its file's name ends with, as llama.cpp looks for it (llama_split_path)."""
        return f"-{self.number:05}-of-{self.count:05}.gguf"

    def entries(self, n_tensors: int) -> dict[str, Entry]:
        """Make what the file says of it, by key. n_tensors: of the whole model."""
        said = (
            KeyValue(SPLIT_NO, self.number - 1, GGUFValueType.UINT16),
            KeyValue(SPLIT_COUNT, self.count, GGUFValueType.UINT16),
            KeyValue(SPLIT_TENSORS, n_tensors, GGUFValueType.INT32),
        )
        return {entry.key: encoded_entry(entry) for entry in said}


def part_of(file: GGUFFile) -> Part | None:
    """Tell which part a file is; None for a whole one, also where keys of a split are left in it.

    A file that has as many tensors as the model, and is the first, is whole, whatever it says of parts.
    """
    values = file.metadata
    number, count, n_tensors = (values.get(key) for key in SPLIT_KEYS)
    if not isinstance(count, int) or count < 2:  # noqa: PLR2004 - one part is a whole
        return None
    number = number if isinstance(number, int) else 0
    return None if number == 0 and n_tensors == len(file.tensors) else Part(number + 1, count)


def prefix_of(path: Path, part: Part) -> str:
    """Return what stands in a part's file name before its number; the whole name, if it is not that part's."""
    return path.name.removesuffix(part.suffix)


def read_parts(path: Path) -> tuple[GGUFFile, ...]:
    """Read the headers of a model's files, in order: of a whole file itself, of a split one's first part all parts.

    Raises UsageError for another part than the first; CheckpointError that names them for parts that are missing, are
    broken, or do not belong together; else as `read_gguf`.
    """
    first = read_gguf(path)
    part = part_of(first)
    if part is None:
        return (first,)
    prefix = prefix_of(path, part)
    if prefix == path.name:
        wanted = shown(f"NAME{part.suffix}")
        raise CheckpointError(
            f"{shown(path)} is {part}, and is not called so", hint=f"the others are found by its name, {wanted}"
        )
    if part.count > MAX_PARTS:
        raise CheckpointError(f"{shown(path)} is {part}, at most {MAX_PARTS} are possible")
    paths = [path.with_name(prefix + Part(number, part.count).suffix) for number in range(1, part.count + 1)]
    if part.number != 1:
        raise UsageError(f"{shown(path)} is {part}", hint=f"give the first: {shown(paths[0])}")
    if missing := [other.name for other in paths if not other.is_file()]:
        raise CheckpointError(
            f"{shown(path)} is {part}, of which {len(missing)} are missing: {shown_list(missing)}",
            hint=f"all parts are to be in {shown(path.absolute().parent)}",
        )
    parts = (first, *map(read_gguf, paths[1:]))
    _check_together(parts)
    return parts


def as_one(parts: Sequence[GGUFFile]) -> GGUFFile:
    """Put the headers of a model's parts together; offsets count on, as if one part lay after another."""
    starts = accumulate((part.nbytes for part in parts[:-1]), initial=0)
    tensors = (
        replace(tensor, offset=start + tensor.offset)
        for start, part in zip(starts, parts, strict=True)
        for tensor in part.tensors
    )
    return replace(parts[0], nbytes=sum(part.nbytes for part in parts), tensors=tuple(tensors))


def _check_together(parts: Sequence[GGUFFile]) -> None:
    fault = next(_faults(parts), None)
    if fault is not None:
        raise CheckpointError(fault, hint="all parts must be of one split: get them anew, from one place")


def _faults(parts: Sequence[GGUFFile]) -> Iterator[str]:
    """Yield what shows that parts do not belong together; what they hold of tensors' values, nothing shows."""
    total = parts[0].metadata.get(SPLIT_TENSORS)
    for number, file in enumerate(parts, 1):
        said = file.metadata
        if said.get(SPLIT_COUNT) != len(parts) or said.get(SPLIT_NO) != number - 1:
            found = part_of(file) or "not a part of a split model"
            yield f"{shown(file.path)} is {found}, wanted {Part(number, len(parts))}"
        if said.get(SPLIT_TENSORS) != total:
            yield (
                f"{shown(file.path)} is of a model of {said.get(SPLIT_TENSORS)} tensors, "
                f"{shown(parts[0].path.name)} of one of {total}"
            )
    places = Counter(tensor.name for file in parts for tensor in file.tensors)
    for name in (name for name, count in places.items() if count > 1):
        files = [file.path.name for file in parts if any(tensor.name == name for tensor in file.tensors)]
        yield f"tensor {shown(name)} is in {shown_list(files)}"
    if total is not None and sum(places.values()) != total:
        yield f"the parts of {shown(parts[0].path)} have {sum(places.values())} tensors together, the model {total}"
