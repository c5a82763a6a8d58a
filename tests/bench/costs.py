"""What a program costs, as the benchmarks measure it: a child of this process, one at a time, and its files.

A child's peak memory, as Linux counts it, begins with that of the process that started it: this one must stay small,
and its own peak is forgotten before each.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLOCK = 1 << 22
_BETWEEN_LOOKS_S = 0.05


@dataclass(frozen=True, slots=True)
class Cost:
    """What a series of programs took.

    wall, user: seconds, and seconds in user mode. peak: resident bytes of the largest. written: bytes of the files that
    it made. disk: bytes on disk at the worst moment.
    """

    wall: float
    user: float
    peak: int
    written: int = 0
    disk: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.wall + other.wall,
            self.user + other.user,
            max(self.peak, other.peak),
            self.written + other.written,
            max(self.disk, other.disk),
        )


def median(costs: Sequence[Cost]) -> Cost:
    """Take the median of each figure."""
    return Cost(*(statistics.median(column) for column in zip(*map(astuple, costs), strict=True)))


def measure(command: Sequence[str | Path], *, into: Path | None = None) -> Cost:
    """Run a program to its end; into: the directory whose growth and size are measured."""
    os.sync()  # what the program before left to be written must not fall on this one
    _forget_peak()
    before = _nbytes(into)
    watch = _DiskWatch(into)
    started = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    most = watch.end()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, [str(part) for part in command])
    return Cost(wall, usage.ru_utime, usage.ru_maxrss * 1024, _nbytes(into) - before, most)


def warm(*paths: Path) -> None:
    """Read files: while one pipeline runs, the system may have dropped what the next one is to find cached."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass


def compare(ours: Path, others: Path, *, what: str) -> None:
    """Print, for each GGUF of a directory, whether another directory has the same bytes."""
    for path in sorted(ours.glob("*.gguf")):
        same = subprocess.run(["cmp", "-s", path, others / path.name], check=False).returncode == 0
        print(f"{path.name}: {'the same bytes' if same else 'DIFFERENT BYTES'} as {what} ({path.stat().st_size})")


class _DiskWatch:
    """Looks at a directory's size, many times a second, until it is told to end."""

    def __init__(self, directory: Path | None) -> None:
        self._directory, self._most, self._ended = directory, 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while self._directory is not None and not self._ended.wait(_BETWEEN_LOOKS_S):
            self._most = max(self._most, _nbytes(self._directory))

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return max(self._most, _nbytes(self._directory))


def _nbytes(directory: Path | None) -> int:
    """Add up the lengths of a directory's files; those that vanish meanwhile count nothing."""
    if directory is None or not directory.is_dir():
        return 0
    return sum(map(_length, directory.rglob("*")))


def _length(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size if path.is_file() else 0
    return 0


def _forget_peak() -> None:
    """Set this process' peak memory to what it has now; proc(5), /proc/PID/clear_refs."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
