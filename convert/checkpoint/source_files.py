"""The files that rows are read from, and what can give rows."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final, Protocol

from convert.errors import CheckpointError

if TYPE_CHECKING:
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
        self._lock = threading.Lock()

    def read_into(self, path: Path, position: int, out: U8Array, *, name: str) -> None:
        """Fill `out`, contiguous, from a place in a file; CheckpointError if the file has become shorter.

        name: of the tensor that is read, for the error.
        """
        view = out.reshape(-1).data
        file = self._open(path)
        while view:
            count = os.preadv(file.fd, [view], position)
            if count == 0:
                raise CheckpointError(f"`{path}` ended while `{name}` was read; did it change?")
            view, position = view[count:], position + count

    def _open(self, path: Path) -> _OpenFile:
        with self._lock:
            file = self._files.pop(path, None)
            if file is None:
                try:
                    file = _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                except OSError as error:
                    raise CheckpointError(f"`{path}` cannot be read: {error.strerror}") from error
            self._files[path] = file
            if len(self._files) > MAX_OPEN_FILES:
                # The one used longest ago; it closes when no thread reads from it any more.
                del self._files[next(iter(self._files))]
            return file

    def close(self) -> None:
        """Let go of them all."""
        self._files.clear()


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
