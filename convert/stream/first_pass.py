"""The first pass: what tensors must know of the whole before they give rows is measured, and put into the plan."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from convert.checkpoint import SourceFiles
from convert.checkpoint.statistics import lacking, replaced
from convert.process import usable_processors
from convert.stream.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from convert.checkpoint.statistics import OfWhole
    from convert.plan import Plan


def with_statistics(plan: Plan, *, jobs: int | None = None) -> Plan:
    """Return a plan whose tensors lack no statistics: itself, or the same after reading what these are made from.

    jobs: workers, by default one a processor that may be used. Each has one portion in memory.
    Raises CheckpointError; an interruption is raised when the workers have stopped.
    """
    tensors = planned = tuple(task.tensor for task in plan.tasks)
    with closing(SourceFiles()) as sources:
        while found := lacking(tensors):
            sources.expect(found)
            workers, measuring = Workers(), _Measuring(found, sources)
            work, stop = partial(measuring.work, workers.stop), partial(_stop, workers, sources)
            workers.run(jobs or usable_processors(), work, on_interruption=stop)
            tensors = replaced(tensors, measuring.known())
    if tensors is planned:
        return plan
    return replace(
        plan, tasks=tuple(replace(task, tensor=tensor) for task, tensor in zip(plan.tasks, tensors, strict=True))
    )


def _stop(workers: Workers, sources: SourceFiles) -> None:
    workers.stop.set()
    sources.stop()


class _Measuring:
    """Parts to measure; workers take portions in order, and what they find is gathered in that order."""

    def __init__(self, parts: Sequence[OfWhole], sources: SourceFiles) -> None:
        self._gathering = [_Gathering(part) for part in parts]
        self._sources = sources
        self._lock = threading.Lock()
        self._portions: Iterator[tuple[_Gathering, int, range]] = (
            (each, index, portion) for each in self._gathering for index, portion in enumerate(each.part.portions())
        )

    def work(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self._lock:
                taken = next(self._portions, None)
            if taken is None:
                return
            each, index, portion = taken
            found = each.part.measure(self._sources, portion)
            with self._lock:
                each.take(index, found)

    def known(self) -> dict[int, OfWhole]:
        return {id(each.part): each.part.with_statistics(each.gathered) for each in self._gathering}


class _Gathering:
    """What is gathered for one part; what comes early waits, and that is little: a measure for each other worker."""

    def __init__(self, part: OfWhole) -> None:
        self.part = part
        self.gathered: list[NDArray[Any]] = []
        self._early: dict[int, NDArray[Any]] = {}
        self._next = 0

    def take(self, index: int, measured: NDArray[Any]) -> None:
        self._early[index] = measured
        while self._next in self._early:
            self.part.gather(self.gathered, self._early.pop(self._next))
            self._next += 1
