"""Plan the conversion of a checkpoint directory: the float file and its quantizations in one read."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFType, GGUFWriter, Keys

from convert.adapter import MergedTensor, MergeRequest
from convert.architecture import OutputTensor, map_tensors
from convert.authorship import write_authorship
from convert.checkpoint.packed.values import FLOATS
from convert.errors import CheckpointError
from convert.gguf_file import ALIGNMENT, Entry, KeyValue, encoded_entry
from convert.plan.assemble import assemble
from convert.plan.data import Plan, PlannedInput, RequestedOutput, RequestedTensor
from convert.plan.model import Model, open_model
from convert.plan.requantize import quantized_output, with_file_type
from convert.quant_mix import ModelFacts, OutputType, converter_choice
from convert.tokenizer import read_vocabulary, vocabulary_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from convert.checkpoint import Tensor
    from convert.model_config import ModelConfig

_QUANTIZATION_VERSION: Final = 2  # GGML_QNT_VERSION
_NO_SCORE: Final = -1000.0  # what LlamaHfVocab gives every token


def plan_checkpoint(
    model: Path,
    outputs: Mapping[OutputType, Path],
    *,
    pre_tokenizer: str | None = None,
    adapters: Sequence[MergeRequest] = (),
) -> Plan:
    """Plan the files that a checkpoint becomes.

    model: the directory (or the weight file in it), or that of an adapter, whose base is then looked for.
    outputs: for each type, the path of its file. adapters: to merge, in order.
    Raises CheckpointError, UnsupportedError or PlanError; nothing is written.
    """
    opened = open_model(model, adapters)
    shapes = {name: tensor.shape for name, tensor in opened.tensors.items()}
    mapped = map_tensors(opened.architecture, opened.config, shapes)
    inputs = tuple(_planned_input(tensor, opened.tensors) for tensor in mapped)
    entries = _metadata(opened, mapped, pre_tokenizer)
    requests = [_request(path, output_type, entries, mapped) for output_type, path in outputs.items()]
    planned, tasks = assemble(inputs, requests)
    return Plan(
        source=opened.directory,
        architecture=opened.config.architecture,
        n_parameters=sum(prod(tensor.shape) for tensor in mapped if tensor.data is None),
        source_nbytes=sum(source.nbytes for tensor in inputs for source in tensor.sources),
        outputs=planned,
        tasks=tasks,
        through_f16=True,
        notes=opened.notes + _notes(opened.config, entries),
    )


def _planned_input(tensor: OutputTensor, stored: Mapping[str, Tensor]) -> PlannedInput:
    if tensor.data is not None:
        return PlannedInput(tensor.name, tensor.shape, GGMLQuantizationType.F32, (), data=tensor.data)
    sources = _of_one_type(tuple(stored[name] for name in tensor.sources))
    return PlannedInput(tensor.name, tensor.shape, _float_type(sources), sources, tensor.transform)


def _of_one_type(sources: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give experts that an adapter leaves alone in float32 too, where it changes others of their stack."""
    if not any(isinstance(source, MergedTensor) for source in sources):
        return sources
    return tuple(source if isinstance(source, MergedTensor) else MergedTensor(source) for source in sources)


def _float_type(sources: Sequence[Tensor]) -> GGMLQuantizationType:
    types = {source.dtype for source in sources}
    for source in sources:
        if source.dtype not in FLOATS:
            raise CheckpointError(
                f"tensor `{source.name}` is stored as {source.dtype.value}; F32, F16 and BF16 are read",
                hint="a packed or quantized checkpoint without its quantization_config cannot be decoded",
            )
    if len(types) > 1:
        raise CheckpointError(f"the experts of `{sources[0].name}` are stored in several types")
    return FLOATS[sources[0].dtype]


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


def _request(
    path: Path, output_type: OutputType, entries: Sequence[Entry], tensors: Sequence[OutputTensor]
) -> RequestedOutput:
    if output_type.is_quantized:
        float_file = _request(path, OutputType.F16, entries, tensors)
        facts = _facts(entries, tensors)
        return quantized_output(path, output_type, float_file, facts)
    requested = tuple(
        RequestedTensor(
            tensor.name,
            tensor.shape,
            converter_choice(always_f32=tensor.always_f32, shape=tensor.shape, wanted=output_type.tensor_type),
        )
        for tensor in tensors
    )
    return RequestedOutput(path, output_type, with_file_type(entries, output_type), requested, ALIGNMENT)


def _facts(entries: Sequence[Entry], tensors: Sequence[OutputTensor]) -> ModelFacts:
    values = {entry.key: entry.value for entry, _ in entries}
    arch = values[Keys.General.ARCHITECTURE]
    n_experts = values.get(Keys.LLM.EXPERT_COUNT.format(arch=arch), 0)
    return ModelFacts.of(arch, n_experts, {tensor.name for tensor in tensors})


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
