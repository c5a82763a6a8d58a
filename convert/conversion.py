"""What the commands do, as functions: plan, then carry out.

Every function here that writes has a `plan_…` twin that decides everything and writes nothing. A model is a path or a
`ModelRequest`, outputs are a directory or an `OutputRequest`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.checkpoint import NOTHING_STATED, Stated
from convert.errors import CheckpointError, Remedy, UnsupportedError, UsageError
from convert.gguf_file import SPLIT_COUNT, is_ggml, read_parts
from convert.llama_cpp.front_end import Part, open_gguf_model, open_other_model
from convert.model import ModelRequest, as_request, gguf_model_of, read_ggml_model, stored_model
from convert.plan import (
    OutputRequest,
    Plan,
    SplitRequest,
    directory_name,
    directory_owner,
    gguf_name,
    joined,
    parse_type,
    plan,
    plan_in_parts,
    plan_merged,
    require_file,
)
from convert.quant_mix import NO_OPTIONS, FileType, QuantizeOptions
from convert.remote import located
from convert.stream import Progress, Report, Writing, carry_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convert.gguf_file import GGUFFile
    from convert.model import PathLike

QUANTIZED_TYPES: Final = "q4_0,q4_1,q5_0,q5_1,q8_0"


def plan_all(model: PathLike | ModelRequest, outputs: PathLike | OutputRequest) -> Plan:
    """Plan `OUTDIR/NAME-TYPE.gguf` for each type of a checkpoint, named after its directory or repository.

    Raises UsageError, CheckpointError, UnsupportedError or PlanError; nothing is written.
    """
    request = as_request(model)
    wanted = outputs if isinstance(outputs, OutputRequest) else OutputRequest(outputs)
    wanted = replace(wanted, owner=wanted.owner or directory_owner(request.directory))
    name = directory_name(request.directory)
    text = plan(open_gguf_model(request), wanted.paths(name), wanted.options, wanted.split)
    return joined([text, *_other_plans(request, wanted, name)])


def _other_plans(request: ModelRequest, wanted: OutputRequest, name: str) -> Iterator[Plan]:
    """Plan the files beside the text model's that were asked for."""
    for part, asked in ((Part.MMPROJ, wanted.mmproj), (Part.MTP, wanted.mtp)):
        if asked is not None:
            kind = parse_type(asked)
            model = open_other_model(request, part)
            if kind.name not in model.converted:
                types = ", ".join(kind.lower() for kind in model.converted)
                raise UsageError(f"such a file cannot be {kind.name}: {types} are possible")
            yield plan(model, {kind: wanted.path(name, kind.name, part.value)})


def plan_one(
    model: PathLike | ModelRequest,
    out: PathLike,
    *,
    type: str | FileType = "f16",
    options: QuantizeOptions = NO_OPTIONS,
    split: SplitRequest | None = None,
) -> Plan:
    """Plan one GGUF file of a checkpoint, at the path given, or parts in a folder there; errors as for `plan_all`."""
    request, kind = as_request(model), parse_type(type)
    path = require_file(out, such_as=f"{directory_name(request.directory)}-{kind.name}.gguf")
    return plan(open_gguf_model(request), {kind: path}, options, split)


def plan_quantize(source: PathLike, outputs: PathLike | OutputRequest, stated: Stated = NOTHING_STATED) -> Plan:
    """Plan `OUTDIR/NAME-TYPE.gguf` for each type of an F32, F16 or BF16 GGUF, named after it without its type.

    source: a file, or the first part of a split one; or one older than GGUF, of which `stated` says what it does not.

    Raises UsageError, CheckpointError, UnsupportedError or PlanError; nothing is written.
    """
    path = Path(located(source))
    wanted = outputs if isinstance(outputs, OutputRequest) else OutputRequest(outputs, types=QUANTIZED_TYPES)
    paths = wanted.paths(gguf_name(path))
    if is_ggml(path):
        return plan(read_ggml_model(path, stated), paths, wanted.options, wanted.split)
    parts = read_parts(path)
    return _beside(parts, plan(gguf_model_of(parts), paths, wanted.options, wanted.split))


