"""What a remote file is: its length, which content it has, and bytes of it; and a stream over one, for headers."""

from __future__ import annotations

import io
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from convert.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAX_TRIES: Final = 8  # in a row, without a byte
MAX_WAIT_S: Final = 30.0
MAX_RETRY_AFTER_S: Final = 600.0
N_CONNECTIONS: Final = 8
_STREAM_NBYTES: Final = 64 << 10

_OF_THREAD: Final = threading.local()  # `stop`: set when nobody wants what the thread waits for

T = TypeVar("T")
R = TypeVar("R")


class RemoteFile(Protocol):
    """A file that is read by ranges, from several threads at once."""

    @property
    def address(self) -> str:
        """What errors call it."""

    @property
    def nbytes(self) -> int:
        """Its length."""

    def read_into(self, position: int, out: memoryview, stop: threading.Event | None = None) -> None:
        """Fill `out` from a place in it; what breaks or is refused for now is tried again from where it stopped.

        stop: set when nobody wants it any more.
        Raises CheckpointError if it has changed, is refused, or does not come.
        """

    def check(self) -> None:
        """Raise CheckpointError if it is not what it was; to be called when all has been read."""


class StoppedError(Exception):
    """Nobody wants these bytes any more: the run is ending for another reason."""


class PassingError(Exception):
    """A failure that may pass. wait_s: how long the server asks to wait, if it says so."""

    def __init__(self, what: str, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.wait_s = wait_s


def wait(failure: BaseException, n_failures: int, stop: threading.Event | None = None) -> None:
    """Wait before the next try: as long as the server asks, else longer each time.

    Raises StoppedError if it is not wanted any more.
    """
    asked = failure.wait_s if isinstance(failure, PassingError) else None
    delay = min(0.25 * 2**n_failures, MAX_WAIT_S) if asked is None else min(asked, MAX_RETRY_AFTER_S)
    if (stop or getattr(_OF_THREAD, "stop", None) or threading.Event()).wait(delay):
        raise StoppedError


def changed(address: str, what: str) -> CheckpointError:
    """Make the error for a file that is not any more what it was when it was opened."""
    return CheckpointError(
        f"`{address}` has changed while it was read: {what}", hint="run it again, on what is there now"
    )


class _Received:
    """Bytes that have come from elsewhere, in this process."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.lock = threading.Lock()


_RECEIVED: Final = _Received()


def received(nbytes: int) -> None:
    """Count bytes that have come."""
    with _RECEIVED.lock:
        _RECEIVED.nbytes += nbytes


def received_nbytes() -> int:
    """Return how many bytes have come from elsewhere, in this process."""
    return _RECEIVED.nbytes


class _Requests:
    """How many requests for bytes may be under way in this process; None: as many as there are readers."""

    slots: threading.Semaphore | None = None


@contextmanager
def at_most(count: int | None) -> Iterator[None]:
    """Let no more requests for bytes be under way at a time, in this block. Not for two threads at once."""
    _Requests.slots = None if count is None else threading.Semaphore(count)
    try:
        yield
    finally:
        _Requests.slots = None


@contextmanager
def request(stop: threading.Event | None) -> Iterator[None]:
    """Take a turn for one request. Raises StoppedError if it is not wanted any more."""
    if (slots := _Requests.slots) is None:
        yield
        return
    while not slots.acquire(timeout=0.2):
        if stop is not None and stop.is_set():
            raise StoppedError
    try:
        yield
    finally:
        slots.release()


def in_parallel(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Do for each item what waits for other machines; results in order. After a failure the others wait no more."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a model on this disk needs none

    stop, failures = threading.Event(), list[BaseException]()

    def do(item: T) -> R:
        _OF_THREAD.stop = stop
        try:
            return work(item)
        except BaseException as error:
            failures.append(error)
            stop.set()
            raise

    with ThreadPoolExecutor(N_CONNECTIONS) as pool:
        try:
            return list(pool.map(do, items))
        except StoppedError:
            raise failures[0] from None
        except BaseException:
            stop.set()
            raise


class RemoteStream(io.RawIOBase):
    """A file that is read from its beginning, here and there: what was read once is kept, until it is closed.

    For headers: the first read of a place brings at least 64 KB.
    """

    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self._position = 0
        self._kept: list[tuple[int, bytes]] = []

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.file.nbytes}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: object) -> int:
        out = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        end = min(self._position + len(out), self.file.nbytes)
        start = self._position
        while self._position < end:
            piece = self._piece(self._position, end - self._position)
            out[self._position - start :][: len(piece)] = piece
            self._position += len(piece)
        return self._position - start

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes, or as many as there are."""
        left = max(self.file.nbytes - self._position, 0)
        out = bytearray(left if size is None or size < 0 else min(size, left))
        self.readinto(out)
        return bytes(out)

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Bring ranges (position, length), several at a time."""
        wanted = [(start, min(count, self.file.nbytes - start)) for start, count in ranges]
        self._kept += in_parallel(self._bring, [each for each in wanted if each[1] > 0 and not self._has(*each)])

    def _bring(self, wanted: tuple[int, int]) -> tuple[int, bytes]:
        out = bytearray(wanted[1])
        self.file.read_into(wanted[0], memoryview(out))
        return wanted[0], bytes(out)

    def _has(self, position: int, nbytes: int) -> bool:
        return any(start <= position and position + nbytes <= start + len(data) for start, data in self._kept)

    def _found(self, position: int) -> Iterator[tuple[int, bytes]]:
        return (kept for kept in self._kept if kept[0] <= position < kept[0] + len(kept[1]))

    def _piece(self, position: int, nbytes: int) -> bytes:
        if (found := next(self._found(position), None)) is None:
            nearest = min((start for start, _ in self._kept if start > position), default=self.file.nbytes)
            found = self._bring((position, min(max(nbytes, _STREAM_NBYTES), nearest - position)))
            self._kept.append(found)
        start, data = found
        return data[position - start :][:nbytes]
