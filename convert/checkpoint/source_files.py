"""The files that rows are read from, and what can give rows.

The one door to bytes: whether a path's bytes are its own or elsewhere (`remote/`) is known here and in `regular_file`.
"""

from __future__ import annotations

import os
import threading
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Final, Protocol

from convert.errors import CheckpointError
from convert.remote import ReadAhead, RemoteFile, bring_small, brought, open_remote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    U8Array = NDArray[np.uint8]

MAX_OPEN_FILES: Final = 16


class _OpenFile:
    """A descriptor that is closed when nobody reads from it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class SourceFiles:
    """The checkpoint's files, opened when first read, at most `MAX_OPEN_FILES` at a time, read from any thread."""

    def __init__(self) -> None:
        self._files: Final[dict[Path, _OpenFile]] = {}
        self._remote: Final[dict[Path, RemoteFile]] = {}
        self._ahead: ReadAhead | None = None
        self._lock = threading.Lock()

    def read_into(self, path: Path, position: int, out: U8Array, *, name: str) -> None:
        """Fill `out`, contiguous, from a place in a file; CheckpointError if the file has become shorter.

        name: of the tensor that is read, for the error.
        """
        view = out.reshape(-1).data
        file = self._open(path)
        if not isinstance(file, _OpenFile):
            self._read_remote(file, position, view, name)
            return
        while view:
            count = os.preadv(file.fd, [view], position)
            if count == 0:
                raise CheckpointError(f"`{path}` ended while `{name}` was read; did it change?")
            view, position = view[count:], position + count

    def expect(self, tensors: Iterable[object]) -> None:
        """Say what is going to be read, in order: bytes that are elsewhere are fetched ahead of it.

        tensors: sources, or views of them, and whatever holds them.
        """
        self.stop()
        stored = [source for tensor in tensors for source in stored_in(tensor)]
        opened = {path: open_remote(path) for path in dict.fromkeys(source.path for source in stored)}
        files = ((opened[source.path], source) for source in stored)
        ranges = [(file, source.offset, source.nbytes) for file, source in files if file is not None]
        if ranges:
            self._ahead = ReadAhead(ranges)

    def check(self) -> None:
        """Raise CheckpointError if a file that is elsewhere is not what it was; to be called when all has been read."""
        for file in self._remote.values():
            file.check()

    def _read_remote(self, file: RemoteFile, position: int, view: memoryview, name: str) -> None:
        if position + len(view) > file.nbytes:
            raise CheckpointError(f"`{file.address}` ended while `{name}` was read; did it change?")
        if (small := brought(file, position, len(view))) is not None:
            view[:] = small
        elif self._ahead is None:
            file.read_into(position, view)
        else:
            self._ahead.read_into(file, position, view)

    def _open(self, path: Path) -> _OpenFile | RemoteFile:
        with self._lock:
            if (remote := self._remote.get(path)) is not None:
                return remote
            file = self._files.pop(path, None)
            if file is None:
                if (remote := open_remote(path)) is not None:
                    self._remote[path] = remote
                    return remote
                try:
                    file = _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                except OSError as error:
                    raise CheckpointError(f"`{path}` cannot be read: {error.strerror}") from error
            self._files[path] = file
            if len(self._files) > MAX_OPEN_FILES:
                # The one used longest ago; it closes when no thread reads from it any more.
                del self._files[next(iter(self._files))]
            return file

    def stop(self) -> None:
        """Have those who wait for bytes from elsewhere give up: the run is ending."""
        if self._ahead is not None:
            self._ahead.close()

    def close(self) -> None:
        """Let go of them all."""
        self.stop()
        self._files.clear()


def bring_small_ones(sources: Iterable[Stored]) -> None:
    """Fetch the small ones of what is going to be read one by one, where it is elsewhere: many at a time."""
    by_file: dict[Path, list[tuple[int, int]]] = {}
    for source in sources:
        by_file.setdefault(source.path, []).append((source.offset, source.nbytes))
    for path, ranges in by_file.items():
        if (file := open_remote(path)) is not None:
            bring_small(file, ranges)


class Stored(Protocol):
    """Bytes in a file."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def offset(self) -> int:
        """Where they begin."""

    @property
    def nbytes(self) -> int:
        """How many there are."""


def stored_in(value: object) -> Iterator[Stored]:
    """Find what is stored in files among all that a view, a packed weight or a merged one is made of, in its order."""
    if isinstance(value, tuple):
        for item in value:
            yield from stored_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        if all(hasattr(value, name) for name in ("path", "offset", "nbytes")):
            yield value  # type: ignore[misc]
        else:
            for field in fields(value):
                yield from stored_in(getattr(value, field.name))


class RowSource(Protocol):
    """What can give a tensor's rows: bytes in a file, packed weights to decode, weights to merge an adapter into.

    A tensor is a matrix here, as `matrix_shape` says. Frozen, and used from several threads at once.
    """

    @property
    def name(self) -> str:
        """What errors call it: the checkpoint's name for the tensor."""

    @property
    def nbytes(self) -> int:
        """How many bytes of the files all rows are made from."""

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        """Fill `out` with rows from `first` on.

        out: uint8 (n_rows, bytes of a row), contiguous, little endian.
        Raises CheckpointError if a file has become shorter.
        """
