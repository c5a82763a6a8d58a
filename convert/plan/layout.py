"""From a model and the files wanted of it to offsets, headers and tasks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gguf import GGMLQuantizationType

from convert.codec import CODECS, FLOAT_TYPES
from convert.errors import PlanError, Remedy, UnsupportedError
from convert.gguf_file import layout
from convert.model import Decoded, GGUFModel, tensor_type
from convert.plan.checks import check_importance, importance_notes, n_importance_values
from convert.plan.data import FileLayout, Output, Plan, Target, Task
from convert.plan.files import FileContent, file_content
from convert.plan.lossless import Exactness, find_exact
from convert.plan.pruned import prune
from convert.quant_mix import NO_OPTIONS, QuantizeOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from convert.checkpoint import Tensor
    from convert.quant_mix import FileType


def plan(model: GGUFModel, outputs: Mapping[FileType, Path], options: QuantizeOptions = NO_OPTIONS) -> Plan:
    """Plan the files that a model becomes: for each type, the path of its file.

    Raises PlanError if two outputs have one path or two tensors one name, if the importance matrix does not fit the
    model, or a type needs one and has none; UnsupportedError for a tensor that would be quantized a second time, or a
    type that cannot be made. Nothing is written.
    """
    _check_distinct(map(str, outputs.values()), "output")
    _check_distinct((name for name, _ in model.tensors), "tensor")
    model, options = prune(model, options)
    contents = [file_content(model, wanted, options) for wanted in outputs]
    exact = find_exact(model, contents, options)
    files = [_laid_out(model, content, exact) for content in contents]
    planned = tuple(_output(file, *wanted) for file, wanted in zip(files, outputs.items(), strict=True))
    check_importance(model, dict(zip(outputs, planned, strict=True)), options)
    _check_encodable(model, planned, options, exact)
    tasks = _tasks(model, planned, options, exact)
    return Plan(
        source=model.source,
        architecture=model.architecture,
        n_parameters=model.n_parameters,
        source_nbytes=model.source_nbytes,
        outputs=planned,
        tasks=tasks,
        notes=(*model.notes, *exact.notes(), *importance_notes(tasks, options), *_requantized_note(tasks)),
        definition=model.definition,
        left_out=model.left_out,
    )


# Types without blocks that no other is made from: llama-quantize refuses them too (llama-quant.cpp @ 0c1e570).
_UNQUANTIZED: Final = frozenset(getattr(GGMLQuantizationType, name) for name in ("F64", "I64", "I32", "I16", "I8"))


def lay_out(model: GGUFModel, wanted: FileType, options: QuantizeOptions = NO_OPTIONS) -> FileLayout:
    """Lay out the file of one type that a model becomes, wherever it may go; layers are left out of it already.

    Raises PlanError for a tensor that no type can be found for.
    """
    return _laid_out(model, file_content(model, wanted, options), Exactness())


def _laid_out(model: GGUFModel, content: FileContent, exact: Exactness) -> FileLayout:
    content = exact.content(content)
    listed = ((tensor.name, tensor.shape, tensor.choice.type) for tensor in content.tensors)
    header, infos, nbytes = layout(listed, content.metadata, model.alignment)
    return FileLayout(header, infos, nbytes, exact.reasons(content))


def _output(file: FileLayout, wanted: FileType, path: Path) -> Output:
    return Output(path, file.header, file.tensors, file.nbytes, label=wanted.name, reasons=file.reasons)


def _tasks(model: GGUFModel, outputs: Sequence[Output], options: QuantizeOptions, exact: Exactness) -> tuple[Task, ...]:
    gathered: dict[str, dict[GGMLQuantizationType, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for index, output in enumerate(outputs):
        for info in output.tensors:
            gathered[info.name][info.type].append((index, info.offset))
    tasks: list[Task] = []
    for name, tensor in (*model.tensors, *exact.scales):
        places = gathered[name]
        copied = {kind: exact.blocks[name, kind] for kind in places if (name, kind) in exact.blocks}
        tasks += [Task(name, rows, kind, (Target(kind, tuple(places[kind])),)) for kind, rows in copied.items()]
        others = {kind: listed for kind, listed in places.items() if kind not in copied}
        tasks += _tasks_of(name, tensor, others, options)
    return tuple(replace(task, through=model.through) for task in tasks if task.targets)


def _tasks_of(
    name: str,
    tensor: Tensor,
    places: Mapping[GGMLQuantizationType, Sequence[tuple[int, int]]],
    options: QuantizeOptions,
) -> Iterator[Task]:
    """Make one task of a tensor; or two, where one is quantized, copied for some outputs, and decoded for others."""
    own = tensor_type(tensor)
    targets = [Target(encoded, tuple(listed)) for encoded, listed in places.items()]
    importance = None if options.importance is None else options.importance.entries.get(name)
    if importance is not None and importance.n_values != n_importance_values(tensor):
        importance = None  # the embeddings', which llama-quantize ignores too
    if own in FLOAT_TYPES or own not in CODECS:
        yield Task(name, tensor, own, tuple(targets), importance)
        return
    if copied := tuple(target for target in targets if target.type is own):
        yield Task(name, tensor, own, copied)
    if made := tuple(target for target in targets if target.type is not own):
        yield Task(name, Decoded(tensor), GGMLQuantizationType.F32, made, importance)


def _check_encodable(model: GGUFModel, outputs: Iterable[Output], options: QuantizeOptions, exact: Exactness) -> None:
    stored = {name: tensor_type(tensor) for name, tensor in (*model.tensors, *exact.scales)}
    for output in outputs:
        for info in output.tensors:
            own = stored[info.name]
            if own is info.type or (info.name, info.type) in exact.blocks:
                continue
            if own in _UNQUANTIZED:
                raise UnsupportedError(
                    f"tensor `{info.name}` of `{model.source}` is {own.name}, from which nothing is made",
                    hint="start from a file whose tensors are F32, F16 or BF16",
                )
            if own not in FLOAT_TYPES and (own not in CODECS or not options.allow_requantize):
                raise UnsupportedError(
                    f"tensor `{info.name}` of `{model.source}` is {own.name} already",
                    remedies=(Remedy.REQUANTIZE,) if own in CODECS else (),
                    hint="quantizing twice loses more than once; start from an F32, F16 or BF16 file",
                )
            if info.type not in CODECS:
                raise UnsupportedError(f"{info.type.name}, for `{info.name}`, is not a type this version can encode")


def _requantized_note(tasks: Iterable[Task]) -> tuple[str, ...]:
    decoded = [task.name for task in tasks if isinstance(task.tensor, Decoded)]
    return (f"{len(decoded)} tensors are quantized already, and lose a second time",) if decoded else ()


def _check_distinct(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(f"two {what}s are called `{name}`")
        seen.add(name)
