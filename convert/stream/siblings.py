"""The hidden siblings that files are written to: their names, their locks, and what killed runs left of them.

A lock is the sign of life: it goes with the process, however that ends. What has none, and no journal, is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_OURS: Final = (".*.gguf.partial", ".*.safetensors.partial")
_JOURNALS: Final = (".*.gguf.journal", ".*.safetensors.journal")


def sibling(final: Path) -> Path:
    """Name the hidden file that becomes `final`."""
    return final.with_name(f".{final.name}.partial")


def remove_abandoned(directories: Iterable[Path]) -> None:
    """Remove what killed runs left in these directories.

    What a run is writing, as its lock says, stays, and what has a journal, which the same command goes on with. A
    journal without its sibling is of a run that was killed just when that had become the output.
    """
    for directory in directories:
        for path in (path for pattern in _JOURNALS for path in directory.glob(pattern)):
            if not path.with_suffix(".partial").exists():
                path.unlink(missing_ok=True)
        for path in (path for pattern in _OURS for path in directory.glob(pattern)):
            if path.with_suffix(".journal").exists():
                continue
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error, where there are no locks, is no sign
                    path.unlink()
                finally:
                    os.close(fd)
