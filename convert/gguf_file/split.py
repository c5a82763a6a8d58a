"""Parts of a split model: `llama-gguf-split` writes `NAME-00001-of-00003.gguf`; only the first has the metadata.

Source: tools/gguf-split/gguf-split.cpp @ 0c1e570; gguf-py, Keys.Split.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gguf import Keys

from convert.errors import UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from convert.gguf_file.reader import GGUFFile


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a model a file is: `number` counts from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        """Say it in words."""
        return f"part {self.number} of {self.count} of a split model"


def part_of(file: GGUFFile) -> Part | None:
    """Tell which part a file is; None for a whole one, also where keys of a split are left in it.

    A file that has as many tensors as the model is whole, whatever it says of parts.
    """
    values = file.metadata
    count, total = values.get(Keys.Split.LLM_KV_SPLIT_COUNT), values.get(Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT)
    if not isinstance(count, int) or count < 2 or total == len(file.tensors):  # noqa: PLR2004 - one part is a whole
        return None
    number = values.get(Keys.Split.LLM_KV_SPLIT_NO)
    return Part(number + 1 if isinstance(number, int) else 1, count)


def require_whole(file: GGUFFile, *, first_is_enough: bool = False) -> None:
    """Raise UnsupportedError for a part of a model. first_is_enough: whoever reads it goes on from the first part."""
    part = part_of(file)
    if part is None or (first_is_enough and part.number == 1):
        return
    named = re.sub(r"-\d{5}(-of-\d{5}\.gguf)$", r"-00001\1", file.path.name)
    first = shown(file.path.with_name(named)) if named != file.path.name or part.number == 1 else "the first part"
    hint = (
        f"name {first}" if first_is_enough else f"put the parts together: llama-gguf-split --merge {first} WHOLE.gguf"
    )
    raise UnsupportedError(f"{shown(file.path)} is {part}", hint=hint)
