"""Which model is meant, as a value: what is the same wherever a model is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from convert.adapter import MergeRequest


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A model to read.

    path: a directory, the weight file in it, or an adapter's directory, whose base is then looked for; absolute.
    adapters: to merge, in order. pre_tokenizer: what `tokenizer.ggml.pre` is to be, where it is not recognised.
    """

    path: Path
    adapters: tuple[MergeRequest, ...] = ()
    pre_tokenizer: str | None = None
