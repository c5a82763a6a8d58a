"""What each file is to hold: as the converter makes a float file, and llama-quantize any file of that.

Source: conversion/base.py, ModelBase.write; src/llama-quant.cpp, llama_model_quantize_impl @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gguf import GGML_QUANT_VERSION, GGUFValueType, Keys

from convert.gguf_file import Entry, KeyValue, encoded_entry
from convert.model import GGUFModel, tensor_type
from convert.quant_mix import (
    FILE_TYPES,
    FileType,
    ModelFacts,
    TensorToType,
    TypeChoice,
    choose_float_types,
    choose_types,
    file_order,
    ggml_n_dims,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPLIT_KEYS: Final = ("split.no", "split.count", "split.tensors.count")


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor as one file is to hold it: its shape in NumPy order, and the choice of its type."""

    name: str
    shape: tuple[int, ...]
    choice: TypeChoice


@dataclass(frozen=True, slots=True)
class FileContent:
    """What one file is to hold: its metadata and tensors, in file order."""

    metadata: tuple[Entry, ...]
    tensors: tuple[PlannedTensor, ...]


def file_content(model: GGUFModel, wanted: FileType) -> FileContent:
    """Say what a model's file of a type holds."""
    tensors = [TensorToType(name, tensor.shape, tensor_type(tensor)) for name, tensor in model.tensors]
    if wanted.name in model.converted:
        return _as_converted(tensors, model, wanted)
    if model.through is None:
        return _as_quantized(tensors, model, wanted)
    if not wanted.is_quantized:
        return _as_converted(tensors, model, wanted)
    choices = _float_choices(tensors, model, FILE_TYPES[model.through.name])
    floats = [replace(tensor, type=choice.type) for tensor, choice in zip(tensors, choices, strict=True)]
    return _as_quantized(floats, model, wanted)


def _as_converted(tensors: Sequence[TensorToType], model: GGUFModel, wanted: FileType) -> FileContent:
    """Keep the order, and fill in the file type where it stands, as the converter does."""
    choices = _float_choices(tensors, model, wanted)
    planned = (
        PlannedTensor(tensor.name, tensor.shape, choice) for tensor, choice in zip(tensors, choices, strict=True)
    )
    declared = _file_type_entry(wanted)
    metadata = (declared if entry[0].key == Keys.General.FILE_TYPE else entry for entry in model.metadata)
    return FileContent(tuple(metadata), tuple(planned))


def _float_choices(tensors: Sequence[TensorToType], model: GGUFModel, wanted: FileType) -> list[TypeChoice]:
    """Choose types as the converter does: as its definition of this model has said, or by our rules."""
    said = model.converted.get(wanted.name)
    if said is None:
        return choose_float_types(tensors, wanted)
    reason = "by llama.cpp's definition"
    return [
        TypeChoice(said[tensor.name], None if said[tensor.name] is wanted.type else reason) for tensor in tensors
    ]


def _as_quantized(tensors: Sequence[TensorToType], model: GGUFModel, wanted: FileType) -> FileContent:
    """Sort the tensors and move two keys to the end, as llama-quantize does."""
    by_name = {tensor.name: tensor for tensor in tensors}
    ordered = [by_name[name] for name in file_order(by_name)]
    choices = choose_types(ordered, wanted, _facts(model))
    planned = (
        PlannedTensor(tensor.name, _ggml_shape(tensor.shape), choice)
        for tensor, choice in zip(ordered, choices, strict=True)
    )
    return FileContent(_moved(model.metadata, wanted), tuple(planned))


def _facts(model: GGUFModel) -> ModelFacts:
    n_experts = model.values.get(Keys.LLM.EXPERT_COUNT.format(arch=model.arch), 0)
    names = {name for name, _ in model.tensors}
    return ModelFacts.of(model.arch, n_experts if isinstance(n_experts, int) else 0, names)


def _ggml_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    # Parity: ggml drops leading dimensions of 1, and llama-quantize writes what ggml counts.
    return shape[len(shape) - ggml_n_dims(shape) :]


def _moved(metadata: Sequence[Entry], wanted: FileType) -> tuple[Entry, ...]:
    # gguf_set_val_u32 removes a key and appends it: the two that llama-quantize sets end up last.
    version = KeyValue(Keys.General.QUANTIZATION_VERSION, GGML_QUANT_VERSION, GGUFValueType.UINT32)
    dropped = {Keys.General.QUANTIZATION_VERSION, Keys.General.FILE_TYPE, *_SPLIT_KEYS}
    kept = tuple(entry for entry in metadata if entry[0].key not in dropped)
    return (*kept, encoded_entry(version), _file_type_entry(wanted))


def _file_type_entry(wanted: FileType) -> Entry:
    return encoded_entry(KeyValue(Keys.General.FILE_TYPE, int(wanted.declared), GGUFValueType.UINT32))
