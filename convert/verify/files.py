"""Verify files: all checks, in order, each on a file that is opened again."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from convert.errors import CheckpointError, UnsupportedError
from convert.gguf_file import as_one, part_of, read_gguf, read_parts
from convert.gguf_file.mistaken import no_file
from convert.importance import is_importance
from convert.model import ModelRequest, open_model
from convert.remote import located
from convert.shown import shown
from convert.verify.against import Comparison, wanted_model
from convert.verify.blocks import check_blocks
from convert.verify.chat_template import check_chat_template
from convert.verify.data import Finding, Severity, TensorError, Verification, VerifiedFile, note, problem
from convert.verify.metadata import check_metadata
from convert.verify.reading import open_file
from convert.verify.running import measure_all
from convert.verify.second_way import SecondWay, open_second_way
from convert.verify.structure import check_structure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convert.gguf_file import GGUFFile
    from convert.model import GGUFModel
    from convert.verify.reading import OpenFile
    from convert.verify.running import Measuring


def verify_files(
    paths: Sequence[Path],
    *,
    against: Path | ModelRequest | None = None,
    measuring: Measuring | None = None,
    wanted: GGUFModel | None = None,
) -> Verification:
    """Open files again and check everything that can be checked.

    paths: of a split model, its first part stands for all; a later one is passed over where that is named too.
    against: the checkpoint (or float GGUF file) that they were made of; every tensor is compared with its values.
    measuring: what llama.cpp is to run, and with which programs; None: nothing. wanted: what `against` becomes, by
    whichever definition; None: by ours.
    Findings are in the result, and raise nothing: `Verification.check` does.
    Raises CheckpointError for a path that is no file, and what planning `against` raises.
    """
    for path in paths:
        if not path.is_file():
            raise no_file(path)
    request = None if against is None else _request(against)
    if wanted is None and request is not None:
        wanted = wanted_model(request)
    judge, notes = _second_judge(request)
    files = tuple(_verify(path, wanted, judge, notes) for path in _without_later_parts(paths))
    return Verification(files if measuring is None else _measured(files, measuring))


def _request(against: Path | ModelRequest) -> ModelRequest:
    return against if isinstance(against, ModelRequest) else ModelRequest(Path(located(against)))


def _without_later_parts(paths: Sequence[Path]) -> list[Path]:
    """Leave parts out whose first is there: `*.gguf` names them all."""
    first = {path: path.with_name(re.sub(r"-\d{5}(-of-\d{5}\.gguf)$", r"-00001\1", path.name)) for path in paths}
    return [path for path in paths if first[path] == path or first[path] not in paths]


def _second_judge(request: ModelRequest | None) -> tuple[SecondWay | None, tuple[Finding, ...]]:
    if request is None or request.path.suffix == ".gguf":
        return None, ()
    try:
        return open_second_way(open_model(request)), ()
    except UnsupportedError as error:
        return None, (note("second way", error.message),)


def _verify(path: Path, wanted: GGUFModel | None, judge: SecondWay | None, notes: tuple[Finding, ...]) -> VerifiedFile:
    try:
        parts = read_parts(path)
    except (CheckpointError, UnsupportedError) as error:
        return VerifiedFile(path, path.stat().st_size, (problem("header", error.message),))
    header = as_one(parts)
    if is_importance(header):
        return VerifiedFile(path, header.nbytes, (note("importance", "it is an importance matrix, and no model"),))
    said = (note("split", f"it is in {len(parts)} parts, which are checked together"),) if len(parts) > 1 else ()
    with open_file(*parts) as file:
        findings, errors = _findings(header, file, wanted)
        findings = [*chain.from_iterable(map(_of_one_file, parts)), *findings]
        is_wrong = any(finding.severity is Severity.PROBLEM for finding in findings)
        more = () if judge is None or is_wrong else tuple(judge.check(header, file))
    return VerifiedFile(path, header.nbytes, (*findings, *more, *said, *notes), tuple(errors))


def _of_one_file(header: GGUFFile) -> list[Finding]:
    """Check how things lie in a file, or in one part of a model; in the latter case findings say in which."""
    with open_file(header) as file:
        findings = [*check_structure(header, file), *check_blocks(header, file)]
    where = "" if part_of(header) is None else f"in {shown(header.path.name)}, "
    return [replace(finding, message=where + finding.message) for finding in findings]


def _findings(header: GGUFFile, file: OpenFile, wanted: GGUFModel | None) -> tuple[list[Finding], list[TensorError]]:
    findings = [*check_metadata(header), *check_chat_template(header.metadata)]
    if wanted is None:
        return findings, []
    comparison = Comparison(header, file, wanted)
    comparison.compare()
    return findings + comparison.findings, comparison.errors


def _measured(files: tuple[VerifiedFile, ...], measuring: Measuring) -> tuple[VerifiedFile, ...]:
    """Run the sound ones: what is broken on paper is not given to another program."""
    sound = [file.path for file in files if not file.problems and not is_importance(read_gguf(file.path))]
    results = measure_all(sound, measuring)
    return tuple(
        file
        if (result := results.get(file.path)) is None
        else replace(file, measured=result.measured, findings=file.findings + result.findings)
        for file in files
    )
