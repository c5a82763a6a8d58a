"""The border with the disk, and beyond: opening a checkpoint's files without hanging.

A checkpoint may hold a FIFO, a device or a directory where a file should be. Everything this room opens is opened here,
also what lies elsewhere.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar, cast

from convert.errors import CheckpointError
from convert.remote import RemoteStream, in_parallel, is_stand_in, open_remote
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

T = TypeVar("T")

LFS_POINTER_START: Final = b"version https://git-lfs"
_LFS_HINT: Final = "run `git lfs install` and `git lfs pull` in the checkpoint, or download it with `hf download`"


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, or the one elsewhere that it stands for.

    Never blocks: a FIFO is opened without waiting for its writer, then refused for what it is.
    Raises CheckpointError if the file is missing, unreadable, or not a regular file.
    """
    if (remote := open_remote(path)) is not None:
        return cast("BinaryIO", RemoteStream(remote))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CheckpointError(f"{shown(path)} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{shown(path)} cannot be opened: {reason}") from error
    try:
        _require_regular(descriptor, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def file_nbytes(file: BinaryIO) -> int:
    """Size of an open file in bytes."""
    if isinstance(file, RemoteStream):
        return file.file.nbytes
    return os.fstat(file.fileno()).st_size


def stored_nbytes(path: Path) -> int:
    """Size of a file in bytes, wherever its bytes are."""
    remote = open_remote(path)
    return path.stat().st_size if remote is None else remote.nbytes


def expect(file: BinaryIO, ranges: Iterable[tuple[int, int]]) -> None:
    """Say which ranges (position, length) of an open file are read next: those elsewhere are fetched together."""
    if isinstance(file, RemoteStream):
        file.expect(ranges)


def of_each(paths: Sequence[Path], read: Callable[[Path], T]) -> list[T]:
    """Read something small of each file, at the same time where they are elsewhere."""
    if any(map(is_stand_in, paths)):
        return in_parallel(read, paths)
    return [read(path) for path in paths]


def refuse_lfs_pointer(head: bytes, path: Path) -> None:
    """Raise CheckpointError if a file's first bytes are those of a git-lfs pointer, left by a clone without git-lfs."""
    if head.startswith(LFS_POINTER_START):
        raise CheckpointError(f"{shown(path)} is a git-lfs pointer, not the file itself", hint=_LFS_HINT)


def _require_regular(descriptor: int, path: Path) -> None:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise CheckpointError(f"{shown(path)} is {kind}, wanted a regular file")
