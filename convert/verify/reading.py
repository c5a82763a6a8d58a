"""Read a GGUF file's bytes at offsets, in bounded memory, never mapped."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SLICE_NBYTES: Final = 16 << 20


class OpenFile:
    """A file that is read at offsets."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def read(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """Return uint8 (nbytes,); CheckpointError if the file ends before."""
        out = np.empty(nbytes, np.uint8)
        view = out.data
        while view:
            count = os.preadv(self._fd, [view], offset)
            if count == 0:
                raise CheckpointError(f"`{self.path}` ended while it was read; did it change?")
            view, offset = view[count:], offset + count
        return out

    def slices(self, offset: int, nbytes: int, unit: int) -> Iterator[NDArray[np.uint8]]:
        """Read a range in slices of at most SLICE_NBYTES, each but the last a multiple of `unit` bytes."""
        step = max(SLICE_NBYTES // unit, 1) * unit
        for start in range(0, nbytes, step):
            yield self.read(offset + start, min(step, nbytes - start))


@contextmanager
def open_file(path: Path) -> Iterator[OpenFile]:
    """Open a file for reading at offsets."""
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        yield OpenFile(path, fd)
    finally:
        os.close(fd)
