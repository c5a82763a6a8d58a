"""What every architecture row has, and how checkpoint tensors meet it.

A row lists the tensors that its GGUF can hold, with their shapes. Every checkpoint tensor must
match exactly one of them or be explicitly ignored; every required one must have a source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.errors import PlanError
from convert.transform import UNCHANGED, Transform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gguf import MODEL_ARCH, GGUFWriter

    from convert.checkpoint import Tensor
    from convert.model_config import ModelConfig

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExpectedTensor:
    """A tensor the GGUF can hold: its shape in NumPy order, and what is done to its rows.

    always_f32: the reference never narrows it, whatever the output type.
    stack: how many sources are stacked along the first axis (the experts); None for a plain tensor.
    group: tensors of one group are written together, when the last source of all of them is met.
    """

    shape: Shape
    required: bool = True
    transform: Transform = UNCHANGED
    always_f32: bool = False
    stack: int | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class SourcePart:
    """Which place a checkpoint tensor takes in a GGUF tensor: the index is its place in a stack."""

    output: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that is computed from the config: float32 values, little endian, one dimension."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One GGUF tensor and where it comes from, in the order of the converter's file.

    sources: names of checkpoint tensors, in stacking order; or empty for a constant, given in `data`.
    """

    name: str
    shape: Shape
    sources: tuple[str, ...]
    transform: Transform
    always_f32: bool
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table.

    unfuse: gives, for tensors that hold several of the model's, the parts under their usual names.
    ignored: suffixes of checkpoint tensors that GGUF has no use for.
    check: raises UnsupportedError for a config that the row cannot carry.
    write_parameters: adds the architecture's own metadata, in the reference's order, to gguf's writer.
    locate: gives, for a config, the function from a checkpoint tensor's name to its place (None: no place).
    """

    hf_names: tuple[str, ...]
    gguf_arch: MODEL_ARCH
    unfuse: Callable[[ModelConfig, Mapping[str, Tensor]], Mapping[str, Tensor]]
    ignored: tuple[str, ...]
    check: Callable[[ModelConfig], None]
    write_parameters: Callable[[GGUFWriter, ModelConfig], None]
    expected_tensors: Callable[[ModelConfig], Mapping[str, ExpectedTensor]]
    locate: Callable[[ModelConfig], Callable[[str], SourcePart | None]]
    constants: Callable[[ModelConfig], Sequence[Constant]]


def map_tensors(
    architecture: Architecture, config: ModelConfig, shapes: Mapping[str, Shape]
) -> tuple[OutputTensor, ...]:
    """Match a checkpoint's tensors (name to shape, in its order) with the architecture's.

    Returns the outputs in the order of the reference's F16 file: constants, then each tensor where
    the last of its sources stands.
    Raises PlanError for a tensor that nothing maps, two sources for one place, a missing tensor, or
    a shape that contradicts the config.
    """
    expected = architecture.expected_tensors(config)
    gathered = _gather(architecture, config, shapes)
    _check_complete(expected, gathered, shapes)
    outputs = [
        OutputTensor(constant.name, (len(constant.data) // 4,), (), UNCHANGED, always_f32=True, data=constant.data)
        for constant in architecture.constants(config)
    ]
    for name in _in_file_order(expected, gathered, shapes):
        tensor = expected[name]
        sources = tuple(source for _, source in sorted(gathered[name].items()))
        _check_shapes(name, tensor, sources, shapes)
        outputs.append(OutputTensor(name, tensor.shape, sources, tensor.transform, tensor.always_f32))
    return tuple(outputs)


def _gather(architecture: Architecture, config: ModelConfig, shapes: Mapping[str, Shape]) -> dict[str, dict[int, str]]:
    """Collect output name to (place in the stack to checkpoint name)."""
    locate = architecture.locate(config)
    gathered: dict[str, dict[int, str]] = {}
    unmapped = []
    for name in shapes:
        if name.endswith(architecture.ignored):
            continue
        part = locate(name)
        if part is None:
            unmapped.append(name)
            continue
        places = gathered.setdefault(part.output, {})
        if part.index in places:
            raise PlanError(f"`{places[part.index]}` and `{name}` both become `{part.output}`")
        places[part.index] = name
    if unmapped:
        raise PlanError(
            f"{len(unmapped)} tensors have no place in a {config.architecture} of {config.n_layers} layers: "
            f"{_some(unmapped)}",
            hint="a wrong num_hidden_layers in config.json, an adapter saved into the model, or another architecture",
        )
    return gathered


def _check_complete(
    expected: Mapping[str, ExpectedTensor], gathered: Mapping[str, Mapping[int, str]], shapes: Mapping[str, Shape]
) -> None:
    missing = [
        name if tensor.stack is None else f"{name}[{index}]"
        for name, tensor in expected.items()
        for index in range(tensor.stack or 1)
        if index not in gathered.get(name, {}) and (tensor.required or name in gathered)
    ]
    if missing:
        raise PlanError(
            f"the checkpoint lacks {len(missing)} tensors that the model needs: {_some(missing)}",
            hint=f"it has {len(shapes)} tensors; a shard may be missing, or config.json belongs to another model",
        )


def _in_file_order(
    expected: Mapping[str, ExpectedTensor], gathered: Mapping[str, Mapping[int, str]], shapes: Mapping[str, Shape]
) -> list[str]:
    position = {name: index for index, name in enumerate(shapes)}
    rank = {name: index for index, name in enumerate(expected)}
    complete: dict[str, int] = {}
    for name, parts in gathered.items():
        group = expected[name].group or name
        complete[group] = max(complete.get(group, 0), *(position[source] for source in parts.values()))
    return sorted(gathered, key=lambda name: (complete[expected[name].group or name], rank[name]))


def _check_shapes(name: str, tensor: ExpectedTensor, sources: Sequence[str], shapes: Mapping[str, Shape]) -> None:
    wanted = tensor.shape if tensor.stack is None else tensor.shape[1:]
    for source in sources:
        if shapes[source] != wanted:
            raise PlanError(f"tensor `{source}` (`{name}`) has shape {shapes[source]}, config.json says {wanted}")


def _some(names: Sequence[str], limit: int = 5) -> str:
    listed = ", ".join(f"`{name}`" for name in names[:limit])
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit} more"
