"""A job: a plan, the units it is cut into, the files it is made from as they were then, and the key of its work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.cluster.pickled import dumps
from convert.cluster.units import Unit, cut_plan
from convert.errors import CheckpointError, PlanError, Remedy
from convert.remote.stand_in import StandIn, read_stand_in, root
from convert.stream import check_room, outputs_to_make, with_statistics
from convert.stream.journal import work_key
from convert.stream.publish import check_parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from convert.plan import Output, Plan
    from convert.stream import Writing

_KEY_LENGTH: Final = 16  # of 64 letters: enough in a file's name


@dataclass(frozen=True, slots=True)
class Source:
    """A file that tensors, or their importance, are read from: as it was when the job was made.

    stand_in: of a file whose bytes are elsewhere.
    """

    path: Path
    nbytes: int
    mtime_ns: int
    stand_in: StandIn | None


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
    sources, units = tuple(_sources(plan)), cut_plan(plan, unit_nbytes)
    key = work_key(plan, (writing.allow_nonfinite, units, sorted(to_make)))[:_KEY_LENGTH]
    plan = with_statistics(plan, jobs=writing.jobs)
    return Job(plan, units, frozenset(to_make), sources, writing.force, writing.allow_nonfinite, key)


def _sources(plan: Plan) -> Iterator[Source]:
    for path in sorted(dumps(plan.tasks).paths):
        stat = path.stat()
        yield Source(path, stat.st_size, stat.st_mtime_ns, read_stand_in(path))


def check_sources(job: Job) -> None:
    """Raise CheckpointError if a file that the job is made from is not what it was.

    Of files that are elsewhere, the stand-ins come with the job; whether the bytes are still theirs, reading them says.
    """
    for source in job.sources:
        if source.stand_in is not None:
            _bring(source.path, source.stand_in)
            continue
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


def _bring(path: Path, stand_in: StandIn) -> None:
    """Have a stand-in here too, where another machine made it."""
    if ".." in path.parts or not path.is_relative_to(root()):
        raise PlanError(f"`{path}` is no place for what stands for a file elsewhere")
    if read_stand_in(path) is not None:
        return
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        stand_in.write(made)
        made.replace(path)
    except OSError as error:
        raise CheckpointError(f"`{path}` cannot be written: {error.strerror}") from error
