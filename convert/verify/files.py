"""Verify files: all checks, in order, each on a file that is opened again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from convert.errors import CheckpointError, UnsupportedError
from convert.gguf_file import part_of, read_gguf
from convert.gguf_file.mistaken import no_file
from convert.importance import is_importance
from convert.model import ModelRequest, open_model
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
    from pathlib import Path

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
    files = tuple(_verify(path, wanted, judge, notes) for path in paths)
    return Verification(files if measuring is None else _measured(files, measuring))


def _request(against: Path | ModelRequest) -> ModelRequest:
    return against if isinstance(against, ModelRequest) else ModelRequest(against)


def _second_judge(request: ModelRequest | None) -> tuple[SecondWay | None, tuple[Finding, ...]]:
    if request is None or request.path.suffix == ".gguf":
        return None, ()
    try:
        return open_second_way(open_model(request)), ()
    except UnsupportedError as error:
        return None, (note("second way", error.message),)


def _verify(path: Path, wanted: GGUFModel | None, judge: SecondWay | None, notes: tuple[Finding, ...]) -> VerifiedFile:
    nbytes = path.stat().st_size
    try:
        header = read_gguf(path)
    except (CheckpointError, UnsupportedError) as error:
        return VerifiedFile(path, nbytes, (problem("header", error.message),))
    if is_importance(header):
        return VerifiedFile(path, nbytes, (note("importance", "it is an importance matrix, and no model"),))
    with open_file(path) as file:
        findings, errors = _findings(header, file, wanted)
        is_wrong = any(finding.severity is Severity.PROBLEM for finding in findings)
        more = () if judge is None or is_wrong or part_of(header) is not None else tuple(judge.check(header, file))
    return VerifiedFile(path, nbytes, (*findings, *more, *notes), tuple(errors))


def _findings(header: GGUFFile, file: OpenFile, wanted: GGUFModel | None) -> tuple[list[Finding], list[TensorError]]:
    structure, blocks = check_structure(header, file), check_blocks(header, file)
    if (part := part_of(header)) is not None:
        said = f"it is {part}: only its own bytes are checked; `llama-gguf-split --merge` makes a whole file"
        return [*structure, *blocks, note("split", said)], []
    findings = [*structure, *check_metadata(header), *check_chat_template(header.metadata), *blocks]
    if wanted is None:
        return findings, []
    comparison = Comparison(header, file, wanted)
    comparison.compare()
    return findings + comparison.findings, comparison.errors


def _is_model(header: GGUFFile) -> bool:
    return part_of(header) is None and not is_importance(header)


def _measured(files: tuple[VerifiedFile, ...], measuring: Measuring) -> tuple[VerifiedFile, ...]:
    """Run the sound ones: what is broken on paper is not given to another program."""
    sound = [file.path for file in files if not file.problems and _is_model(read_gguf(file.path))]
    results = measure_all(sound, measuring)
    return tuple(
        file
        if (result := results.get(file.path)) is None
        else replace(file, measured=result.measured, findings=file.findings + result.findings)
        for file in files
    )
