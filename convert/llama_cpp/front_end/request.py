"""What is asked of llama.cpp's definitions: plain data, which the other process is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from convert.checkpoint import Tensor
    from convert.model import ModelRequest


class Part(Enum):
    """Which of a checkpoint's models is meant; the values are the prefixes of upstream's file names."""

    TEXT = ""
    MMPROJ = "mmproj-"  # the towers and projectors of what is not text
    MTP = "mtp-"  # the layers that predict further tokens, as a model of their own


@dataclass(frozen=True, slots=True)
class Definition:
    """Which of llama.cpp's definitions, and what they may do.

    tree: the source tree. commit: what it is. trusts_code: Python files of the checkpoint may run.
    max_nbytes: of memory, that tensors which are computed whole may take; None: as many as they need.
    """

    tree: Path
    commit: str
    trusts_code: bool = False
    max_nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model of a checkpoint through one definition: enough to ask for it again, in another process too."""

    model: ModelRequest
    definition: Definition
    part: Part = Part.TEXT


@dataclass(frozen=True, slots=True)
class Conversion:
    """What the other process is told: the model, its tensors, and what it is to see of the directory.

    directory: the checkpoint's. tokenizer: the directory whose files of the tokenizer count. config: what config.json
    is to say; None leaves the file as it is. links_weights: definitions that open weight files themselves may.
    float_types: of the files that may be made, by their names; the first is the one that tensors are planned with.
    """

    directory: Path
    tokenizer: Path
    config: Mapping[str, Any] | None
    links_weights: bool
    tensors: Mapping[str, Tensor]
    part: Part
    float_types: tuple[str, ...]
    definition: Definition
    pre_tokenizer: str | None = None
    hidden_files: tuple[str, ...] = field(default=())
