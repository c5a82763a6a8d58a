"""The files under way, which many machines write to, and the records of units that are done.

    .NAME.KEY.partial    what becomes NAME: made by whoever comes first, written at offsets, by all
    .NAME.KEY.units/     beside the first output: a file for each unit, made when its bytes are on disk, everywhere

KEY is the job's: two jobs share nothing, even where they make the same files. There is no lock: not every file system
that machines share has them, and two that do the same unit write the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.cluster.units import outputs_of
from convert.errors import OutputError
from convert.file_system import sync, sync_directory
from convert.stream.journal import Journal
from convert.stream.publish import PartialFile

if TYPE_CHECKING:
    from pathlib import Path

    from convert.cluster.job import Job
    from convert.cluster.units import Unit
    from convert.plan import Output


@dataclass(slots=True)
class PieceFile(PartialFile):
    """A file under way, as one machine writes to it; it stays, whatever comes of that."""

    def close(self) -> None:
        os.close(self.fd)


def open_piece(job: Job, index: int) -> PieceFile:
    """Open what becomes an output; made in its whole length where it is not there, and then no unit of it is done.

    For writing only: a client of NFS that has read a page would write all of it, others' bytes too. Lengthened, never
    reserved: where a file system cannot reserve, the C library writes zeros, and others write there already.
    """
    output = job.plan.outputs[index]
    path = under_way(output, job.key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        if os.fstat(fd).st_size < output.nbytes:
            _forget(job, index)
            os.ftruncate(fd, output.nbytes)
            sync_directory(path.parent)
    except OSError as error:
        raise OutputError(f"`{path}` cannot be written: {error.strerror}") from error
    return PieceFile(output.path, path, fd, Journal(path))  # records are kept instead


def _forget(job: Job, index: int) -> None:
    """Remove records of units that are in a file which is lost; what another machine has just done is done again."""
    for unit in job.units if records(job).is_dir() else ():
        if index in outputs_of(job.plan.tasks[unit.tasks[0]]):
            (records(job) / str(unit.number)).unlink(missing_ok=True)


def under_way(output: Output, key: str) -> Path:
    """Name the hidden file that becomes an output."""
    return output.path.with_name(f".{output.path.name}.{key}.partial")


def records(job: Job) -> Path:
    """Name the directory of a job's records."""
    first = job.plan.outputs[0].path
    return first.with_name(f".{first.name}.{job.key}.units")


def record(job: Job, unit: Unit, *, seconds: float) -> None:
    """Say, for good, that a unit's bytes are on disk."""
    directory, host = records(job), socket.gethostname()
    made = directory / f".{unit.number}.{host}.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with made.open("w", encoding="ascii") as file:
            json.dump({"host": host, "seconds": round(seconds, 3)}, file)
            file.flush()
            sync(file.fileno())
        made.replace(directory / str(unit.number))
        sync_directory(directory)
    except OSError as error:
        raise OutputError(f"`{directory}` cannot be written: {error.strerror}") from error


def units_to_do(job: Job) -> tuple[Unit, ...]:
    """Return the units that have no record, in order; all of a file that is under way no more."""
    directory = records(job)
    done = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    lost = {index for index in job.to_make if not _is_whole(job.plan.outputs[index], job.key)}

    def is_done(unit: Unit) -> bool:
        return str(unit.number) in done and not lost & outputs_of(job.plan.tasks[unit.tasks[0]])

    return tuple(unit for unit in job.units if not is_done(unit))


def _is_whole(output: Output, key: str) -> bool:
    try:
        return under_way(output, key).stat().st_size == output.nbytes
    except FileNotFoundError:
        return False


def discard(job: Job) -> None:
    """Remove the files under way, after their records; what another machine writes then goes nowhere."""
    shutil.rmtree(records(job), ignore_errors=True)
    for output in job.outputs:
        with contextlib.suppress(OSError):
            under_way(output, job.key).unlink()
