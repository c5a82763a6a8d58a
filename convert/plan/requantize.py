"""What llama-quantize makes of a float file, as a plan: metadata moved, tensors reordered, types chosen.

Source: src/llama-quant.cpp, llama_model_quantize_impl @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import GGUFValueType, Keys

from convert.gguf_file import Entry, KeyValue, encoded_entry
from convert.plan.data import RequestedOutput, RequestedTensor
from convert.quant_mix import ModelFacts, OutputType, file_order, ggml_n_dims, quantize_choice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_QUANTIZATION_VERSION: Final = 2  # GGML_QNT_VERSION
_SPLIT_KEYS: Final = ("split.no", "split.count", "split.tensors.count")


def quantized_output(
    path: Path, output_type: OutputType, float_file: RequestedOutput, facts: ModelFacts
) -> RequestedOutput:
    """Derive the file that llama-quantize would make of `float_file`."""
    tensors = {tensor.name: tensor for tensor in float_file.tensors}
    requested = tuple(_quantized(tensors[name], output_type, facts) for name in file_order(tensors))
    return RequestedOutput(
        path, output_type, _moved_entries(float_file.entries, output_type), requested, float_file.alignment
    )


def with_file_type(entries: Sequence[Entry], output_type: OutputType) -> tuple[Entry, ...]:
    """Set `general.file_type` where it stands, as the converter does."""
    replaced = file_type_entry(output_type)
    return tuple(replaced if entry.key == Keys.General.FILE_TYPE else (entry, encoded) for entry, encoded in entries)


def file_type_entry(output_type: OutputType) -> Entry:
    """Make the entry that declares what a file's tensors mostly are."""
    return encoded_entry(KeyValue(Keys.General.FILE_TYPE, output_type.file_type, GGUFValueType.UINT32))


def _quantized(tensor: RequestedTensor, output_type: OutputType, facts: ModelFacts) -> RequestedTensor:
    # Parity: ggml drops leading dimensions of 1, and llama-quantize writes what ggml counts.
    shape = tensor.shape[len(tensor.shape) - ggml_n_dims(tensor.shape) :]
    choice = quantize_choice(tensor.name, tensor.shape, tensor.choice.type, output_type, facts)
    return RequestedTensor(tensor.name, shape, choice)


def _moved_entries(entries: Sequence[Entry], output_type: OutputType) -> tuple[Entry, ...]:
    # gguf_set_val_u32 removes a key and appends it: the two that llama-quantize sets end up last.
    version = KeyValue(Keys.General.QUANTIZATION_VERSION, _QUANTIZATION_VERSION, GGUFValueType.UINT32)
    dropped = {Keys.General.QUANTIZATION_VERSION, Keys.General.FILE_TYPE, *_SPLIT_KEYS}
    kept = tuple(entry for entry in entries if entry[0].key not in dropped)
    return (*kept, encoded_entry(version), file_type_entry(output_type))
