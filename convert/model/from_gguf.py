"""A GGUF file, made by anyone, whole or in parts, as a GGUFModel: its tensors as they lie there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf import Keys

from convert.checkpoint import StoredBlocks
from convert.errors import CheckpointError
from convert.gguf_file import GGUFFile, read_parts
from convert.model.gguf_model import GGUFModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read_gguf_model(path: Path) -> GGUFModel:
    """Read a GGUF file's header, or all headers of a split model, whose first part is given.

    Raises CheckpointError for a broken file, parts that are missing or do not belong together, or a file that does not
    say its architecture; UsageError for another part than the first.
    """
    return gguf_model_of(read_parts(path))


def gguf_model_of(parts: Sequence[GGUFFile]) -> GGUFModel:
    """Make a model of a file's headers, or of all its parts'; CheckpointError if they do not say its architecture."""
    model = stored_model(parts)
    if not model.architecture:
        raise CheckpointError(f"`{model.source}` does not say its `{Keys.General.ARCHITECTURE}`")
    return model


def stored_model(parts: Sequence[GGUFFile]) -> GGUFModel:
    """Make of headers what may be no model to compute with: its architecture is empty where they say none."""
    first, architecture = parts[0], parts[0].metadata.get(Keys.General.ARCHITECTURE)
    tensors = tuple(
        (info.name, StoredBlocks(info.name, file.path, info.offset, info.nbytes, info.shape, info.type))
        for file in parts
        for info in file.tensors
    )
    return GGUFModel(
        first.path,
        architecture if isinstance(architecture, str) else "",
        first.entries,
        tensors,
        first.alignment,
        through=None,
        part_of={info.name: number for number, file in enumerate(parts) for info in file.tensors},
    )
