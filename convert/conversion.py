"""What the commands do, as functions: plan, then carry out.

Every function here that writes has a `plan_…` twin that decides everything and writes nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.adapter import MergeRequest, parse_merge
from convert.checkpoint.index import cached_name
from convert.errors import Remedy, UsageError
from convert.model import ModelRequest, gguf_model, read_gguf_model
from convert.plan import Plan, plan
from convert.quant_mix import FILE_TYPES, NO_OPTIONS, FileType, QuantizeOptions, find_file_types, in_words
from convert.stream import Progress, Report, carry_out

if TYPE_CHECKING:
    from collections.abc import Iterable

PathLike = str | os.PathLike[str]
Merge = str | os.PathLike[str] | MergeRequest

DEFAULT_TYPES: Final = tuple(FILE_TYPES[name] for name in ("F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))
QUANTIZED_TYPES: Final = tuple(kind for kind in DEFAULT_TYPES if kind.is_quantized)


def parse_types(text: str | Iterable[str | FileType]) -> tuple[FileType, ...]:
    """Read types such as `"f16,q8_0"` or `["f16", "q8_0"]`, in any case, without repeats; also `all` and `standard`.

    Raises UsageError that says what is nearest, or lists the known types.
    """
    names = text.split(",") if isinstance(text, str) else text
    found = ((name,) if isinstance(name, FileType) else find_file_types(name) for name in names)
    types = tuple(dict.fromkeys(chain.from_iterable(found)))
    if not types:
        raise UsageError("no output type is left", hint=f"known are {in_words(FILE_TYPES.values())}")
    return types


def merge_requests(merge: Merge | Iterable[Merge]) -> tuple[MergeRequest, ...]:
    """Read adapters to merge, such as `"./adapter"`, `["A:0.7", "B"]`, or paths; only a string can carry a weight.

    Raises UsageError for a weight that is not finite.
    """
    listed = [merge] if isinstance(merge, (str, os.PathLike, MergeRequest)) else merge
    return tuple(map(_merge_request, listed))


def model_request(
    model: PathLike, *, merge: Merge | Iterable[Merge] = (), pre_tokenizer: str | None = None
) -> ModelRequest:
    """Say which model is meant; see `plan_all` for the arguments."""
    return ModelRequest(_absolute(model), merge_requests(merge), pre_tokenizer)


def _merge_request(merge: Merge) -> MergeRequest:
    if isinstance(merge, MergeRequest):
        request = merge
    else:
        request = parse_merge(merge) if isinstance(merge, str) else MergeRequest(Path(merge))
    return replace(request, path=_absolute(request.path))


def plan_all(
    model: PathLike,
    outdir: PathLike,
    *,
    types: str | Iterable[str | FileType] = DEFAULT_TYPES,
    name: str | None = None,
    discard_f16: bool = False,
    pre_tokenizer: str | None = None,
    merge: Merge | Iterable[Merge] = (),
    options: QuantizeOptions = NO_OPTIONS,
) -> Plan:
    """Plan `OUTDIR/NAME-TYPE.gguf` for each type of a checkpoint.

    model: a directory as transformers saves it, or a weight file beside its `config.json`; or an adapter as peft saves
    it, whose base is then looked for. merge: adapters to merge, in order, such as `"ADAPTER"` or `"ADAPTER:0.7"`.
    name: the files' base name, by default the directory's, or the repository's of a model in the Hub's cache.
    discard_f16: leave the F16 file out.
    pre_tokenizer: what `tokenizer.ggml.pre` is to be, where it is not recognised.
    options: of the quantized files, as `quantize_options` reads them.
    Raises UsageError, CheckpointError, UnsupportedError or PlanError; nothing is written.
    """
    chosen = parse_types(types)
    if discard_f16:
        chosen = parse_types(kind for kind in chosen if kind is not FILE_TYPES["F16"])
    directory = model_directory(model)
    cached = (cached_name(directory) or "").rpartition("/")[2]  # not the commit that a snapshot is called after
    base = _checked_name(cached or directory.name if name is None else name)
    paths = {kind: Path(outdir) / f"{base}-{kind.name}.gguf" for kind in chosen}
    return plan(gguf_model(model_request(model, merge=merge, pre_tokenizer=pre_tokenizer)), paths, options)


def plan_one(
    model: PathLike,
    out: PathLike,
    *,
    type: str | FileType = "f16",
    pre_tokenizer: str | None = None,
    merge: Merge | Iterable[Merge] = (),
    options: QuantizeOptions = NO_OPTIONS,
) -> Plan:
    """Plan one GGUF file of a checkpoint, at the path given; see `plan_all`."""
    kind = _one_type(type)
    request = model_request(model, merge=merge, pre_tokenizer=pre_tokenizer)
    return plan(gguf_model(request), {kind: Path(out)}, options)


def plan_quantize(
    source: PathLike,
    outdir: PathLike,
    *,
    types: str | Iterable[str | FileType] = QUANTIZED_TYPES,
    name: str | None = None,
    options: QuantizeOptions = NO_OPTIONS,
) -> Plan:
    """Plan `OUTDIR/NAME-TYPE.gguf` for each type of a float GGUF file.

    source: an F32, F16 or BF16 GGUF. name: by default the file's, without its type.
    Raises UsageError, CheckpointError, UnsupportedError or PlanError; nothing is written.
    """
    path = Path(source)
    paths = {kind: quantized_path(path, outdir, kind.name, name=name) for kind in parse_types(types)}
    for out in paths.values():
        if out.exists() and path.exists() and out.samefile(path):
            raise UsageError(f"the output `{out}` is the input itself", remedies=(Remedy.OTHER_PLACE,))
    return plan(read_gguf_model(path), paths, options)


def quantized_path(source: PathLike, outdir: PathLike, kind: str, *, name: str | None = None) -> Path:
    """Name the file that a GGUF becomes in another type: `OUTDIR/NAME-TYPE.gguf`, by default the source's own name."""
    stem = re.sub(r"[-._](f32|f16|bf16|fp16|fp32)$", "", Path(source).stem, flags=re.IGNORECASE)
    return Path(outdir) / f"{_checked_name(stem if name is None else name)}-{kind}.gguf"


