"""From a model and the files wanted of it to offsets, headers and tasks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from gguf import GGMLQuantizationType

from convert.codec import CODECS, FLOAT_TYPES
from convert.errors import PlanError, Remedy, UnsupportedError, UsageError
from convert.gguf_file import ALIGNMENT, Part, layout
from convert.model import Decoded, GGUFModel, tensor_type
from convert.plan.checks import check_importance, importance_notes, n_importance_values
from convert.plan.data import FileLayout, Output, Plan, Target, Task
from convert.plan.files import FileContent, file_content
from convert.plan.lossless import Exactness, find_exact
from convert.plan.pruned import prune
from convert.plan.request import require_directory
from convert.plan.split import folder_prefix, in_parts, part_path, parts_kept
from convert.quant_mix import NO_OPTIONS, QuantizeOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from convert.checkpoint import Tensor
    from convert.plan.files import FileContent
    from convert.plan.split import SplitRequest
    from convert.quant_mix import FileType


def plan(
    model: GGUFModel,
    outputs: Mapping[FileType, Path],
    options: QuantizeOptions = NO_OPTIONS,
    split: SplitRequest | None = None,
) -> Plan:
    """Plan the files that a model becomes: for each type, the path of its file, or of what is in parts instead.

    Raises PlanError if two outputs have one path or two tensors one name, if the importance matrix does not fit the
    model, or a type needs one and has none; UnsupportedError for a tensor that would be quantized a second time, or a
    type that cannot be made. Nothing is written.
    """
    if options.keep_split and split is not None:
        raise UsageError("parts are kept as the source's are, or cut anew: not both")
    _check_distinct(map(str, outputs.values()), "output")
    _check_distinct((name for name, _ in model.tensors), "tensor")
    model, options = prune(model, options)
    contents = {wanted: file_content(model, wanted, options) for wanted in outputs}
    exact = find_exact(model, contents.values(), options)
    by_type = {
        wanted: _outputs(model, exact.content(contents[wanted]), wanted, path, options, split)
        for wanted, path in outputs.items()
    }
    tensors = {wanted: [info for file in files for info in file.tensors] for wanted, files in by_type.items()}
    check_importance(model, tensors, options)
    planned = tuple(chain.from_iterable(by_type.values()))
    _check_encodable(model, planned, options, exact)
    tasks = _tasks(model, planned, options, exact)
    return Plan(
        source=model.source,
        architecture=model.architecture,
        n_parameters=model.n_parameters,
        source_nbytes=model.source_nbytes,
        outputs=planned,
        tasks=tasks,
        notes=(
            *model.notes,
            *exact.notes(),
            *importance_notes(tasks, options),
            *_requantized_note(tasks),
            *large_parts(planned, split),
        ),
        definition=model.definition,
        left_out=model.left_out,
    )


# Types without blocks that no other is made from: llama-quantize refuses them too (llama-quant.cpp @ 0c1e570).
_UNQUANTIZED: Final = frozenset(getattr(GGMLQuantizationType, name) for name in ("F64", "I64", "I32", "I16", "I8"))


def lay_out(model: GGUFModel, wanted: FileType, options: QuantizeOptions = NO_OPTIONS) -> FileLayout:
    """Lay out the file of one type that a model becomes, wherever it may go; layers are left out of it already.

    Raises PlanError for a tensor that no type can be found for.
    """
    return _laid_out(file_content(model, wanted, options), model.alignment)


def _laid_out(content: FileContent, alignment: int) -> FileLayout:
    listed = ((tensor.name, tensor.shape, tensor.choice.type) for tensor in content.tensors)
    header, infos, nbytes = layout(listed, content.metadata, alignment)
    reasons = {tensor.name: tensor.choice.reason for tensor in content.tensors if tensor.choice.reason is not None}
    return FileLayout(header, infos, nbytes, reasons)


def _outputs(
    model: GGUFModel,
    content: FileContent,
    wanted: FileType,
    path: Path,
    options: QuantizeOptions,
    split: SplitRequest | None,
) -> tuple[Output, ...]:
    if options.keep_split:
        return outputs_in_parts(parts_kept(content, model), folder_prefix(path), model.alignment, wanted.name)
    if split is not None:
        return outputs_in_parts(in_parts(content, split), folder_prefix(path), model.alignment, wanted.name)
    return (output_of(content, path, model.alignment, wanted.name),)


def output_of(content: FileContent, path: Path, alignment: int, label: str = "", part: Part | None = None) -> Output:
    """Lay out one file at a path."""
    file = _laid_out(content, alignment)
    return Output(path, file.header, file.tensors, file.nbytes, label=label, reasons=file.reasons, part=part)


def outputs_in_parts(
    contents: Sequence[FileContent], prefix: Path, alignment: int, label: str = ""
) -> tuple[Output, ...]:
    """Lay out the parts of one model. alignment: of the first; the others, which do not say theirs, have the usual.

    Raises OutputError where the folder that they are to be in is no directory.
    """
    require_directory(prefix.parent)
    parts = [Part(number, len(contents)) for number in range(1, len(contents) + 1)]
    return tuple(
        output_of(content, part_path(prefix, part), alignment if part.number == 1 else ALIGNMENT, label, part)
        for content, part in zip(contents, parts, strict=True)
    )


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
        tasks += _of_tensor(name, tensor, others, options)
    return tuple(replace(task, through=model.through) for task in tasks if task.targets)


def _of_tensor(
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


def large_parts(outputs: Iterable[Output], split: SplitRequest | None) -> tuple[str, ...]:
    """Say which parts are larger than asked for."""
    if split is None:
        return ()
    large = [
        output for output in outputs if output.part and sum(info.nbytes for info in output.tensors) > split.max_nbytes
    ]
    return tuple(
        f"`{output.path.name}` is larger than asked for: `{output.tensors[0].name}` alone has "
        f"{output.tensors[0].nbytes} bytes"
        for output in large
    )


def _check_distinct(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(f"two {what}s are called `{name}`")
        seen.add(name)
