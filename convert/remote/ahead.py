"""Reading ahead: the ranges that a run is going to need, in order, several in flight, in bounded memory.

    expected   ├─ piece ─┤├─ piece ─┤├─ piece ─┤├─ piece ─┤ …     each range cut at PIECE_NBYTES, neighbours joined
                 kept       wanted now  come early  in flight

What has come and was not asked for yet is at most AHEAD_NBYTES. What was asked for in part is kept, KEPT_NBYTES of it,
since a packed weight is read in windows of columns; of what was given whole, READ_NBYTES. So memory is at most the
three together, 240 MB, and one piece for each reader who asks for what has not been fetched yet; that he fetches.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Final

from convert.remote.remote_file import N_CONNECTIONS, StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from convert.remote.remote_file import RemoteFile

PIECE_NBYTES: Final = 8 << 20
AHEAD_NBYTES: Final = 128 << 20
KEPT_NBYTES: Final = 96 << 20
READ_NBYTES: Final = 16 << 20


class _Piece:
    """Part of a file: on its way once `taken`, here once `come`; then it has data, or what went wrong."""

    __slots__ = ("come", "data", "end", "failure", "file", "given", "start", "taken", "wanted")

    def __init__(self, file: RemoteFile, start: int, end: int) -> None:
        self.file, self.start, self.end = file, start, end
        self.forget()

    def forget(self) -> None:
        self.taken = self.wanted = False
        self.given = 0  # bytes
        self.come = threading.Event()
        self.data: bytearray | None = None
        self.failure: BaseException | None = None

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    def fetch(self, stop: threading.Event) -> None:
        try:
            data = bytearray(self.nbytes)
            self.file.read_into(self.start, memoryview(data), stop)
            self.data = data
        except BaseException as error:  # noqa: BLE001 - raised where the bytes are wanted
            self.failure = error
        self.come.set()


class _Recent:
    """Pieces by when they were used last; the others are forgotten, but for those that are still on their way."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._pieces: OrderedDict[_Piece, None] = OrderedDict()
        self._nbytes = 0

    def add(self, piece: _Piece) -> None:
        self.remove(piece)
        self._pieces[piece] = None
        self._nbytes += piece.nbytes
        while self._nbytes > self._limit() and (old := next(iter(self._pieces))).come.is_set() and old is not piece:
            self.remove(old)
            old.forget()

    def remove(self, piece: _Piece) -> bool:
        if piece not in self._pieces:
            return False
        del self._pieces[piece]
        self._nbytes -= piece.nbytes
        return True


class ReadAhead:
    """What a run expects to read, fetched before it is asked for; read from any thread.

    ranges: (file, position, length), in the order in which they will be wanted; what overlaps one before is left out.
    """

    def __init__(self, ranges: Iterable[tuple[RemoteFile, int, int]]) -> None:
        pieces = _cut(ranges)
        self._pieces: dict[int, list[_Piece]] = defaultdict(list)
        for piece in sorted(pieces, key=lambda piece: piece.start):
            self._pieces[id(piece.file)].append(piece)
        self._starts = {file: [piece.start for piece in found] for file, found in self._pieces.items()}
        self._to_come = deque(pieces)
        self._kept, self._read = _Recent(lambda: KEPT_NBYTES), _Recent(lambda: READ_NBYTES)
        self._ahead_nbytes = 0
        self._changed = threading.Condition()
        self.stop: Final = threading.Event()
        for _ in range(min(N_CONNECTIONS, len(pieces))):
            threading.Thread(target=self._fetch, daemon=True).start()

    def read_into(self, file: RemoteFile, position: int, out: memoryview) -> None:
        """Fill `out` from a place in a file, expected or not. Errors as RemoteFile's."""
        while out:
            piece, end = self._at(file, position)
            count = min(len(out), end - position)
            if piece is None:
                file.read_into(position, out[:count], self.stop)
            else:
                data = self._data(piece)
                out[:count] = memoryview(data)[position - piece.start :][:count]
                self._note_given(piece, count)
            position, out = position + count, out[count:]

    def close(self) -> None:
        """End what is in flight; nobody reads any more."""
        self.stop.set()
        with self._changed:
            self._to_come.clear()
            self._changed.notify_all()

    def _at(self, file: RemoteFile, position: int) -> tuple[_Piece | None, int]:
        """Return the piece that a place is in, and where it ends; or where what is not expected ends."""
        starts = self._starts.get(id(file), [])
        index = bisect_right(starts, position)
        if index and (piece := self._pieces[id(file)][index - 1]).end > position:
            return piece, piece.end
        return None, starts[index] if index < len(starts) else file.nbytes

    def _data(self, piece: _Piece) -> bytearray:
        with self._changed:
            is_mine = not piece.taken
            piece.taken = True
            self._note_wanted(piece, was_ahead=not is_mine)
            come = piece.come
        if is_mine:
            piece.fetch(self.stop)
        while not come.wait(1):
            if self.stop.is_set():
                raise StoppedError
        data, failure = piece.data, piece.failure
        if failure is not None:
            raise failure
        return self._data(piece) if data is None else data  # forgotten just now

    def _note_wanted(self, piece: _Piece, *, was_ahead: bool) -> None:
        if not piece.wanted:
            piece.wanted = True
            self._ahead_nbytes -= piece.nbytes if was_ahead else 0
        (self._read if piece.given >= piece.nbytes else self._kept).add(piece)
        self._changed.notify_all()

    def _note_given(self, piece: _Piece, count: int) -> None:
        with self._changed:
            piece.given += count
            if piece.given >= piece.nbytes and self._kept.remove(piece):
                self._read.add(piece)

    def _fetch(self) -> None:
        while (piece := self._next()) is not None:
            piece.fetch(self.stop)

    def _next(self) -> _Piece | None:
        with self._changed:
            while self._to_come:
                if self._to_come[0].taken or self._to_come[0].wanted:
                    self._to_come.popleft()
                elif self._ahead_nbytes and self._ahead_nbytes + self._to_come[0].nbytes > AHEAD_NBYTES:
                    self._changed.wait()
                else:
                    piece = self._to_come.popleft()
                    piece.taken = True
                    self._ahead_nbytes += piece.nbytes
                    return piece
        return None


def _cut(ranges: Iterable[tuple[RemoteFile, int, int]]) -> list[_Piece]:
    pieces: list[_Piece] = []
    seen: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for file, start, nbytes in _joined(ranges):
        others, end = seen[id(file)], start + nbytes
        if any(other[0] < end and start < other[1] for other in others):
            continue
        others.append((start, end))
        cuts = range(start, end, PIECE_NBYTES)
        pieces += (_Piece(file, cut, min(cut + PIECE_NBYTES, end)) for cut in cuts)
    return pieces


def _joined(ranges: Iterable[tuple[RemoteFile, int, int]]) -> Iterable[tuple[RemoteFile, int, int]]:
    """Join ranges that follow one another in a file."""
    last: tuple[RemoteFile, int, int] | None = None
    for file, start, nbytes in ranges:
        if last is not None and last[0] is file and last[1] + last[2] == start:
            last = (file, last[1], last[2] + nbytes)
            continue
        if last is not None:
            yield last
        last = (file, start, nbytes)
    if last is not None:
        yield last
