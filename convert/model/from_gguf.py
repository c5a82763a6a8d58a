"""A GGUF file, made by anyone, as a GGUFModel: its tensors as they lie there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf import Keys

from convert.checkpoint import StoredBlocks
from convert.errors import CheckpointError, UnsupportedError
from convert.gguf_file import GGUFFile, read_gguf
from convert.model.gguf_model import GGUFModel

if TYPE_CHECKING:
    from pathlib import Path


def read_gguf_model(path: Path) -> GGUFModel:
    """Read a GGUF file's header.

    Raises CheckpointError for a broken file, or one that does not say its architecture; UnsupportedError for one part
    of a split model.
    """
    file = read_gguf(path)
    arch = file.metadata.get(Keys.General.ARCHITECTURE)
    if not isinstance(arch, str):
        raise CheckpointError(f"`{path}` does not say its `{Keys.General.ARCHITECTURE}`")
    _check_whole(file)
    tensors = tuple(
        (info.name, StoredBlocks(info.name, path, info.offset, info.nbytes, info.shape, info.type))
        for info in file.tensors
    )
    return GGUFModel(path, arch, file.entries, tensors, file.alignment, through=None)


def _check_whole(file: GGUFFile) -> None:
    n_parts = file.metadata.get(Keys.Split.LLM_KV_SPLIT_COUNT, 0)
    if isinstance(n_parts, int) and n_parts > 1:
        raise UnsupportedError(
            f"`{file.path}` is one of {n_parts} parts of a split model",
            hint="put the parts together first: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )
