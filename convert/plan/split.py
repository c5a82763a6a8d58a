"""Files in several parts: how a file is cut, and what each part is to hold.

A part is a file of the plan like any other. The first has the model's metadata; every one says which it is.
Source: tools/gguf-split/gguf-split.cpp, split_strategy; src/llama-quant.cpp, llama_model_quantize_impl @ 0c1e570.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from convert.errors import PlanError, Remedy, UsageError
from convert.gguf_file import SPLIT_KEYS, Part, padded, tensor_nbytes
from convert.gguf_file.split import MAX_PARTS, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS
from convert.quant_mix import ggml_n_dims

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from convert.model import GGUFModel
    from convert.plan.files import FileContent, PlannedTensor

_UNITS: Final = {
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """Files in parts: `NAME-TYPE/NAME-TYPE-00001-of-00003.gguf` and so on, as llama-gguf-split cuts a whole one.

    max_size: what the tensors of a part may take, such as `"40G"`, or bytes; one that is larger has a part of its own.
    max_tensors: how many a part may have. One of the two. first_is_empty: the first part has metadata alone.
    """

    max_size: str | int | None = None
    max_tensors: int | None = None
    first_is_empty: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a limit that is none, both, or neither."""
        if (self.max_size is None) == (self.max_tensors is None):
            raise UsageError("parts have a largest size, or a largest number of tensors: one of the two")
        if self.max_size is not None:
            parse_size(self.max_size)  # which raises
        if self.max_tensors is not None and self.max_tensors < 1:
            raise UsageError(f"a part is to have at most {self.max_tensors} tensors, wanted at least 1")

    @property
    def max_nbytes(self) -> int:
        """What the tensors of a part may take."""
        return sys.maxsize if self.max_size is None else parse_size(self.max_size)


def parse_size(text: str | int) -> int:
    """Read a size such as `5GB`, `5G` or `500M` (powers of 1000) or `5GiB` (of 1024) in bytes."""
    if isinstance(text, int):
        nbytes = text
    else:
        spelled = text.strip().upper()
        unit = next((unit for unit in _UNITS if spelled.endswith(unit)), "")
        try:
            nbytes = int(float(spelled.removesuffix(unit)) * _UNITS.get(unit, 1))
        except (ValueError, OverflowError):
            raise UsageError(f"`{text}` is not a size", hint="write it as 5GB or 500MB") from None
    if nbytes < 1:
        raise UsageError(f"the size is {nbytes} bytes, wanted at least 1")
    return nbytes


def in_parts(content: FileContent, split: SplitRequest) -> tuple[FileContent, ...]:
    """Cut a file as llama-gguf-split cuts it once it is whole.

    Raises PlanError where the first tensor alone is too large, as that program does, or for more parts than can be.
    """
    tensors = tuple(replace(tensor, shape=ggml_shape(tensor.shape)) for tensor in content.tensors)
    counts = [len(listed) for listed in _cut(tensors, split)]
    # Parity: the count is set first and last of all, so it stands behind the tensors' number.
    return tuple(_parts(replace(content, tensors=tensors), counts, (SPLIT_NO, SPLIT_TENSORS, SPLIT_COUNT)))


def parts_kept(content: FileContent, model: GGUFModel) -> tuple[FileContent, ...]:
    """Cut a file where its source is cut, as `llama-quantize --keep-split` does; its tensors are in the source's order.

    Raises UsageError if the source is no GGUF file; PlanError if a part has no tensor left.
    """
    if not model.part_of:
        raise UsageError(f"`{model.source}` is not a GGUF file, whose parts could be kept")
    stored = dict(model.tensors)
    counted = Counter(model.part_of[stored[tensor.name].name] for tensor in content.tensors)
    counts = [counted[number] for number in range(max(counted) + 1)]
    if 0 in counts[1:]:
        raise PlanError(f"part {counts.index(0, 1) + 1} of {len(counts)} would have no tensor")
    if len(counts) == 1:
        return (content,)  # Parity: called part 1 of 1, which the file does not say
    return tuple(_parts(content, counts, (SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS)))


def part_path(prefix: Path, part: Part) -> Path:
    """Name the file of a part: `PREFIX-00001-of-00003.gguf`."""
    return prefix.with_name(prefix.name + part.suffix)


def folder_prefix(path: Path) -> Path:
    """Give the prefix of the parts that stand for the file `DIR/NAME.gguf`: they are in a folder, `DIR/NAME/NAME-…`."""
    name = path.name.removesuffix(".gguf")
    return path.with_name(name) / name


def ggml_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop leading dimensions of 1. Parity: ggml does not count them, and its programs write what it counts."""
    return shape[len(shape) - ggml_n_dims(shape) :]


def _cut(tensors: Sequence[PlannedTensor], split: SplitRequest) -> list[Sequence[PlannedTensor]]:
    if split.max_tensors is not None:
        starts: Sequence[int] = range(0, max(len(tensors), 1), split.max_tensors)
    else:
        starts = [0, *_starts(tensors, split.max_nbytes)]
    cut = [tensors[start:end] for start, end in pairwise([*starts, len(tensors)])]
    if len(cut) > 1 and not cut[0]:
        raise PlanError(
            f"tensor `{tensors[0].name}`, the file's first, has {_nbytes(tensors[0])} bytes, and a part may have "
            f"{split.max_nbytes}",
            remedies=(Remedy.LARGER_PARTS,),
        )
    cut = [(), *cut] if split.first_is_empty else cut
    if len(cut) > MAX_PARTS:
        raise PlanError(f"there would be {len(cut)} parts, at most {MAX_PARTS} are possible")
    return cut


def _starts(tensors: Sequence[PlannedTensor], limit: int) -> Iterator[int]:
    """Yield where parts after the first begin. Parity: metadata does not count, padding to 32 bytes does."""
    filled = 0
    for index, tensor in enumerate(tensors):
        filled += _nbytes(tensor)
        if filled > limit:
            filled = _nbytes(tensor)
            yield index


def _nbytes(tensor: PlannedTensor) -> int:
    return padded(tensor_nbytes(tensor.shape, tensor.choice.type))


def _parts(content: FileContent, counts: Sequence[int], order: Sequence[str]) -> Iterator[FileContent]:
    metadata = tuple(entry for entry in content.metadata if entry[0].key not in SPLIT_KEYS)
    ends = list(accumulate(counts, initial=0))
    for number, (start, end) in enumerate(pairwise(ends), 1):
        said = Part(number, len(counts)).entries(ends[-1])
        own = (metadata if number == 1 else ()) + tuple(said[key] for key in order)
        yield replace(content, metadata=own, tensors=content.tensors[start:end])
