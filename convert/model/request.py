"""Which model is meant, as a value: what is the same wherever a model is read."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from convert.adapter import MergeRequest, parse_merge
from convert.checkpoint import NOTHING_STATED, Stated
from convert.remote import located

if TYPE_CHECKING:
    from collections.abc import Iterable

PathLike = str | os.PathLike[str]
Merge = str | os.PathLike[str] | MergeRequest


class FrontEnd(Enum):
    """Whose definition of an architecture is to count; `auto`: ours where there is one, else llama.cpp's."""

    AUTO = "auto"
    NATIVE = "native"
    LLAMA_CPP = "llama.cpp"


@dataclass(frozen=True, slots=True)
class DefinitionRequest:
    """Which definition of the architecture, and what it may do.

    Of llama.cpp's: ref: a tag, branch or commit instead of the pinned one. trusts_code: Python files that come with the
    checkpoint may run. max_memory: bytes that tensors may take which are computed whole. directory: where its source
    trees are, if not where they usually are.
    """

    front_end: FrontEnd = FrontEnd.AUTO
    ref: str | None = None
    trusts_code: bool = False
    max_memory: int | None = None
    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A model to read.

    path: a directory as transformers saves it, the weight file in it, or the directory of an adapter as peft saves it,
    whose base is then looked for; absolute. adapters: to merge, in order.
    pre_tokenizer: what `tokenizer.ggml.pre` is to be, where it is not recognised. definition: whose counts.
    stated: what the directory does not say itself, or what is to count instead.
    """

    path: Path
    adapters: tuple[MergeRequest, ...] = ()
    pre_tokenizer: str | None = None
    definition: DefinitionRequest = DefinitionRequest()
    stated: Stated = NOTHING_STATED

    @property
    def directory(self) -> Path:
        """The model's directory, also where a weight file in it is named; links are kept."""
        return self.path.parent if self.path.is_file() else self.path


def model_request(
    model: PathLike,
    *,
    merge: Merge | Iterable[Merge] = (),
    pre_tokenizer: str | None = None,
    definition: DefinitionRequest = DefinitionRequest(),
    stated: Stated = NOTHING_STATED,
) -> ModelRequest:
    """Say which model is meant. merge: such as `"./adapter"` or `["A:0.7", "B"]`; only a string can carry a weight.

    Raises UsageError for a weight that is not finite.
    """
    listed = [merge] if isinstance(merge, (str, os.PathLike, MergeRequest)) else merge
    adapters = tuple(map(_merge_request, listed))
    return ModelRequest(absolute(located(model)), adapters, pre_tokenizer, definition, stated)


def as_request(model: PathLike | ModelRequest) -> ModelRequest:
    """Let a path stand for the model that it leads to."""
    return model if isinstance(model, ModelRequest) else model_request(model)


def _merge_request(merge: Merge) -> MergeRequest:
    if isinstance(merge, MergeRequest):
        request = merge
    else:
        request = parse_merge(merge) if isinstance(merge, str) else MergeRequest(Path(merge))
    return replace(request, path=absolute(located(request.path)))


def absolute(path: PathLike) -> Path:
    """Make a path absolute, links kept: the metadata has the directory's own name, not that of a link's target."""
    return Path(os.path.abspath(path))
