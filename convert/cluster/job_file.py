"""A job as a file, `plan.bin`: a line that says what it is, a line about it in JSON, then `pickled`."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from convert.cluster.job import Job
from convert.cluster.pickled import dumps, loads
from convert.errors import OutputError, PlanError, Remedy

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC: Final = b"convert plan\n"


def write_job(job: Job, path: Path) -> None:
    """Write a job to a file, whole or not at all. Raises OutputError, also where something else is there."""
    data = dumps(job).data
    about = {"version": version("gguf-convert"), "nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.exists() and not _is_job_file(path):
            raise OutputError(f"`{path}` is there already, and no plan", hint="only a plan is ever replaced")
        partial.write_bytes(_MAGIC + json.dumps(about).encode() + b"\n" + data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"`{path}` cannot be written: {error.strerror}") from error


def _is_job_file(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_job(path: Path) -> Job:
    """Read a job's file; a plan says what is read and written: take one only from whom you trust with your files.

    Raises PlanError for a file that is none, is damaged, or was made by another version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"`{path}` cannot be read: {error.strerror}") from error
    if not data.startswith(_MAGIC):
        raise PlanError(f"`{path}` is no plan", remedies=(Remedy.PLAN_AGAIN,))
    line, _, pickled = data[len(_MAGIC) :].partition(b"\n")
    try:
        about = json.loads(line)
        made_by, digest = about["version"], about["sha256"]
    except (ValueError, KeyError, TypeError):
        made_by = digest = None
    if made_by is not None and made_by != version("gguf-convert"):
        raise PlanError(
            f"`{path}` was made by version {made_by}, this is {version('gguf-convert')}",
            hint="every machine needs the same version",
            remedies=(Remedy.PLAN_AGAIN,),
        )
    if digest != hashlib.sha256(pickled).hexdigest():
        raise PlanError(f"`{path}` is damaged, or not all of it is there", remedies=(Remedy.PLAN_AGAIN,))
    job = loads(pickled)
    if not isinstance(job, Job):
        raise PlanError(f"`{path}` holds no plan", remedies=(Remedy.PLAN_AGAIN,))
    return job
