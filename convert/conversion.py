"""What the commands do, as functions: plan, then carry out.

Every function here that writes has a `plan_…` twin that decides everything and writes nothing. A model is a path or a
`ModelRequest`, outputs are a directory or an `OutputRequest`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.errors import Remedy, UsageError
from convert.llama_cpp.front_end import Part, open_gguf_model, open_other_model
from convert.model import ModelRequest, as_request, read_gguf_model
from convert.plan import (
    OutputRequest,
    Plan,
    directory_name,
    directory_owner,
    gguf_name,
    joined,
    parse_type,
    plan,
    require_file,
)
from convert.quant_mix import NO_OPTIONS, FileType, QuantizeOptions
from convert.stream import Progress, Report, Writing, carry_out

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    text = plan(open_gguf_model(request), wanted.paths(name), wanted.options)
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
) -> Plan:
    """Plan one GGUF file of a checkpoint, at the path given; errors as for `plan_all`."""
    request, kind = as_request(model), parse_type(type)
    path = require_file(out, such_as=f"{directory_name(request.directory)}-{kind.name}.gguf")
    return plan(open_gguf_model(request), {kind: path}, options)


def plan_quantize(source: PathLike, outputs: PathLike | OutputRequest) -> Plan:
    """Plan `OUTDIR/NAME-TYPE.gguf` for each type of an F32, F16 or BF16 GGUF, named after it without its type.

    Raises UsageError, CheckpointError, UnsupportedError or PlanError; nothing is written.
    """
    path = Path(source)
    wanted = outputs if isinstance(outputs, OutputRequest) else OutputRequest(outputs, types=QUANTIZED_TYPES)
    paths = wanted.paths(gguf_name(path))
    for out in paths.values():
        if out.exists() and path.exists() and out.samefile(path):
            raise UsageError(f"the output `{out}` is the input itself", remedies=(Remedy.OTHER_PLACE,))
    return plan(read_gguf_model(path), paths, wanted.options)


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
    progress: Progress | None = None,
) -> Report:
    """Convert a checkpoint to one GGUF file; see `plan_one` and `carry_out`."""
    return carry_out(plan_one(model, out, type=type, options=options), writing, progress=progress)


def quantize(
    source: PathLike,
    outputs: PathLike | OutputRequest,
    writing: Writing = Writing(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
) -> Report:
    """Quantize a float GGUF file to several types in one read; see `plan_quantize` and `carry_out`."""
    return carry_out(plan_quantize(source, outputs), writing, progress=progress)
