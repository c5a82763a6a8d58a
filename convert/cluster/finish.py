"""The end of a job: every unit has its record, so all files appear under their final names together."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from convert.cluster.job import check_sources
from convert.cluster.pieces import open_piece, records, under_way, units_to_do
from convert.cluster.units import tensors_of
from convert.errors import OutputError, Remedy
from convert.file_system import sync_directory
from convert.stream import OutputState, Report, WrittenOutput, output_states, outputs_to_make
from convert.stream.publish import settle

if TYPE_CHECKING:
    from convert.cluster.job import Job

_MOST_NAMED: Final = 4


def finish(job: Job) -> Report:
    """Write the headers, and publish the files that the units have filled; a call that was cut short is gone on with.

    Raises OutputError where units are not done, or something else is under a final name by now; CheckpointError where a
    source has changed meanwhile. Then nothing is published.
    """
    started = time.monotonic()
    is_there = _is_there(job)
    if not is_there:
        _publish(job)
    outputs = (
        WrittenOutput(output.path, output.nbytes, index in job.to_make and not is_there)
        for index, output in enumerate(job.plan.outputs)
    )
    return Report(tuple(outputs), time.monotonic() - started)


def _is_there(job: Job) -> bool:
    """Whether an earlier call has done it all."""
    is_begun = job.force or records(job).exists() or any(under_way(each, job.key).exists() for each in job.outputs)
    return not is_begun and set(output_states(job.plan)) == {OutputState.CANDIDATE}


def _publish(job: Job) -> None:
    complete = records(job) / "complete"  # from here on, files without a sibling are published
    if not complete.exists():
        check_sources(job)
        _require_done(job)
        outputs_to_make(job.plan, force=job.force)
        for index in sorted(job.to_make):
            output = job.plan.outputs[index]
            with closing(open_piece(job, index)) as file:
                if os.fstat(file.fd).st_size != output.nbytes:
                    raise OutputError(f"`{file.partial}` is not as long as it was made")
                file.write(memoryview(output.header), 0)
                file.flush()
    try:
        complete.parent.mkdir(exist_ok=True)  # there is none where there are no units
        complete.touch()
        sync_directory(complete.parent)
        # A model in parts is found by its first: the last to appear, when all others are there.
        for output in reversed(job.outputs):
            if (partial := under_way(output, job.key)).exists():
                partial.replace(output.path)
    except OSError as error:
        raise OutputError(f"`{error.filename}` cannot be published: {error.strerror}") from error
    settle(dict.fromkeys(output.path.parent for output in job.outputs))
    shutil.rmtree(complete.parent, ignore_errors=True)


def _require_done(job: Job) -> None:
    if missing := units_to_do(job):
        listed = ", ".join(tensors_of(job.plan, unit) for unit in missing[:_MOST_NAMED])
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise OutputError(
            f"{len(missing)} of {len(job.units)} units are not done: {listed}{more}",
            remedies=(Remedy.CARRY_OUT_UNITS,),
        )
