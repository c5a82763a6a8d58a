"""What of a file under way is on disk, so that the same command need not do it again.

    .NAME.partial   the file under way
    .NAME.journal   its key, then a line now and then: the slices that are on disk since, `0-511 513`

A line follows the data that it speaks of, each flushed; one without its newline is none. The key says which work it
was: the plan, how it is carried out, by which version, and the sources' sizes and times. A journal of another key is
removed, for good, before its file is touched. Work that is done within `EVERY_S` never has one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.errors import OutputError
from convert.file_system import sync, sync_directory
from convert.remote import is_stand_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from convert.plan import Plan
    from convert.stream.publish import PartialFile

EVERY_S: Final = 1.0


def journal_path(final: Path) -> Path:
    """Name the journal of what becomes `final`."""
    return final.with_name(f".{final.name}.journal")


@dataclass(slots=True)
class Journal:
    """One file's. done: the slices that an earlier run has brought to disk. nbytes: of whole lines, 0 without one."""

    path: Path
    done: frozenset[int] = frozenset()
    nbytes: int = 0
    fd: int | None = None

    @property
    def is_begun(self) -> bool:
        """Whether anything stands in it."""
        return self.nbytes > 0

    def append(self, slices: Iterable[int], key: Callable[[], str]) -> None:
        """Note slices whose data is on disk. key: written first."""
        text = " ".join(_ranges(sorted(slices))) + "\n"
        if self.fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self.fd = os.open(self.path, flags, 0o666)
            os.ftruncate(self.fd, self.nbytes)
        data = (text if self.is_begun else f"{key()}\n{text}").encode()
        if os.write(self.fd, data) != len(data):  # what came after would be read as the torn line's end
            os.ftruncate(self.fd, self.nbytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.nbytes += len(data)
        sync(self.fd)

    def remove(self) -> None:
        """Remove it, so that not even a failing machine brings it back."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
            sync_directory(self.path.parent)
        self.done, self.nbytes = frozenset(), 0

    def close(self) -> None:
        """Release it."""
        if self.fd is not None:
            os.close(self.fd)


def read_journal(final: Path, key: Callable[[], str]) -> Journal:
    """Read a file's journal; an empty one where there is none, or that of other work. key: computed where one is."""
    path = journal_path(final)
    with contextlib.suppress(OSError, ValueError):
        text, end, _ = path.read_text(encoding="ascii").rpartition("\n")
        first, *lines = text.split("\n")
        if end and first == key():
            done = frozenset(number for line in lines for number in _numbers(line))
            return Journal(path, done, len(text) + 1)
    return Journal(path)


def _ranges(numbers: list[int]) -> Iterator[str]:
    first = previous = numbers[0]
    for number in (*numbers[1:], -1):
        if number != previous + 1:
            yield f"{first}-{previous}" if first != previous else f"{first}"
            first = number
        previous = number


def _numbers(line: str) -> Iterator[int]:
    for word in line.split():
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


class Checkpoints:
    """Brings what is done to disk now and then, and notes it; on a thread of its own while `running`."""

    def __init__(self, files: Mapping[int, PartialFile], key: Callable[[], str]) -> None:
        self._files = files
        self._key = key
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raise OutputError if something could not be brought to disk: the system says that once only."""
        if self._failure is not None:
            raise OutputError(f"what was written is not on disk: {self._failure.strerror}")

    def note(self, number: int, outputs: Iterable[int]) -> None:
        """Take a slice that has been written to these outputs."""
        with self._lock:
            for index in outputs:
                if index in self._files:
                    self._files[index].finished.append(number)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Work beside what is done inside."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def _run(self) -> None:
        try:
            while not self._end.wait(EVERY_S):
                self._save()
        except OSError as error:
            self._failure = error

    def _save(self) -> None:
        for file in list(self._files.values()):
            with self._lock:
                slices, file.finished = file.finished, []
            if slices and not self._end.is_set():
                sync(file.fd)
                file.journal.append(slices, self._key)


def work_key(plan: Plan, how: object) -> str:
    """Say which work this is, in 64 letters: the same work makes the same bytes from the same slices.

    how: what else the bytes depend on.
    """
    digest = hashlib.sha256(repr((version("gguf-convert"), how)).encode())
    for output in plan.outputs:
        digest.update(repr((output.path.name, output.nbytes)).encode())
        digest.update(output.header)
    for task in plan.tasks:
        digest.update(repr(task).encode())
    for path in sorted({path for task in plan.tasks for path in _paths(task)}):
        digest.update(repr((str(path), _identity(path))).encode())
    return digest.hexdigest()


def _identity(path: Path) -> object:
    if is_stand_in(path):  # it says what the bytes are, wherever they are
        return path.read_bytes()
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _paths(value: object) -> Iterator[Path]:
    """Find the files that a task's tensor, and its importance, are read from."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _paths(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from _paths(getattr(value, each.name))
