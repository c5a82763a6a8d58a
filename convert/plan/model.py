"""A model directory as plans see it: config, architecture, and every tensor decoded, merged and plainly named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convert.adapter import MergeRequest, merge_adapters, resolve_model
from convert.architecture import Architecture, find_architecture
from convert.checkpoint import open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.model_config import ModelConfig, read_model_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from convert.checkpoint import Tensor


@dataclass(frozen=True, slots=True)
class Model:
    """What there is to convert.

    directory: of the checkpoint. tokenizer: the directory of the tokenizer's files, an adapter's where it has resized
    the vocabulary. is_plain: the tensors are the checkpoint's own, neither decoded nor merged.
    notes: a line each, for the plan to show.
    """

    directory: Path
    config: ModelConfig
    architecture: Architecture
    tensors: Mapping[str, Tensor]
    tokenizer: Path
    is_plain: bool
    notes: tuple[str, ...]


def open_model(path: Path, adapters: Sequence[MergeRequest] = ()) -> Model:
    """Open a model: a directory, the weight file in it, or an adapter's directory, whose base is then looked for.

    adapters: to merge, in order. Reads headers and small statistics only.
    Raises CheckpointError, UnsupportedError or PlanError.
    """
    base = resolve_model(path, adapters)
    checkpoint = open_checkpoint(base.model)
    config = read_model_config(checkpoint.directory)
    architecture = find_architecture(config.architecture)
    architecture.check(config)
    unpacked = model_tensors(checkpoint)
    merged = merge_adapters(architecture.unfuse(config, unpacked.tensors), base.requests)
    if merged.vocab_size is not None:
        config = replace(config, vocab_size=merged.vocab_size)
    return Model(
        directory=checkpoint.directory,
        config=config,
        architecture=architecture,
        tensors=merged.tensors,
        tokenizer=merged.tokenizer or checkpoint.directory,
        is_plain=unpacked.packing is None and not base.requests,
        notes=(*base.notes, *checkpoint.notes, *unpacked.notes, *merged.notes),
    )
