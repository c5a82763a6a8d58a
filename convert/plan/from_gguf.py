"""Plan the quantization of a float GGUF file, made by anyone."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from gguf import GGMLQuantizationType, Keys

from convert.checkpoint import ByteRange
from convert.codec import FLOAT_TYPES
from convert.errors import CheckpointError, UnsupportedError
from convert.gguf_reader import GGUFFile, read_gguf
from convert.plan.assemble import assemble
from convert.plan.data import Plan, PlannedInput, RequestedOutput, RequestedTensor
from convert.plan.requantize import quantized_output
from convert.quant_mix import Choice, ModelFacts, OutputType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from convert.gguf_file import TensorInfo


def plan_gguf(source: Path, outputs: Mapping[OutputType, Path]) -> Plan:
    """Plan the files that a float GGUF becomes.

    source: an F32, F16 or BF16 GGUF. outputs: for each type, the path of its file.
    Raises CheckpointError for a broken file, UnsupportedError for one part of a split model or a
    file that is quantized already; nothing is written.
    """
    file = read_gguf(source)
    arch = file.metadata.get(Keys.General.ARCHITECTURE)
    if not isinstance(arch, str):
        raise CheckpointError(f"`{source}` does not say its `{Keys.General.ARCHITECTURE}`")
    _check_whole(file)
    facts = _facts(file, arch)
    requests = [quantized_output(path, wanted, _as_it_is(file), facts) for wanted, path in outputs.items()]
    planned, tasks = assemble([_planned_input(file, tensor) for tensor in file.tensors], requests)
    for output in planned:
        _check_convertible(file, output.tensors)
    return Plan(
        source=source,
        architecture=arch,
        n_parameters=sum(prod(tensor.shape) for tensor in file.tensors),
        source_nbytes=sum(tensor.nbytes for tensor in file.tensors),
        outputs=planned,
        tasks=tasks,
        through_f16=False,
        notes=(),
    )


def _check_whole(file: GGUFFile) -> None:
    n_parts = file.metadata.get(Keys.Split.LLM_KV_SPLIT_COUNT, 0)
    if isinstance(n_parts, int) and n_parts > 1:
        raise UnsupportedError(
            f"`{file.path}` is one of {n_parts} parts of a split model",
            hint="put the parts together first: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )


def _facts(file: GGUFFile, arch: str) -> ModelFacts:
    n_experts = file.metadata.get(Keys.LLM.EXPERT_COUNT.format(arch=arch), 0)
    return ModelFacts.of(arch, n_experts if isinstance(n_experts, int) else 0, {tensor.name for tensor in file.tensors})


def _as_it_is(file: GGUFFile) -> RequestedOutput:
    tensors = tuple(RequestedTensor(tensor.name, tensor.shape, Choice(tensor.type)) for tensor in file.tensors)
    return RequestedOutput(file.path, OutputType.F16, file.entries, tensors, file.alignment)


def _planned_input(file: GGUFFile, tensor: TensorInfo) -> PlannedInput:
    source = ByteRange(tensor.name, file.path, tensor.offset, tensor.nbytes)
    return PlannedInput(tensor.name, tensor.shape, tensor.type, (source,))


def _check_convertible(file: GGUFFile, wanted: tuple[TensorInfo, ...]) -> None:
    types: Mapping[str, GGMLQuantizationType] = {tensor.name: tensor.type for tensor in file.tensors}
    for tensor in wanted:
        stored = types[tensor.name]
        if stored is not tensor.type and stored not in FLOAT_TYPES:
            raise UnsupportedError(
                f"tensor `{tensor.name}` of `{file.path}` is {stored.name} already",
                hint="quantizing twice loses more than once; start from an F32, F16 or BF16 file",
            )
