"""Read a GGUF file's bytes at offsets, in bounded memory, never mapped."""

from __future__ import annotations

import os
from bisect import bisect_right
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from convert.gguf_file import GGUFFile

SLICE_NBYTES: Final = 16 << 20


class OpenFile:
    """A file that is read at offsets; or the parts of one, as if they lay one after another, as `as_one` counts.

    starts: where each part begins.
    """

    def __init__(self, paths: Sequence[Path], fds: Sequence[int], starts: Sequence[int]) -> None:
        self._paths = paths
        self._fds = fds
        self._starts = starts

    def read(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """Return uint8 (nbytes,), of one part; CheckpointError if it ends before."""
        part = bisect_right(self._starts, offset) - 1
        offset -= self._starts[part]
        out = np.empty(nbytes, np.uint8)
        view = out.data
        while view:
            count = os.preadv(self._fds[part], [view], offset)
            if count == 0:
                raise CheckpointError(f"`{self._paths[part]}` ended while it was read; did it change?")
            view, offset = view[count:], offset + count
        return out

    def slices(self, offset: int, nbytes: int, unit: int) -> Iterator[NDArray[np.uint8]]:
        """Read a range in slices of at most SLICE_NBYTES, each but the last a multiple of `unit` bytes."""
        step = max(SLICE_NBYTES // unit, 1) * unit
        for start in range(0, nbytes, step):
            yield self.read(offset + start, min(step, nbytes - start))


@contextmanager
def open_file(*files: GGUFFile) -> Iterator[OpenFile]:
    """Open a file, or all parts of one, for reading at offsets."""
    starts = list(accumulate((file.nbytes for file in files[:-1]), initial=0))
    with ExitStack() as stack:
        opened = [stack.enter_context(file.path.open("rb", buffering=0)) for file in files]
        yield OpenFile([file.path for file in files], [each.fileno() for each in opened], starts)
