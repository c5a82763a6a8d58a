"""From a plan to published files: workers, interruption, and the account of what was done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Final

from convert.checkpoint import SourceFiles
from convert.errors import OutputError, Remedy, UsageError, WeightsError
from convert.process import usable_processors
from convert.remote import StoppedError
from convert.stream.encode import SliceEncoder
from convert.stream.first_pass import with_statistics
from convert.stream.journal import Checkpoints, work_key
from convert.stream.publish import (
    DifferenceError,
    ExistingFile,
    OutputState,
    PartialFile,
    check_open_files,
    check_parts,
    check_room,
    missing_directories,
    open_existing,
    open_partial,
    output_states,
    remove_empty,
    settle,
)
from convert.stream.siblings import remove_abandoned
from convert.stream.slices import Slice, cut
from convert.stream.workers import Workers

if TYPE_CHECKING:
    from pathlib import Path

    from convert.checkpoint import Tensor
    from convert.plan import Output, Plan, Task

_MOST_FLUSHES: Final = 64  # files that are brought to the disk at once

Progress = Callable[[int], None]  # called with the bytes written since the last call, from any thread


@dataclass(frozen=True, slots=True)
class WrittenOutput:
    """What became of one output: `written` is False for a file that was there already, equal to the plan."""

    path: Path
    nbytes: int
    written: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What was done, and how long it took."""

    outputs: tuple[WrittenOutput, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Writing:
    """How a plan is carried out.

    force: make every file anew, and replace what is there. jobs: workers, by default one a processor that may be used.
    allow_nonfinite: NaN, infinity and float16 overflow go into the files instead of ending the work.
    """

    force: bool = False
    jobs: int | None = None
    allow_nonfinite: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for no jobs at all."""
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"the number of jobs is {self.jobs}, wanted at least 1")


def carry_out(
    plan: Plan,
    writing: Writing = Writing(),
    *,
    progress: Progress | None = None,
) -> Report:
    """Make the files that a plan describes; `progress` is called with the bytes written since the last call.

    A file that exists and holds the planned bytes is kept; that is known from comparing all of them.
    A plan whose tensors lack statistics is completed first, which writes nothing and so is no progress.
    Raises OutputError, WeightsError or CheckpointError; then, and when interrupted, nothing is published. What is on
    disk by then is kept, if it took more than a moment, and the same work goes on from there (`journal`).
    """
    started = time.monotonic()
    to_make = outputs_to_make(plan, force=writing.force)
    check_parts(plan.outputs)
    check_open_files(len(plan.outputs))
    remove_abandoned({output.path.parent for output in plan.outputs})
    check_room(list(to_make.values()))
    workers = writing.jobs or usable_processors()
    plan = with_statistics(plan, jobs=workers)
    work = _Work(plan, to_make, allow_nonfinite=writing.allow_nonfinite, progress=progress or (lambda _: None))
    work.run(workers)
    outputs = tuple(
        WrittenOutput(output.path, output.nbytes, index in to_make) for index, output in enumerate(plan.outputs)
    )
    return Report(outputs, time.monotonic() - started)


def outputs_to_make(plan: Plan, *, force: bool) -> dict[int, Output]:
    """Say which outputs are to be written, by their index; the others are there already, as far as headers tell.

    Raises OutputError for a file of another kind, and, unless `force`, for one that is not what the plan says.
    """
    states = output_states(plan)
    for output, state in zip(plan.outputs, states, strict=True):
        if state is OutputState.FOREIGN:
            raise OutputError(
                f"`{output.path}` is there already, and no {output.kind.value}",
                hint=f"only a {output.kind.value} is ever replaced",
                remedies=(Remedy.OTHER_PLACE,),
            )
    others = [output.path for output, state in zip(plan.outputs, states, strict=True) if state is OutputState.OTHER]
    if others and not force:
        raise _differs(others)
    kept = {index for index, state in enumerate(states) if state is OutputState.CANDIDATE and not force}
    return {index: output for index, output in enumerate(plan.outputs) if index not in kept}


def _differs(paths: Sequence[Path]) -> OutputError:
    listed = ", ".join(f"`{path}`" for path in paths)
    return OutputError(
        f"{listed} already there, and not what this run would make",
        remedies=(Remedy.FORCE, Remedy.OTHER_PLACE),
    )


def _outputs(task: Task) -> set[int]:
    return {output for target in task.targets for output, _ in target.places}


class _Work:
    """One run's shared state: the slices still to do, the files under way, the first thing that went wrong.

    Outputs that are to be made are written; the others are there already, and are compared, in the same pass.
    """

    def __init__(self, plan: Plan, to_make: dict[int, Output], *, allow_nonfinite: bool, progress: Progress) -> None:
        self._plan = plan
        self._to_make: Final = to_make
        self._allow_nonfinite = allow_nonfinite
        self._progress = progress
        self._slices: Iterator[tuple[int, Slice]] = enumerate(piece for task in plan.tasks for piece in cut(task))
        self._lock = threading.Lock()
        self._workers = Workers()
        self._written = 0
        self._files: dict[int, PartialFile] = {}
        self._existing: dict[int, ExistingFile] = {}
        self._sources = SourceFiles()
        self._key = cache(lambda: work_key(plan, allow_nonfinite))
        self._checkpoints = Checkpoints(self._files, self._key)

    def run(self, jobs: int) -> None:
        """Do it all; whatever goes wrong, no partial file stays that is not gone on with, nor an empty directory.

        Files are opened and published on threads too: an interruption is raised in the main thread, at any
        instruction, and must not come between a file's creation and the note that it exists.
        """
        sources = self._sources
        to_be_made = missing_directories(self._to_make.values())
        try:
            self._in_parallel(1, self._open_files)
            sources.expect(self._to_read())
            n_slices = sum(1 for task in self._plan.tasks for _ in cut(task))
            with self._checkpoints.running():
                self._in_parallel(min(jobs, n_slices), lambda: self._encode_slices(sources))
            self._checkpoints.check()
            self._check_complete()
            sources.check()
            self._in_parallel(min(len(self._files), _MOST_FLUSHES), self._flush_files(iter(self._files.values())))
            self._in_parallel(1, self._publish_files, on_interruption=lambda: None)
        except DifferenceError as difference:
            self._discard()
            raise _differs([self._plan.outputs[difference.index].path]) from None
        except WeightsError:  # the same again would be the same
            self._discard()
            raise
        except BaseException as error:
            if any(file.journal.is_begun for file in self._files.values()):
                error.keeps_work = True  # type: ignore[attr-defined]  # for whoever tells of it
            raise
        finally:
            for existing in self._existing.values():
                existing.close()
            for file in self._files.values():
                file.close()
            remove_empty(to_be_made)
            sources.close()

    def _discard(self) -> None:
        for file in self._files.values():
            file.discard()

    def _open_files(self) -> None:
        for index, output in enumerate(self._plan.outputs):
            if self._workers.stop.is_set():
                return
            if index in self._to_make:
                self._files[index] = open_partial(output, self._key)
            else:
                self._existing[index] = open_existing(index, output)

    def _publish_files(self) -> None:
        # A model in parts is found by its first: the last to appear, when all others are there.
        try:
            for file in reversed(self._files.values()):
                file.publish()
        except OutputError:
            for file in self._files.values():
                file.withdraw()
            raise
        settle(dict.fromkeys(file.final.parent for file in self._files.values()))

    def _abandon(self) -> None:
        self._workers.stop.set()
        self._sources.stop()
        # At once: each waits for what the system is writing of its own file.
        waiting = [threading.Thread(target=file.abandon, daemon=True) for file in list(self._files.values())]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join()

    def _in_parallel(
        self, n_threads: int, work: Callable[[], None], *, on_interruption: Callable[[], None] | None = None
    ) -> None:
        self._workers.run(n_threads, work, on_interruption=on_interruption or self._abandon)

    def _encode_slices(self, sources: SourceFiles) -> None:
        encoder = SliceEncoder(self._plan.tasks, sources, allow_nonfinite=self._allow_nonfinite)
        files: dict[int, PartialFile | ExistingFile] = {**self._files, **self._existing}
        try:
            while not self._workers.stop.is_set():
                with self._lock:
                    number, piece = next(self._slices, (0, None))
                if piece is None:
                    return
                written = self._carry(number, piece, encoder, files)
                with self._lock:
                    self._written += written
                self._progress(written)
        except StoppedError:
            return  # who stopped the reading says why
        except BaseException:
            self._sources.stop()  # the others may wait for a network
            raise

    def _carry(
        self, number: int, piece: Slice, encoder: SliceEncoder, files: Mapping[int, PartialFile | ExistingFile]
    ) -> int:
        """Carry one slice, unless an earlier run has; the bytes that are in the outputs then."""
        if self._is_done(number, piece.task):
            return sum(piece.nbytes_in(target.type) * len(target.places) for target in piece.task.targets)
        written = encoder.carry(piece, files)
        self._checkpoints.note(number, _outputs(piece.task))
        return written

    def _is_done(self, number: int, task: Task) -> bool:
        """Whether an earlier run has brought a slice to disk, in all outputs; those to compare are never done."""
        files = self._files
        return all(index in files and number in files[index].journal.done for index in _outputs(task))

    def _to_read(self) -> Iterator[Tensor]:
        """Give the tensors of which something is still to be read, in order."""
        numbers = count()
        for task in self._plan.tasks:
            done = [self._is_done(next(numbers), task) for _ in cut(task)]
            if not all(done):
                yield task.tensor

    def _flush_files(self, files: Iterator[PartialFile]) -> Callable[[], None]:
        def flush() -> None:
            while not self._workers.stop.is_set():
                with self._lock:
                    file = next(files, None)
                if file is None:
                    return
                file.flush()

        return flush

    def _check_complete(self) -> None:
        planned = sum(tensor.nbytes for output in self._plan.outputs for tensor in output.tensors)
        assert self._written == planned, f"wrote {self._written} bytes of tensors, planned {planned}"  # noqa: S101
