"""A GGUF file, made by anyone, as a GGUFModel: its tensors as they lie there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf import Keys

from convert.checkpoint import StoredBlocks
from convert.errors import CheckpointError
from convert.gguf_file import read_gguf, require_whole
from convert.model.gguf_model import GGUFModel

if TYPE_CHECKING:
    from pathlib import Path


def read_gguf_model(path: Path) -> GGUFModel:
    """Read a GGUF file's header.

    Raises CheckpointError for a broken file, or one that does not say its architecture; UnsupportedError for one part
    of a split model.
    """
    file = read_gguf(path)
    require_whole(file)
    arch = file.metadata.get(Keys.General.ARCHITECTURE)
    if not isinstance(arch, str):
        raise CheckpointError(f"`{path}` does not say its `{Keys.General.ARCHITECTURE}`")
    tensors = tuple(
        (info.name, StoredBlocks(info.name, path, info.offset, info.nbytes, info.shape, info.type))
        for info in file.tensors
    )
    return GGUFModel(path, arch, file.entries, tensors, file.alignment, through=None)
