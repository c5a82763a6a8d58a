"""A model's directory as a GGUFModel: config, family, and every tensor decoded, merged, mapped and plainly named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFType, GGUFWriter, Keys

from convert.adapter import MergedTensor, merge_adapters, resolve_model
from convert.architecture import Architecture, OutputTensor, find_architecture, map_tensors
from convert.authorship import write_authorship
from convert.checkpoint import open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.checkpoint.packed.values import FLOATS
from convert.checkpoint.views import AsFloat32, Constant, interleaved, stacked
from convert.errors import CheckpointError
from convert.gguf_file import ALIGNMENT, Entry, KeyValue, encoded_entry
from convert.model.gguf_model import GGUFModel
from convert.model_config import ModelConfig, read_model_config
from convert.tokenizer import read_vocabulary, vocabulary_metadata
from convert.transform import InterleaveHalves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from convert.checkpoint import Tensor
    from convert.model.request import ModelRequest

_QUANTIZATION_VERSION: Final = 2  # GGML_QNT_VERSION
_NO_SCORE: Final = -1000.0  # what LlamaHfVocab gives every token


@dataclass(frozen=True, slots=True)
class Model:
    """A model's directory, opened.

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


def open_model(request: ModelRequest) -> Model:
    """Open a model; reads headers and small statistics only.

    Raises CheckpointError, UnsupportedError or PlanError.
    """
    base = resolve_model(request.path, request.adapters)
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


def gguf_model(request: ModelRequest) -> GGUFModel:
    """Open a model and put it into GGUF's words.

    Raises CheckpointError, UnsupportedError or PlanError; no weight is read.
    """
    opened = open_model(request)
    shapes = {name: tensor.shape for name, tensor in opened.tensors.items()}
    mapped = map_tensors(opened.architecture, opened.config, shapes)
    metadata = _metadata(opened, mapped, request.pre_tokenizer)
    return GGUFModel(
        source=opened.directory,
        architecture=opened.config.architecture,
        metadata=metadata,
        tensors=tuple((tensor.name, _view(tensor, opened.tensors)) for tensor in mapped),
        alignment=ALIGNMENT,
        through=GGMLQuantizationType.F16,
        notes=opened.notes + _notes(opened.config, metadata),
    )


def _view(tensor: OutputTensor, stored: Mapping[str, Tensor]) -> Tensor:
    if tensor.data is not None:
        return Constant(tensor.name, tensor.data)
    sources = _of_one_type(tuple(stored[name] for name in tensor.sources))
    _check_float(sources)
    view = stacked(tensor.name, sources) if len(tensor.shape) > len(sources[0].shape) else sources[0]
    if isinstance(tensor.transform, InterleaveHalves):
        return interleaved(view, tensor.transform.group_rows)
    return view


def _of_one_type(sources: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give experts that an adapter leaves alone in float32 too, where it changes others of their stack."""
    if not any(isinstance(source, MergedTensor) for source in sources):
        return sources
    return tuple(source if isinstance(source, MergedTensor) else AsFloat32(source, source.name) for source in sources)


def _check_float(sources: Sequence[Tensor]) -> None:
    for source in sources:
        if source.dtype not in FLOATS:
            raise CheckpointError(
                f"tensor `{source.name}` is stored as {source.dtype.value}; F32, F16 and BF16 are read",
                hint="a packed or quantized checkpoint without its quantization_config cannot be decoded",
            )
    if len({source.dtype for source in sources}) > 1:
        raise CheckpointError(f"the experts of `{sources[0].name}` are stored in several types")


def _metadata(model: Model, tensors: Sequence[OutputTensor], pre_tokenizer: str | None) -> tuple[Entry, ...]:
    writer = GGUFWriter(None, MODEL_ARCH_NAMES[model.architecture.gguf_arch])
    for tensor in tensors:  # the writer counts parameters for the size label
        writer.add_tensor_info(tensor.name, tensor.shape, None, 0, raw_dtype=GGMLQuantizationType.F32)
    writer.add_type(GGUFType.MODEL)
    write_authorship(writer, model.directory)
    model.architecture.write_parameters(writer, model.config)
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    vocabulary = read_vocabulary(
        model.tokenizer,
        vocab_size=model.config.vocab_size,
        pre_tokenizer=pre_tokenizer,
        model_directory=model.directory,
    )
    written = (KeyValue(key, value.value, value.type, value.sub_type) for key, value in writer.kv_data[0].items())
    entries = {entry.key: entry for entry in written}
    entries |= {entry.key: entry for entry in vocabulary_metadata(vocabulary)}
    return tuple(map(encoded_entry, entries.values()))


def _notes(config: ModelConfig, entries: Sequence[Entry]) -> tuple[str, ...]:
    notes = []
    if config.rope.type == "dynamic":
        notes.append("dynamic rope scaling has no place in GGUF: the model runs at its original context length")
    scores: tuple[float, ...] = next((entry.value for entry, _ in entries if entry.key == Keys.Tokenizer.SCORES), ())
    if scores and max(scores) <= _NO_SCORE:
        # Parity: the reference has no scores without tokenizer.model, and llama.cpp then merges from the left.
        notes.append(
            "no tokenizer.model: llama.cpp will split some texts otherwise than Hugging Face; add the base model's"
        )
    return tuple(notes)