def convert_all(  # noqa: PLR0913 - as many options as the command has
    model: PathLike,
    outdir: PathLike,
    *,
    types: str | Iterable[str | FileType] = DEFAULT_TYPES,
    name: str | None = None,
    discard_f16: bool = False,
    pre_tokenizer: str | None = None,
    merge: Merge | Iterable[Merge] = (),
    options: QuantizeOptions = NO_OPTIONS,
    force: bool = False,
    jobs: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Convert a checkpoint to GGUF files of several types in one read; see `plan_all` and `carry_out`."""
    planned = plan_all(
        model,
        outdir,
        types=types,
        name=name,
        discard_f16=discard_f16,
        pre_tokenizer=pre_tokenizer,
        merge=merge,
        options=options,
    )
    return carry_out(planned, force=force, jobs=jobs, allow_nonfinite=allow_nonfinite, progress=progress)


def convert_one(
    model: PathLike,
    out: PathLike,
    *,
    type: str | FileType = "f16",
    pre_tokenizer: str | None = None,
    merge: Merge | Iterable[Merge] = (),
    options: QuantizeOptions = NO_OPTIONS,
    force: bool = False,
    jobs: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Convert a checkpoint to one GGUF file; see `plan_one` and `carry_out`."""
    planned = plan_one(model, out, type=type, pre_tokenizer=pre_tokenizer, merge=merge, options=options)
    return carry_out(planned, force=force, jobs=jobs, allow_nonfinite=allow_nonfinite, progress=progress)


def quantize(
    source: PathLike,
    outdir: PathLike,
    *,
    types: str | Iterable[str | FileType] = QUANTIZED_TYPES,
    name: str | None = None,
    options: QuantizeOptions = NO_OPTIONS,
    force: bool = False,
    jobs: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Quantize a float GGUF file to several types in one read; see `plan_quantize` and `carry_out`."""
    planned = plan_quantize(source, outdir, types=types, name=name, options=options)
    return carry_out(planned, force=force, jobs=jobs, allow_nonfinite=allow_nonfinite, progress=progress)


def model_directory(model: PathLike) -> Path:
    """Return the directory of a model given as a directory or as a weight file in it; links are kept."""
    path = _absolute(model)
    return path.parent if path.is_file() else path


def _absolute(path: PathLike) -> Path:
    # Not resolved: the directory's own name goes into the metadata, not that of a link's target.
    return Path(os.path.abspath(path))


def _one_type(kind: str | FileType) -> FileType:
    found = parse_types([kind])
    if len(found) != 1:
        raise UsageError(f"`{kind}` is {len(found)} types, and one file is to be made")
    return found[0]


def _checked_name(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise UsageError(f"`{name}` cannot be the base name of files", remedies=(Remedy.GIVE_NAME,))
    return name
