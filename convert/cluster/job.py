"""A job: a plan, the units it is cut into, the files it is made from as they were then, and the key of its work."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from convert.cluster.pickled import dumps
from convert.cluster.units import Unit, cut_plan
from convert.errors import CheckpointError, Remedy
from convert.stream import check_room, outputs_to_make, with_statistics
from convert.stream.publish import check_parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from convert.plan import Output, Plan
    from convert.stream import Writing


@dataclass(frozen=True, slots=True)
class Source:
    """A file that tensors, or their importance, are read from: as it was when the job was made."""

    path: Path
    nbytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Job:
    """Plain data, complete: whoever has it can carry out any unit, and nobody computes what another would need.

    to_make: the outputs that are written, by index; the others were there already, and are compared.
    key: of this very work, in the names of files under way.
    """

    plan: Plan
    units: tuple[Unit, ...]
    to_make: frozenset[int]
    sources: tuple[Source, ...]
    force: bool
    allow_nonfinite: bool
    key: str

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs that are written."""
        return tuple(output for index, output in enumerate(self.plan.outputs) if index in self.to_make)


def make_job(plan: Plan, writing: Writing, *, unit_nbytes: int | None = None) -> Job:
    """Cut a plan into units, when it is known that it can be carried out, and statistics of whole tensors are taken.

    unit_nbytes: what a unit writes, about; by default as suits a cluster. Errors as for `stream.carry_out`.
    """
    to_make = outputs_to_make(plan, force=writing.force)
    check_parts(plan.outputs)
    check_room(list(to_make.values()))
    sources = tuple(_sources(plan))
    plan = with_statistics(plan, jobs=writing.jobs)
    units = cut_plan(plan, unit_nbytes)
    job = Job(plan, units, frozenset(to_make), sources, writing.force, writing.allow_nonfinite, "")
    return replace(job, key=_key(job))


def _sources(plan: Plan) -> Iterator[Source]:
    for path in sorted(dumps(plan.tasks).paths):
        stat = path.stat()
        yield Source(path, stat.st_size, stat.st_mtime_ns)


def check_sources(job: Job) -> None:
    """Raise CheckpointError if a file that the job is made from is not what it was."""
    for source in job.sources:
        try:
            stat = source.path.stat()
        except OSError as error:
            raise CheckpointError(
                f"`{source.path}` cannot be read: {error.strerror}",
                hint="every machine needs it under this path",
            ) from error
        if (stat.st_size, stat.st_mtime_ns) != (source.nbytes, source.mtime_ns):
            now = "another time" if stat.st_size == source.nbytes else f"{stat.st_size} bytes"
            raise CheckpointError(
                f"`{source.path}` has changed since the plan was made: it has {now}, planned {source.nbytes} bytes",
                remedies=(Remedy.PLAN_AGAIN,),
            )


def _key(job: Job) -> str:
    """Say which work this is, in 16 letters: the same work makes the same bytes from the same units."""
    digest = hashlib.sha256(repr((version("gguf-convert"), job.allow_nonfinite, job.sources)).encode())
    for output in job.plan.outputs:
        digest.update(repr((output.path.name, output.nbytes)).encode())
        digest.update(output.header)
    for part in (*job.plan.tasks, *job.units):
        digest.update(repr(part).encode())
    return digest.hexdigest()[:16]
