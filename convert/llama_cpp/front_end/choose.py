"""Whose definition of an architecture counts: ours where a family fits, else llama.cpp's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.adapter import resolve_model
from convert.architecture import family_of
from convert.checkpoint import open_checkpoint
from convert.errors import Remedy, UnsupportedError
from convert.llama_cpp.front_end.architectures import MMPROJ_CLASSES, TEXT_CLASSES
from convert.llama_cpp.front_end.gguf_model import model_through
from convert.llama_cpp.front_end.request import Definition, Part, Wanted
from convert.llama_cpp.front_end.tree import require_tree
from convert.model import FrontEnd, GGUFModel, gguf_model
from convert.shown import shown

if TYPE_CHECKING:
    from convert.checkpoint import Checkpoint
    from convert.model import ModelRequest


def open_gguf_model(request: ModelRequest, checkpoint: Checkpoint | None = None) -> GGUFModel:
    """Put a model into GGUF's words, by the definition that was asked for, or that fits.

    checkpoint: the model's, where it has been opened already.
    Raises CheckpointError, UnsupportedError or PlanError; no weight is read. Through llama.cpp's also NoSourceError
    where its source has not been fetched, and ToolchainError.
    """
    if request.definition.front_end is FrontEnd.NATIVE:
        return gguf_model(request, checkpoint)
    if checkpoint is None:
        checkpoint = open_checkpoint(resolve_model(request.path, request.adapters).model, request.stated)
    if request.definition.front_end is FrontEnd.AUTO and _is_native(checkpoint):
        return gguf_model(request, checkpoint)
    return model_through(_wanted(request, checkpoint, Part.TEXT), checkpoint).model


def open_other_model(request: ModelRequest, part: Part) -> GGUFModel:
    """Put what is not the text model into GGUF's words: towers and projectors, or the layers for further tokens.

    Errors as for `open_gguf_model`; llama.cpp's definitions are the only ones.
    """
    checkpoint = open_checkpoint(resolve_model(request.path, request.adapters).model, request.stated)
    return model_through(_wanted(request, checkpoint, part), checkpoint).model


def _is_native(checkpoint: Checkpoint) -> bool:
    """Whether we have a family for it; a checkpoint without config.json is ours to complain about."""
    if checkpoint.config is None:
        return True
    try:
        family_of(checkpoint.require_config(), where=str(checkpoint.directory / "config.json"))
    except UnsupportedError:
        return False
    return True


def _names(checkpoint: Checkpoint) -> list[str]:
    named = checkpoint.require_config().get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _wanted(request: ModelRequest, checkpoint: Checkpoint, part: Part) -> Wanted:
    asked, names = request.definition, _names(checkpoint)
    known = TEXT_CLASSES | MMPROJ_CLASSES
    if asked.ref is None and names and not known.intersection(names):
        raise UnsupportedError(
            f"unsupported architecture {shown(names[0])}: neither our definitions nor llama.cpp's have it",
            remedies=(Remedy.LIST_ARCHITECTURES, Remedy.OTHER_SOURCE),
        )
    what = shown(names[0]) if names else "this checkpoint"
    tree = require_tree(asked.ref, asked.directory, why=f"{what} is converted by llama.cpp's own definitions")
    definition = Definition(tree.path, tree.commit, asked.trusts_code, asked.max_memory)
    return Wanted(request, definition, part)
