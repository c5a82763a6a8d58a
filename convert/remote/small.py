"""Many small ranges, brought together before they are asked for one by one: what packed weights say of themselves."""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from convert.remote.remote_file import in_parallel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convert.remote.remote_file import RemoteFile

MAX_SMALL_NBYTES: Final = 64 << 10
_MAX_GAP: Final = 32 << 10  # a request costs more
_MAX_RUN: Final = 1 << 20
_MAX_NBYTES: Final = 64 << 20  # of all that is kept

_Run = tuple[int, bytes]  # where it begins, what is there


class _Brought:
    """What has been brought of each file, sorted; for as long as the process lives."""

    def __init__(self) -> None:
        self._runs: dict[str, list[_Run]] = {}
        self._nbytes = 0
        self._lock = threading.Lock()

    def add(self, file: RemoteFile, runs: list[_Run]) -> None:
        with self._lock:
            nbytes = sum(len(data) for _, data in runs)
            if self._nbytes + nbytes > _MAX_NBYTES:
                self._runs, self._nbytes = {}, 0
            self._runs[file.address] = sorted([*self._runs.get(file.address, []), *runs])
            self._nbytes += nbytes

    def find(self, file: RemoteFile, position: int, nbytes: int) -> bytes | None:
        runs = self._runs.get(file.address, [])
        index = bisect_right(runs, position, key=lambda run: run[0])
        if index == 0:
            return None
        start, data = runs[index - 1]
        found = data[position - start :][:nbytes]
        return found if len(found) == nbytes else None


_BROUGHT: Final = _Brought()


def bring_small(file: RemoteFile, ranges: Iterable[tuple[int, int]]) -> None:
    """Bring those ranges (position, length) of a file that are small, several at a time."""
    wanted = (each for each in ranges if 0 < each[1] <= MAX_SMALL_NBYTES and brought(file, *each) is None)
    _BROUGHT.add(file, in_parallel(lambda run: _read(file, run), _joined(sorted(wanted))))


def brought(file: RemoteFile, position: int, nbytes: int) -> bytes | None:
    """Return a range, if it has been brought."""
    return _BROUGHT.find(file, position, nbytes)


def _read(file: RemoteFile, run: tuple[int, int]) -> _Run:
    out = bytearray(run[1] - run[0])
    file.read_into(run[0], memoryview(out))
    return run[0], bytes(out)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join neighbours: (begin, end) of each run."""
    runs: list[tuple[int, int]] = []
    for start, nbytes in ranges:
        if runs and start - runs[-1][1] <= _MAX_GAP and start + nbytes - runs[-1][0] <= _MAX_RUN:
            runs[-1] = (runs[-1][0], max(runs[-1][1], start + nbytes))
        else:
            runs.append((start, start + nbytes))
    return runs