def plan_split(source: PathLike, prefix: PathLike, split: SplitRequest) -> Plan:
    """Plan `PREFIX-00001-of-00003.gguf` and so on, the parts of a GGUF file; in a directory, they are called as it is.

    Raises UsageError or CheckpointError; UnsupportedError for what is in parts already; PlanError as `in_parts` does.
    """
    path = Path(located(source))
    parts = read_parts(path)
    if len(parts) > 1:
        raise UnsupportedError(f"`{path}` is in {len(parts)} parts already", remedies=(Remedy.MERGE_PARTS,))
    is_directory = Path(prefix).is_dir() or os.fspath(prefix).endswith(os.sep)
    named = Path(prefix) / path.name if is_directory else Path(prefix)
    named = named.with_name(named.name.removesuffix(".gguf"))
    return _beside(parts, plan_in_parts(stored_model(parts), named, split))


def plan_merge(first: PathLike, out: PathLike) -> Plan:
    """Plan one file of a model's parts, whose first is given.

    Raises UsageError or OutputError; CheckpointError for a file that is no part, and for parts as `read_parts` does.
    """
    path = Path(located(first))
    wanted = require_file(out, such_as=f"{gguf_name(path)}.gguf")
    parts = read_parts(path)
    if len(parts) == 1 and parts[0].metadata.get(SPLIT_COUNT) != 1:
        raise CheckpointError(f"`{path}` is a whole file, wanted the first part of a split one")
    return _beside(parts, plan_merged(stored_model(parts), wanted))


def _beside(sources: Sequence[GGUFFile], plan: Plan) -> Plan:
    """Raise UsageError if an output is one of the files that it is made of."""
    for output in (output for output in plan.outputs if output.path.exists()):
        if any(output.path.samefile(source.path) for source in sources):
            raise UsageError(f"the output `{output.path}` is the input itself", remedies=(Remedy.OTHER_PLACE,))
    return plan


def convert_all(
    model: PathLike | ModelRequest,
    outputs: PathLike | OutputRequest,
    writing: Writing = Writing(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
) -> Report:
    """Convert a checkpoint to GGUF files of several types in one read; see `plan_all` and `carry_out`."""
    return carry_out(plan_all(model, outputs), writing, progress=progress)


def convert_one(
    model: PathLike | ModelRequest,
    out: PathLike,
    writing: Writing = Writing(),  # noqa: B008 - frozen
    *,
    type: str | FileType = "f16",
    options: QuantizeOptions = NO_OPTIONS,
    split: SplitRequest | None = None,
    progress: Progress | None = None,
) -> Report:
    """Convert a checkpoint to one GGUF file; see `plan_one` and `carry_out`."""
    return carry_out(plan_one(model, out, type=type, options=options, split=split), writing, progress=progress)


def quantize(
    source: PathLike,
    outputs: PathLike | OutputRequest,
    writing: Writing = Writing(),  # noqa: B008 - frozen
    *,
    stated: Stated = NOTHING_STATED,
    progress: Progress | None = None,
) -> Report:
    """Quantize a float GGUF file to several types in one read; see `plan_quantize` and `carry_out`."""
    return carry_out(plan_quantize(source, outputs, stated), writing, progress=progress)


def split(
    source: PathLike,
    prefix: PathLike,
    request: SplitRequest,
    writing: Writing = Writing(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
) -> Report:
    """Cut a GGUF file into parts; see `plan_split` and `carry_out`."""
    return carry_out(plan_split(source, prefix, request), writing, progress=progress)


def merge(
    first: PathLike,
    out: PathLike,
    writing: Writing = Writing(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
) -> Report:
    """Put the parts of a GGUF file together; see `plan_merge` and `carry_out`."""
    return carry_out(plan_merge(first, out), writing, progress=progress)
