"""The room that opens a model directory and says where every tensor's bytes lie; it never holds them.

    directory ── parts ──▶ which files          model*.safetensors, pytorch_model*.bin, one bare state dict
              ── read  ──▶ where tensors lie    safetensors_file: a header; torch_file: a zip directory and a pickle
              ── merge ──▶ Checkpoint           index: no tensor twice, none missing; wrapped_names: plain names
              ── layouts ─▶ Checkpoint          another program's files, to be arranged as transformers' own

A checkpoint is hostile input: whatever is wrong with it is a CheckpointError that names the file, in bounded memory and
time, and nothing in it is ever run.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from convert.checkpoint.index import absent_tensors, compare, merge
from convert.checkpoint.json_file import read_json
from convert.checkpoint.layouts import NOTHING_STATED, Found, Layout, Stated, find_layout
from convert.checkpoint.parts import ChosenFiles, WeightFormat, choose_parts
from convert.checkpoint.regular_file import of_each, stored_nbytes
from convert.checkpoint.safetensors_file import read_safetensors
from convert.checkpoint.source import (
    Checkpoint,
    StoredBlocks,
    StoredType,
    Tensor,
    TensorSource,
    WeightFile,
    matrix_shape,
)
from convert.checkpoint.source_files import RowSource, SourceFiles
from convert.checkpoint.torch_file import read_torch_file
from convert.checkpoint.wrapped_names import unwrap_names
from convert.errors import CheckpointError, ConfigError
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "NOTHING_STATED",
    "Checkpoint",
    "RowSource",
    "SourceFiles",
    "Stated",
    "StoredBlocks",
    "StoredType",
    "Tensor",
    "TensorSource",
    "WeightFile",
    "matrix_shape",
    "open_checkpoint",
    "read_json",
]


def open_checkpoint(directory: Path, stated: Stated = NOTHING_STATED) -> Checkpoint:
    """Open a model directory, or the one file of weights that the path names: then its directory, with that file.

    stated: what counts instead of the directory's own files.
    Reads headers only; a safetensors checkpoint does not import torch.
    Raises CheckpointError for weights that are missing, broken, inconsistent or hostile; UnsupportedError for tensors
    of a kind that this version does not read.
    """
    if (found := find_layout(Path(directory), stated)) is not None:
        return _of_layout(*found)
    parts = choose_parts(Path(directory))
    files, notes = _read(parts)
    weight_map = parts.weight_map or {}
    paths = {file: parts.directory / file for file in set(weight_map.values())}
    sources = merge(files, {name: paths[file] for name, file in weight_map.items()})
    if not sources:
        raise CheckpointError(f"{shown(parts.directory)} has no tensors in its weights")
    _refuse_placeholders(parts.directory, sources)
    config = _config(stated.config or parts.directory / "config.json")
    absent, lacking, more_notes = _held_against_index(parts, sources, config)
    tensors, wrappers = unwrap_names(sources)
    return Checkpoint(
        directory=parts.directory,
        tensors=MappingProxyType(tensors),
        files=tuple(WeightFile(path, stored_nbytes(path)) for path in parts.paths),
        config=config,
        notes=(*parts.notes, *notes, *more_notes, *wrappers),
        lacking=lacking,
        absent=absent,
        stated_tokenizer=stated.tokenizer,
    )


def _of_layout(layout: Layout, found: Found) -> Checkpoint:
    """Open another program's checkpoint, as its row says."""
    laid = layout.open(found)
    _refuse_placeholders(found.directory, laid.sources)
    paths = dict.fromkeys(source.path for source in laid.sources.values())
    return Checkpoint(
        directory=found.directory,
        tensors=MappingProxyType(dict(laid.sources)),
        files=tuple(WeightFile(path, stored_nbytes(path)) for path in paths),
        config=laid.config,
        notes=(f"reads the format of {layout.label}: {shown_list([path.name for path in found.paths])}", *laid.notes),
        arrange=laid.arrange,
        stated_tokenizer=found.stated.tokenizer,
    )


def _refuse_placeholders(directory: Path, sources: Mapping[str, TensorSource]) -> None:
    """Refuse what DeepSpeed leaves of parameters that are spread over its workers: most tensors have shape (0,)."""
    empty = [name for name, source in sources.items() if source.shape == (0,)]
    if len(empty) * 2 > len(sources):
        raise CheckpointError(
            f"{len(empty)} of {len(sources)} tensors in {shown(directory)} are empty: {shown_list(empty, most=3)}",
            hint="DeepSpeed ZeRO-3 saves empty ones unless it gathers them: set"
            " `stage3_gather_16bit_weights_on_model_save`, or use its `zero_to_fp32.py`",
        )


def _held_against_index(
    parts: ChosenFiles, sources: Mapping[str, TensorSource], config: Mapping[str, Any] | ConfigError | None
) -> tuple[tuple[str, ...], CheckpointError | None, tuple[str, ...]]:
    """Return the tensors that the index names and no file has, what is wrong if the model needs them, and notes."""
    if parts.index is None or parts.weight_map is None:
        return (), parts.lacking, ()
    notes = compare(parts.weight_map, sources, index=parts.index)
    absent = tuple(name for name in parts.weight_map if name not in sources)
    is_tied = isinstance(config, dict) and config.get("tie_word_embeddings") is True
    if is_tied and all(name.endswith("lm_head.weight") for name in absent) and absent:
        return (), None, (*notes, f"{shown_list(list(absent))} is in no file: the output is the embeddings")
    if absent:
        return absent, parts.lacking or absent_tensors(parts.weight_map, absent, index=parts.index), notes
    if parts.lacking is not None:
        notes = (*notes, f"{parts.lacking.message}; all its tensors are in the others")
    return (), None, notes


def _config(path: Path) -> dict[str, Any] | ConfigError | None:
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except CheckpointError as error:
        return ConfigError(error.message, hint=error.hint)  # for whoever needs it to complain about


def _read(parts: ChosenFiles) -> tuple[list[tuple[TensorSource, ...]], tuple[str, ...]]:
    if parts.weight_format is WeightFormat.SAFETENSORS:
        return of_each(parts.paths, read_safetensors), ()
    files = [read_torch_file(path) for path in parts.paths]
    return [file.sources for file in files], tuple(note for file in files for note in file.notes)
