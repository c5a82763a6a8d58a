"""What not every system can do: locks, flushing on demand, many open files, room. What is lacking is told."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import warnings
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from convert.errors import OutputError, Remedy
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Lustre without `-o flock` says ENOSYS, NFS without its lock daemon ENOLCK, FUSE and CIFS either or EOPNOTSUPP.
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
_OTHER_FILES: Final = 64  # what else is open: sources, libraries, the terminal
_NO_FLUSH: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
_KEPT_FREE: Final = ContextVar("kept_free", default=0)  # bytes of every disk


def lock(fd: int, path: Path, *, wait: bool = False) -> bool:
    """Lock an open file; False if another process has, and we do not wait for it.

    On a file system without locks the work goes on without one, with a warning. Raises OSError for anything else.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        said = f"the file system of `{path.parent}` has no locks: let no second run write to it meanwhile"
        warnings.warn(said, stacklevel=2)
    return True


def allow_open_files(count: int) -> bool:
    """Raise this process's own limit so that it may open so many files more; False if the system's is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return True
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return False
    with contextlib.suppress(OSError, ValueError):  # macOS has a limit that is said nowhere
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return True


@contextlib.contextmanager
def keeping_free(nbytes: int) -> Iterator[None]:
    """Let no output that is begun in this block leave less than this free on a disk."""
    token = _KEPT_FREE.set(nbytes)
    try:
        yield
    finally:
        _KEPT_FREE.reset(token)


def check_free(directory: Path, nbytes: int) -> None:
    """Raise OutputError unless the disk of a directory, which is there, has room for outputs."""
    free, kept = shutil.disk_usage(directory).free, _KEPT_FREE.get()
    if free - kept < nbytes:
        of_it = f", of which {kept} are to stay so" if kept else ""
        said = f"the outputs need {nbytes} bytes, `{directory}` has {free} free{of_it}"
        raise OutputError(said, remedies=(Remedy.MORE_ROOM,))


def sync(fd: int) -> None:
    """Wait until a file is on disk, where that can be asked for. Raises OSError for a disk that fails."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is whole or not there, and nothing else is. Raises OutputError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        try:
            partial.write_text(text, encoding="utf-8", errors="surrogateescape")
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
    except OSError as error:
        raise OutputError(f"{shown(path)} cannot be written: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Wait until a directory's new names are on disk; as for `sync`. One that may not be read cannot be asked."""
    try:
        fd = os.open(directory, os.O_RDONLY)
    except PermissionError:
        return
    try:
        sync(fd)
    finally:
        os.close(fd)
