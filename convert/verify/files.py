"""Verify files: all checks, in order, each on a file that is opened again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from convert.errors import CheckpointError, UnsupportedError
from convert.gguf_file import read_gguf
from convert.model import ModelRequest
from convert.verify.against import Comparison, wanted_model
from convert.verify.blocks import check_blocks
from convert.verify.chat_template import check_chat_template
from convert.verify.data import Finding, TensorError, Verification, VerifiedFile, problem
from convert.verify.metadata import check_metadata
from convert.verify.reading import open_file
from convert.verify.running import measure_all
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
) -> Verification:
    """Open files again and check everything that can be checked.

    against: the checkpoint (or float GGUF file) that they were made of; every tensor is compared with its values.
    measuring: what llama.cpp is to run, and with which programs; None: nothing.
    Findings are in the result, and raise nothing: `Verification.check` does.
    Raises CheckpointError for a path that is no file, and what planning `against` raises.
    """
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"`{path}` is not a file")
    wanted = None if against is None else wanted_model(_request(against))
    files = tuple(_verify(path, wanted) for path in paths)
    return Verification(files if measuring is None else _measured(files, measuring))


def _request(against: Path | ModelRequest) -> ModelRequest:
    return against if isinstance(against, ModelRequest) else ModelRequest(against)


def _verify(path: Path, wanted: GGUFModel | None) -> VerifiedFile:
    nbytes = path.stat().st_size
    try:
        header = read_gguf(path)
    except (CheckpointError, UnsupportedError) as error:
        return VerifiedFile(path, nbytes, (problem("header", error.message),))
    with open_file(path) as file:
        findings, errors = _findings(header, file, wanted)
    return VerifiedFile(path, nbytes, tuple(findings), tuple(errors))


def _findings(header: GGUFFile, file: OpenFile, wanted: GGUFModel | None) -> tuple[list[Finding], list[TensorError]]:
    findings = [
        *check_structure(header, file),
        *check_metadata(header),
        *check_chat_template(header.metadata),
        *check_blocks(header, file),
    ]
    if wanted is None:
        return findings, []
    comparison = Comparison(header, file, wanted)
    comparison.compare()
    return findings + comparison.findings, comparison.errors


def _measured(files: tuple[VerifiedFile, ...], measuring: Measuring) -> tuple[VerifiedFile, ...]:
    """Run the sound ones: what is broken on paper is not given to another program."""
    results = measure_all([file.path for file in files if not file.problems], measuring)
    return tuple(
        file
        if (result := results.get(file.path)) is None
        else replace(file, measured=result.measured, findings=file.findings + result.findings)
        for file in files
    )
