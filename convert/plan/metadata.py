"""The metadata of a file that llama-quantize makes: the source's, and what is set at its end.

Source: src/llama-quant.cpp, llama_model_quantize_impl; tools/quantize/quantize.cpp, llama_quantize @ 0c1e570.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from gguf import GGML_QUANT_VERSION, GGUFValueType, Keys

from convert.gguf_file import SPLIT_KEYS, Entry, KeyValue, encoded_entry
from convert.quant_mix import FILE_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from convert.importance import Importance
    from convert.model import GGUFModel
    from convert.quant_mix import FileType, ModelFacts, QuantizeOptions, TensorToType

_LONGEST_STRING: Final = 127  # llama_model_kv_override's, bytes
_LAYER: Final = re.compile(r"blk\.(\d+)\.")
_GUESSED: Final = 1024  # LLAMA_FTYPE_GUESSED
# llama_model_loader: the file type that most tensors speak for, where there are several with their type.
_SPOKEN_FOR: Final = {"Q2_K": "Q2_K", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_NVFP4: Final = 39  # a file type that files may declare, and llama-quantize does not make


def quantized_metadata(
    model: GGUFModel, tensors: Sequence[TensorToType], wanted: FileType, facts: ModelFacts, options: QuantizeOptions
) -> tuple[Entry, ...]:
    """Give a quantized file's metadata; what is set anew stands at the end, in the order in which it is set.

    tensors: the model's, in the file's order, with the types they have.
    """
    kept = {entry.key: (entry, raw) for entry, raw in model.metadata}
    for key in SPLIT_KEYS:
        kept.pop(key, None)
    for entry in _set_anew(model, tensors, wanted, facts, options):
        kept.pop(entry.key, None)
        kept[entry.key] = encoded_entry(entry)
    return tuple(kept.values())


def file_type_entry(declared: int) -> Entry:
    """Make the entry that says a file's type."""
    return encoded_entry(_uint32(Keys.General.FILE_TYPE, declared))


def _uint32(key: str, value: int) -> KeyValue:
    return KeyValue(key, value, GGUFValueType.UINT32)


def _set_anew(
    model: GGUFModel, tensors: Sequence[TensorToType], wanted: FileType, facts: ModelFacts, options: QuantizeOptions
) -> Iterator[KeyValue]:
    yield _uint32(Keys.General.QUANTIZATION_VERSION, GGML_QUANT_VERSION)
    declared = _source_file_type(model, tensors, options) if wanted.declared is None else wanted.declared
    yield _uint32(Keys.General.FILE_TYPE, declared)
    yield from options.overrides
    if options.importance is not None and options.has_importance:
        yield from _of_importance(options.importance)
    if options.prune_layers:
        layers = (int(match[1]) for tensor in tensors if (match := _LAYER.search(tensor.name)))
        yield _uint32(Keys.LLM.BLOCK_COUNT.format(arch=facts.arch), max(layers) + 1)


def _of_importance(importance: Importance) -> Iterator[KeyValue]:
    yield _string("quantize.imatrix.file", importance.file)
    if importance.datasets:
        yield _string("quantize.imatrix.dataset", importance.datasets[0])
    yield _uint32("quantize.imatrix.entries_count", importance.n_entries)
    if importance.n_chunks > 0:
        yield _uint32("quantize.imatrix.chunks_count", importance.n_chunks)


def _string(key: str, text: str) -> KeyValue:
    return KeyValue(key, text.encode(errors="surrogateescape")[:_LONGEST_STRING], GGUFValueType.STRING)


def _source_file_type(model: GGUFModel, tensors: Iterable[TensorToType], options: QuantizeOptions) -> int:
    """Say the file type that a copy keeps, or what llama.cpp takes a file for that does not say."""
    if model.through is not None:
        return FILE_TYPES[model.through.name].declared or 0
    declared = {**model.values, **options.overridden}.get(Keys.General.FILE_TYPE)
    return declared if isinstance(declared, int) else _guessed(tensors) | _GUESSED


def _guessed(tensors: Iterable[TensorToType]) -> int:
    seen: Counter[str] = Counter()
    most = "F32"
    for tensor in tensors:
        seen[tensor.type.name] += 1
        most = tensor.type.name if seen[tensor.type.name] > seen[most] else most
    if most == "NVFP4":
        return _NVFP4
    row = FILE_TYPES.get(_SPOKEN_FOR.get(most, most))
    return 0 if row is None or row.declared is None else row.declared
