"""From what is asked of each file to offsets, headers and tasks."""

from __future__ import annotations

from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING

from convert.errors import PlanError
from convert.gguf_file import layout
from convert.plan.data import Output, PlannedInput, RequestedOutput, Target, Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gguf import GGMLQuantizationType


def assemble(
    inputs: Sequence[PlannedInput], requests: Sequence[RequestedOutput]
) -> tuple[tuple[Output, ...], tuple[Task, ...]]:
    """Lay out every file and gather the work: one task a tensor, in the order of the inputs.

    Raises PlanError if two outputs have one path or two tensors one name.
    """
    _check_distinct((str(request.path) for request in requests), "output")
    _check_distinct((tensor.name for tensor in inputs), "tensor")
    outputs = tuple(map(_lay_out, requests))
    places = _places(outputs)
    return outputs, tuple(Task(tensor, places[tensor.name]) for tensor in inputs)


def _lay_out(request: RequestedOutput) -> Output:
    listed = ((tensor.name, tensor.shape, tensor.choice.type) for tensor in request.tensors)
    header, infos, nbytes = layout(listed, request.entries, request.alignment)
    reasons = {tensor.name: tensor.choice.reason for tensor in request.tensors if tensor.choice.reason is not None}
    key_values = tuple(entry for entry, _ in request.entries)
    return Output(request.path, request.type, key_values, header, infos, MappingProxyType(reasons), nbytes)


def _places(outputs: Sequence[Output]) -> dict[str, tuple[Target, ...]]:
    gathered: dict[str, dict[GGMLQuantizationType, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for index, output in enumerate(outputs):
        for info in output.tensors:
            gathered[info.name][info.type].append((index, info.offset))
    return {
        name: tuple(Target(tensor_type, tuple(places)) for tensor_type, places in types.items())
        for name, types in gathered.items()
    }


def _check_distinct(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(f"two {what}s are called `{name}`")
        seen.add(name)
