"""A checkpoint made ready for llama.cpp's definitions: opened, decoded, merged, and what they are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from convert.adapter import merge_adapters, other_bases, resolve_model
from convert.checkpoint import open_checkpoint
from convert.checkpoint.packed import as_floats, model_tensors, read_quantization
from convert.llama_cpp.front_end.held import with_small_held
from convert.llama_cpp.front_end.request import Conversion, Part

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from convert.checkpoint import Checkpoint, Tensor
    from convert.llama_cpp.front_end.request import Wanted
    from convert.model import ModelRequest

# The types of the files that upstream itself writes; the first is what llama-quantize starts from.
TEXT_TYPES: Final = ("F16", "F32", "BF16")
OTHER_TYPES: Final = ("F16", "F32", "BF16", "Q8_0")
_SECTIONS: Final = ("quantization_config", "compression_config", "quantization")
_PRODUCERS_FILES: Final = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quanto_qmap.json")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checkpoint as definitions are to see it.

    tensors: the model's, by the checkpoint's names, decoded and merged. config: what config.json is to say where that
    is not what it says. is_plain: they are the checkpoint's own. notes: a line each, for the plan to show.
    """

    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]
    tokenizer: Path
    config: Mapping[str, Any] | None
    is_plain: bool
    notes: tuple[str, ...]

    def conversion(self, wanted: Wanted) -> Conversion:
        """Say what the other process is told."""
        return Conversion(
            directory=self.checkpoint.directory,
            tokenizer=self.tokenizer,
            config=self.config,
            links_weights=self.is_plain,
            tensors=with_small_held(self.tensors),
            part=wanted.part,
            float_types=TEXT_TYPES if wanted.part is Part.TEXT else OTHER_TYPES,
            definition=wanted.definition,
            pre_tokenizer=wanted.model.pre_tokenizer,
            hidden_files=() if self.config is None else _PRODUCERS_FILES,
        )


def prepare(request: ModelRequest, checkpoint: Checkpoint | None = None) -> Prepared:
    """Open a model; reads headers and small statistics only.

    checkpoint: the model's, where it has been opened already.
    Raises CheckpointError, UnsupportedError or PlanError.
    """
    base = resolve_model(request.path, request.adapters)
    checkpoint = open_checkpoint(base.model, request.stated) if checkpoint is None else checkpoint
    checkpoint.require_whole()
    if _is_repacked(checkpoint) and not base.requests:
        note = "packed weights are kept as they are: llama.cpp's definition has a type of its own for them"
        notes = (*checkpoint.notes, note)
        return Prepared(checkpoint, checkpoint.tensors, checkpoint.tokenizer, None, is_plain=True, notes=notes)
    unpacked = model_tensors(checkpoint)
    floats, casts = as_floats(unpacked.tensors)
    merged = merge_adapters(floats, base.requests)
    is_plain = unpacked.is_plain and request.stated.config is None and not base.requests
    return Prepared(
        checkpoint,
        merged.tensors,
        merged.tokenizer or checkpoint.tokenizer,
        None if is_plain else _config(checkpoint.require_config(), merged.vocab_size, unties=merged.unties),
        is_plain,
        (
            *base.notes,
            *other_bases(request.adapters, checkpoint),
            *checkpoint.notes,
            *unpacked.notes,
            *casts,
            *merged.notes,
        ),
    )


def _is_repacked(checkpoint: Checkpoint) -> bool:
    """Whether upstream moves a packing's bits into a type of GGUF: gpt-oss' mxfp4, and NVFP4.

    Source: conversion/base.py, ModelBase.prepare_tensors; conversion/gpt_oss.py @ 0c1e570.
    """
    quantization = read_quantization(checkpoint)
    options = quantization.options
    if quantization.method == "mxfp4":
        return "GptOssForCausalLM" in (checkpoint.known_config.get("architectures") or ())
    algorithm = str(options.get("quant_algo") or (options.get("quantization") or {}).get("quant_algo"))
    return algorithm in ("NVFP4", "W4A16_NVFP4") or options.get("format") == "nvfp4-pack-quantized"


def _config(config: Mapping[str, Any], vocab_size: int | None, *, unties: bool) -> dict[str, Any]:
    changes: dict[str, Any] = {} if vocab_size is None else {"vocab_size": vocab_size}
    if unties:
        changes["tie_word_embeddings"] = False
    plain = {key: value for key, value in config.items() if key not in _SECTIONS}
    parts = {
        key: {name: inner for name, inner in value.items() if name not in _SECTIONS}
        | (changes if key == "text_config" else {})
        for key, value in plain.items()
        if isinstance(value, dict)
    }
    return plain | parts | {key: value for key, value in changes.items() if key in plain or "text_config" not in plain}
