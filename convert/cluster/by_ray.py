"""A job's units as tasks of a Ray cluster, which sends them, and sends them again where a machine or process dies.

Each node needs this package in the same version, and the sources and the outputs' directory under the same paths.
Source: docs.ray.io, Ray Core: tasks, fault tolerance of tasks, ray.cancel.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from convert.cluster.carry import carry_out_units
from convert.cluster.finish import finish
from convert.cluster.pickled import dumps, loads
from convert.cluster.pieces import discard, units_to_do
from convert.cluster.units import nbytes_of, tensors_of
from convert.errors import ClusterError, ConvertError, WeightsError
from convert.stream.publish import missing_directories, remove_empty

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from convert.cluster.job import Job
    from convert.cluster.units import Unit
    from convert.stream import Progress, Report

_MOST_RETRIES: Final = 4  # of one unit, when what it runs on dies
_MOST_PROCESSORS: Final = 8  # for one unit; more units at once share a node
_BETWEEN_LOOKS_S: Final = 0.5
_GRACE_S: Final = 10.0


class _Board:
    """What has been written of each unit: an actor, so that the whole cluster's progress is one number."""

    def __init__(self) -> None:
        self._written: dict[int, int] = {}

    def note(self, number: int, nbytes: int) -> None:
        self._written[number] = nbytes  # one that is done again begins at nothing

    def total(self) -> int:
        return sum(self._written.values())


def carry_out_by_ray(
    job: Job, address: str | None = None, *, jobs: int | None = None, progress: Progress | None = None
) -> Report:
    """Carry out a job's units on a Ray cluster, and publish its files.

    address: the cluster's; by default the one that Ray finds here, else one is made of this machine. jobs: threads, and
    processors, of one unit; by default all of a node's, up to 8.
    Raises what carrying out a unit has raised elsewhere, and ClusterError where Ray is missing or cannot go on. Files
    under way are removed then if the same again would end the same; else, and when interrupted, what is done is kept,
    and the same job goes on from there.
    """
    started, to_be_made = time.monotonic(), missing_directories(job.outputs)
    with _connected(address) as ray:
        try:
            _run(ray, job, jobs or _processors(ray), progress or (lambda _: None))
        except BaseException as error:
            if isinstance(error, WeightsError) or len(units_to_do(job)) == len(job.units):
                discard(job)
                remove_empty(to_be_made)
            else:
                error.keeps_work = True  # type: ignore[attr-defined]  # for whoever tells of it
            raise
    return replace(finish(job), seconds=time.monotonic() - started)


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[ModuleType]:
    """Join a cluster for as long as it is needed, silently; how signals end this process stays as it was."""
    ray = _ray()
    _require_answer(address or os.environ.get("RAY_ADDRESS", ""))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "is found here" if address is None else f"answers at `{address}`"
        raise ClusterError(f"no Ray cluster {where}: {str(error).splitlines()[0]}") from error
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise ClusterError where nothing listens at HOST:PORT, which Ray would find out in minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), _GRACE_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster answers at `{address}`: {error}") from error


def _ray() -> ModuleType:
    try:
        import ray  # noqa: PLC0415 - only the extra brings it
    except ImportError as error:
        raise ClusterError("Ray is not installed", hint="`pip install 'gguf-convert[ray]'`") from error
    module: ModuleType = ray
    return module


def _processors(ray: ModuleType) -> int:
    """Choose how many processors one unit takes: of a node that has the fewest."""
    nodes = (int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return min(_MOST_PROCESSORS, min((count for count in nodes if count), default=1))


def _run(ray: ModuleType, job: Job, n_threads: int, progress: Progress) -> None:
    payload = ray.put(dumps(job).data)
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )
    board = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(_Board).remote()
    task = ray.remote(num_cpus=n_threads, max_retries=_MOST_RETRIES, scheduling_strategy="SPREAD")(_carry_out)
    to_do = units_to_do(job)
    progress(sum(nbytes_of(job.plan, unit) for unit in set(job.units) - set(to_do)))
    pending = {task.remote(payload, unit.number, n_threads, board): unit for unit in to_do}
    shown = 0
    try:
        while pending:
            for done in ray.wait(list(pending), timeout=_BETWEEN_LOOKS_S)[0]:
                _judge(ray, job, done, pending.pop(done))
            total = _total(ray, board)
            progress(max(total - shown, 0))
            shown = max(total, shown)
    finally:
        _cancel(ray, pending)


def _total(ray: ModuleType, board: Any) -> int:  # noqa: ANN401 - an actor
    """Ask the board; one whose node has just died knows nothing yet, and is no reason to end."""
    with contextlib.suppress(ray.exceptions.RayError):
        return int(ray.get(board.total.remote(), timeout=_GRACE_S))
    return 0


def _judge(ray: ModuleType, job: Job, done: Any, unit: Unit) -> None:  # noqa: ANN401 - a reference
    try:
        error = ray.get(done)
    except ray.exceptions.RayTaskError:  # a bug
        raise
    except ray.exceptions.RayError as failure:
        raise ClusterError(
            f"{tensors_of(job.plan, unit)} could not be written: what it ran on died, {_MOST_RETRIES + 1} times",
            hint=str(failure).splitlines()[0],
        ) from failure
    if error is not None:
        raise error


def _cancel(ray: ModuleType, pending: Mapping[Any, Unit]) -> None:
    """End what runs, and wait for that, so that nothing is written any more; asked first, then killed."""
    for is_forced in (False, True):
        for reference in pending:
            ray.cancel(reference, force=is_forced)
        if not pending or not ray.wait(list(pending), num_returns=len(pending), timeout=_GRACE_S)[1]:
            return


def _carry_out(payload: bytes, number: int, n_threads: int, board: Any) -> ConvertError | None:  # noqa: ANN401 - an actor
    """Carry out a unit, on a node; what can go wrong is returned, since Ray would dress it up."""
    job, noting = _job(payload), _Noting(number, board)
    try:
        carry_out_units(job, [job.units[number - 1]], jobs=n_threads, progress=noting)
    except ConvertError as error:
        return error
    noting.tell()
    return None


@lru_cache(maxsize=1)
def _job(payload: bytes) -> Job:
    job: Job = loads(payload)
    return job


class _Noting:
    """Tells the board of a unit's bytes, now and then."""

    def __init__(self, number: int, board: Any) -> None:  # noqa: ANN401 - an actor
        self._number, self._board = number, board
        self._lock = threading.Lock()
        self._written, self._next = 0, time.monotonic()

    def __call__(self, nbytes: int) -> None:
        with self._lock:
            self._written += nbytes
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + _BETWEEN_LOOKS_S
        self.tell()

    def tell(self) -> None:
        self._board.note.remote(self._number, self._written)
