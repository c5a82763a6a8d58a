"""From a model and the files wanted of it to offsets, headers and tasks."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from convert.codec import FLOAT_TYPES
from convert.errors import PlanError, UnsupportedError
from convert.gguf_file import layout
from convert.model import GGUFModel, tensor_type
from convert.plan.data import FileLayout, Output, Plan, Target, Task
from convert.plan.files import file_content

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from gguf import GGMLQuantizationType

    from convert.quant_mix import FileType


def plan(model: GGUFModel, outputs: Mapping[FileType, Path]) -> Plan:
    """Plan the files that a model becomes: for each type, the path of its file.

    Raises PlanError if two outputs have one path or two tensors one name; UnsupportedError for a tensor that would have
    to be quantized a second time. Nothing is written.
    """
    _check_distinct(map(str, outputs.values()), "output")
    _check_distinct((name for name, _ in model.tensors), "tensor")
    planned = tuple(_output(model, wanted, path) for wanted, path in outputs.items())
    _check_encodable(model, planned)
    return Plan(
        source=model.source,
        architecture=model.architecture,
        n_parameters=model.n_parameters,
        source_nbytes=model.source_nbytes,
        outputs=planned,
        tasks=_tasks(model, planned),
        notes=model.notes,
        definition=model.definition,
        left_out=model.left_out,
    )


def lay_out(model: GGUFModel, wanted: FileType) -> FileLayout:
    """Lay out the file of one type that a model becomes, wherever it may go."""
    content = file_content(model, wanted)
    listed = ((tensor.name, tensor.shape, tensor.choice.type) for tensor in content.tensors)
    header, infos, nbytes = layout(listed, content.metadata, model.alignment)
    reasons = {tensor.name: tensor.choice.reason for tensor in content.tensors if tensor.choice.reason is not None}
    return FileLayout(header, infos, nbytes, reasons)


def _output(model: GGUFModel, wanted: FileType, path: Path) -> Output:
    file = lay_out(model, wanted)
    return Output(path, file.header, file.tensors, file.nbytes, label=wanted.name, reasons=file.reasons)


def _tasks(model: GGUFModel, outputs: Sequence[Output]) -> tuple[Task, ...]:
    gathered: dict[str, dict[GGMLQuantizationType, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for index, output in enumerate(outputs):
        for info in output.tensors:
            gathered[info.name][info.type].append((index, info.offset))
    return tuple(
        Task(
            name,
            tensor,
            tensor_type(tensor),
            tuple(Target(encoded, tuple(places)) for encoded, places in gathered[name].items()),
            model.through,
        )
        for name, tensor in model.tensors
    )


def _check_encodable(model: GGUFModel, outputs: Iterable[Output]) -> None:
    stored = {name: tensor_type(tensor) for name, tensor in model.tensors}
    for output in outputs:
        for info in output.tensors:
            if stored[info.name] is not info.type and stored[info.name] not in FLOAT_TYPES:
                raise UnsupportedError(
                    f"tensor `{info.name}` of `{model.source}` is {stored[info.name].name} already",
                    hint="quantizing twice loses more than once; start from an F32, F16 or BF16 file",
                )


def _check_distinct(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(f"two {what}s are called `{name}`")
        seen.add(name)
