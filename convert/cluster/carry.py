"""One machine's share of a job: its units, one after the other, each on as many threads as it may use."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from convert.checkpoint import SourceFiles
from convert.cluster.job import check_sources
from convert.cluster.pieces import open_piece, record, units_to_do
from convert.cluster.units import nbytes_of, outputs_of, slices_of
from convert.errors import OutputError, Remedy, UsageError
from convert.process import usable_processors
from convert.remote import StoppedError
from convert.stream.encode import SliceEncoder
from convert.stream.publish import DifferenceError, ExistingFile, open_existing
from convert.stream.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convert.cluster.job import Job
    from convert.cluster.pieces import PieceFile
    from convert.cluster.units import Unit
    from convert.stream import Progress


def share(job: Job, part: int, of: int) -> tuple[Unit, ...]:
    """Return the units of one worker of several, `part` counting from 1: every so manieth."""
    if not 1 <= part <= of:
        raise UsageError(f"part {part} of {of}: parts count from 1 to {of}")
    return job.units[part - 1 :: of]


def carry_out_units(
    job: Job, units: Sequence[Unit], *, jobs: int | None = None, progress: Progress | None = None
) -> None:
    """Carry out units, those without what is done already; `progress` is called with the bytes written since.

    Raises CheckpointError, also for a file that has changed; WeightsError, which names the tensor; OutputError. What
    was done by then stays done.
    """
    progress = progress or (lambda _: None)
    check_sources(job)
    to_do = {unit.number for unit in units_to_do(job)}
    for unit in units:
        if unit.number in to_do:
            _carry_out(job, unit, jobs=jobs or usable_processors(), progress=progress)
        else:
            progress(nbytes_of(job.plan, unit))


def _carry_out(job: Job, unit: Unit, *, jobs: int, progress: Progress) -> None:
    started = time.monotonic()
    with ExitStack() as opened:
        sources = opened.enter_context(closing(SourceFiles()))
        files: dict[int, PieceFile | ExistingFile] = {}
        for index in sorted(outputs_of(job.plan.tasks[unit.tasks[0]])):
            is_made = index in job.to_make
            files[index] = open_piece(job, index) if is_made else open_existing(index, job.plan.outputs[index])
            opened.callback(files[index].close)
        try:
            _encode(job, unit, sources, files, jobs=jobs, progress=progress)
        except DifferenceError as difference:
            raise OutputError(
                f"`{job.plan.outputs[difference.index].path}` already there, and not what this run would make",
                remedies=(Remedy.FORCE, Remedy.OTHER_PLACE),
            ) from None
        for file in files.values():
            if not isinstance(file, ExistingFile):
                file.flush()
    record(job, unit, seconds=time.monotonic() - started)


def _encode(
    job: Job,
    unit: Unit,
    sources: SourceFiles,
    files: dict[int, PieceFile | ExistingFile],
    *,
    jobs: int,
    progress: Progress,
) -> None:
    slices, lock, workers = slices_of(job.plan, unit), threading.Lock(), Workers()
    tasks = [job.plan.tasks[index] for index in unit.tasks]
    if unit.rows is None:  # else what is fetched ahead would be the whole tensor
        sources.expect(task.tensor for task in tasks)

    def encode() -> None:
        encoder = SliceEncoder(tasks, sources, allow_nonfinite=job.allow_nonfinite)
        try:
            while not workers.stop.is_set():
                with lock:
                    piece = next(slices, None)
                if piece is None:
                    return
                progress(encoder.carry(piece, files))
        except StoppedError:
            return  # who stopped the reading says why
        except BaseException:
            sources.stop()  # the others may wait for a network
            raise

    def stop() -> None:
        workers.stop.set()
        sources.stop()

    workers.run(jobs, encode, on_interruption=stop)
    sources.check()
