"""What each file is to hold: as the converter makes a float file, and llama-quantize any file of that.

Source: conversion/base.py, ModelBase.write; src/llama-quant.cpp, llama_model_quantize_impl @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gguf import Keys

from convert.model import tensor_type
from convert.plan.metadata import file_type_entry, quantized_metadata
from convert.plan.split import ggml_shape
from convert.quant_mix import (
    FILE_TYPES,
    NO_OPTIONS,
    PACKED,
    FileType,
    ModelFacts,
    QuantizeOptions,
    TensorToType,
    TypeChoice,
    choose_float_types,
    choose_types,
    file_order,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convert.gguf_file import Entry
    from convert.model import GGUFModel


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


def file_content(model: GGUFModel, wanted: FileType, options: QuantizeOptions = NO_OPTIONS) -> FileContent:
    """Say what a model's file of a type holds; layers to leave out are left out of the model already.

    A float file of a checkpoint is the converter's; where options change its tensors or metadata, it is what
    llama-quantize makes of the converter's.
    """
    tensors = [TensorToType(name, tensor.shape, tensor_type(tensor)) for name, tensor in model.tensors]
    if model.through is None:
        if wanted.name in model.converted:
            return _as_converted(tensors, _converted_types(tensors, model, wanted), model, wanted)
        return _as_quantized(tensors, model, wanted, options)
    float_type = FILE_TYPES[model.through.name] if wanted.is_quantized else wanted
    choices = _converted_types(tensors, model, float_type)
    if not wanted.is_quantized and not options.changes_content:
        return _as_converted(tensors, choices, model, wanted)
    floats = [replace(tensor, type=choice.type) for tensor, choice in zip(tensors, choices, strict=True)]
    content = _as_quantized(floats, model, wanted, options)
    if options.allow_requantize:
        return content
    packed = {tensor.name: choice for tensor, choice in zip(tensors, choices, strict=True) if choice.reason == PACKED}
    kept = (replace(planned, choice=packed.get(planned.name, planned.choice)) for planned in content.tensors)
    return replace(content, tensors=tuple(kept))


def _as_converted(
    tensors: Sequence[TensorToType], choices: Sequence[TypeChoice], model: GGUFModel, wanted: FileType
) -> FileContent:
    """Keep the order, and fill in the file type where it stands, as the converter does."""
    planned = (
        PlannedTensor(tensor.name, tensor.shape, choice) for tensor, choice in zip(tensors, choices, strict=True)
    )
    is_packed = any(choice.reason == PACKED for choice in choices)
    own = (FILE_TYPES["MXFP4_MOE"] if is_packed else wanted).declared or 0
    declared = file_type_entry(own if model.file_type is None else model.file_type)
    metadata = (declared if entry[0].key == Keys.General.FILE_TYPE else entry for entry in model.metadata)
    return FileContent(tuple(metadata), tuple(planned))


def _converted_types(tensors: Sequence[TensorToType], model: GGUFModel, wanted: FileType) -> list[TypeChoice]:
    """Choose types as the converter does: as its definition of this model has said, or by our rules."""
    said = model.converted.get(wanted.name)
    if said is None:
        return choose_float_types(tensors, wanted)
    types = [said[tensor.name] for tensor in tensors]
    return [TypeChoice(kind, None if kind is wanted.type else "by llama.cpp's definition") for kind in types]


def _as_quantized(
    tensors: Sequence[TensorToType], model: GGUFModel, wanted: FileType, options: QuantizeOptions
) -> FileContent:
    """Sort the tensors, but where parts are kept, and set metadata at the end, as llama-quantize does."""
    by_name = {tensor.name: tensor for tensor in tensors}
    ordered = [by_name[name] for name in (by_name if options.keep_split else file_order(by_name))]
    facts = ModelFacts.of(model.values, options.overridden)
    choices = choose_types(ordered, wanted, facts, options)
    planned = tuple(
        PlannedTensor(tensor.name, ggml_shape(tensor.shape), choice)
        for tensor, choice in zip(ordered, choices, strict=True)
    )
    return FileContent(quantized_metadata(model, ordered, wanted, facts, options), planned)
