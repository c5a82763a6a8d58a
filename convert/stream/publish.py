"""Files that appear whole or not at all.

An output is written to a hidden sibling, locked while it is written, flushed to disk, and renamed.
Killed at any moment, no final name holds a partial file; what is left behind is the sibling, whose
name is known, and the next run takes it over. What of it is done, its journal says (`journal`).
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from convert.errors import OutputError, Remedy
from convert.file_system import allow_open_files, check_free, lock, sync, sync_directory
from convert.gguf_file.split import prefix_of
from convert.plan.data import FileKind
from convert.shown import shown_list
from convert.stream.journal import Journal, journal_path, read_journal
from convert.stream.siblings import sibling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from convert.plan import Output, Plan


# What may be written to a file before the system is asked to put it on disk and forget it. Then the next writes find
# memory that was just in use: taking fresh pages for whole files costs several times the encoding, and pushes out what
# other programs had cached.
_WRITTEN_BEHIND: Final = 8 << 20
_MAX_SAFETENSORS_HEADER: Final = 100_000_000  # bytes; safetensors 0.8, MAX_HEADER_SIZE
_MOST_TRIES: Final = 10
_NUMBERED: Final = re.compile(r"-\d{5,}-of-\d{5,}\.gguf$")


class OutputState(Enum):
    """What stands under an output's final name before the work."""

    ABSENT = "absent"
    CANDIDATE = "a file of the planned length and header"
    OTHER = "another file of the output's kind"
    FOREIGN = "a file of another kind, or no file"


def output_states(plan: Plan) -> tuple[OutputState, ...]:
    """Look at what exists under the final names; whether a candidate's tensors are the planned ones shows later."""
    return tuple(map(_state, plan.outputs))


def _state(output: Output) -> OutputState:
    try:
        if not output.path.exists():
            return OutputState.ABSENT
        if not output.path.is_file():
            return OutputState.FOREIGN
        with output.path.open("rb") as file:
            header = file.read(len(output.header))
        is_planned = header == output.header and output.path.stat().st_size == output.nbytes
    except OSError as error:
        raise _output_error(output.path, error) from error
    if not _is_of_kind(output.kind, header):
        return OutputState.FOREIGN
    return OutputState.CANDIDATE if is_planned else OutputState.OTHER


def _is_of_kind(kind: FileKind, header: bytes) -> bool:
    if kind is FileKind.SAFETENSORS:  # the header's length in eight bytes, then its JSON
        return header[8:9] == b"{" and int.from_bytes(header[:8], "little") <= _MAX_SAFETENSORS_HEADER
    return kind is FileKind.PLAIN or header.startswith(b"GGUF")


class DifferenceError(Exception):
    """An existing file does not hold the planned bytes; never leaves this room."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


@dataclass(frozen=True, slots=True)
class ExistingFile:
    """An existing file to compare with what would be written: it is written to like a PartialFile."""

    index: int
    fd: int

    def write(self, data: memoryview, offset: int) -> None:
        """Raise DifferenceError unless the file holds these bytes there."""
        if os.pread(self.fd, len(data), offset) != data:
            raise DifferenceError(self.index)

    def close(self) -> None:
        """Release the file."""
        os.close(self.fd)


@dataclass(slots=True)
class PartialFile:
    """An output under way: a locked, preallocated sibling of its final name."""

    final: Path
    partial: Path
    fd: int
    journal: Journal
    is_published: bool = False
    is_new: bool = False  # nothing stood under the final name
    finished: list[int] = field(default_factory=list)  # slices that are written, and not yet in the journal
    n_held: int = 0  # bytes written since the last write-behind; threads may miss each other's, which only delays it

    def write(self, data: memoryview, offset: int) -> None:
        """Write at an offset, from any thread."""
        self.n_held += len(data)
        try:
            while data:
                written = os.pwrite(self.fd, data, offset)
                data, offset = data[written:], offset + written
            if self.n_held >= _WRITTEN_BEHIND:
                self.n_held = 0
                self._write_behind()
        except OSError as error:
            raise _output_error(self.final, error) from error

    def _write_behind(self) -> None:
        """Start writing to disk what is still in memory only, and let go of what is on disk already."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with contextlib.suppress(OSError):  # advice only: a file system may not take it
                os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def flush(self) -> None:
        """Wait until the file is on disk."""
        try:
            sync(self.fd)
        except OSError as error:
            raise _output_error(self.final, error) from error

    def abandon(self) -> None:
        """Drop what was written, so that a flush under way ends at once; what the journal speaks of stays."""
        if not self.journal.is_begun:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, 0)

    def publish(self) -> None:
        """Give the flushed file its final name; `settle` is to follow."""
        try:
            self.is_new = not self.final.exists()
            self.partial.replace(self.final)
            self.is_published = True
        except OSError as error:
            raise _output_error(self.final, error) from error

    def withdraw(self) -> None:
        """Take the final name back, where nothing stood under it before."""
        if self.is_published and self.is_new:
            with contextlib.suppress(OSError):
                self.final.unlink()

    def close(self) -> None:
        """Release the file and its lock; remove the sibling, unless it is gone on with or has become the output."""
        if self.is_published or not self.journal.is_begun:
            self.discard()
        self.journal.close()
        os.close(self.fd)

    def discard(self) -> None:
        """Remove the journal, and the sibling unless it has become the output."""
        self.journal.remove()
        if not self.is_published:
            with contextlib.suppress(FileNotFoundError):
                self.partial.unlink()


def open_existing(index: int, output: Output) -> ExistingFile:
    """Open a file that is there, to compare it."""
    try:
        return ExistingFile(index, os.open(output.path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise _output_error(output.path, error) from error


def open_partial(output: Output, key: Callable[[], str]) -> PartialFile:
    """Create, lock and preallocate an output's sibling, taking over what a killed run left.

    key: of the work; what is left of the same work is gone on with, of other work nothing is.
    Raises OutputError if another run is writing it, or the directory or disk does not allow it.
    """
    file = _open_locked(output.path)
    try:
        file.journal = read_journal(output.path, key)
        if file.journal.done and _is_under_way(file.fd, output):
            return file
        file.journal.remove()
        os.ftruncate(file.fd, 0)
        _reserve(file.fd, output.nbytes)
        file.write(memoryview(output.header), 0)
    except (OSError, OutputError) as error:
        file.discard()
        file.close()
        raise error if isinstance(error, OutputError) else _output_error(output.path, error) from error
    return file


def _is_under_way(fd: int, output: Output) -> bool:
    """Whether a sibling has the length and the header of what is to be written."""
    return os.fstat(fd).st_size == output.nbytes and os.pread(fd, len(output.header), 0) == output.header


def settle(directories: Iterable[Path]) -> None:
    """Wait until the names of published files are on disk. Raises OutputError for a disk that fails: they stay."""
    try:
        for directory in directories:
            sync_directory(directory)
    except OSError as error:
        raise OutputError(
            f"the files in `{directory}` are whole, but their names may not be on disk: {error.strerror}",
            hint="look at the disk; then run the same command again, which compares them",
        ) from error


def _open_locked(final: Path) -> PartialFile:
    partial = sibling(final)
    while True:
        try:
            fd = _create(partial)
        except OSError as error:
            raise _output_error(final, error) from error
        file = PartialFile(final, partial, fd, Journal(journal_path(final)))
        try:
            is_ours = lock(fd, partial)
        except OSError as error:
            if os.fstat(fd).st_size == 0:  # made here, not found
                partial.unlink(missing_ok=True)
            os.close(fd)
            raise _output_error(final, error) from error
        if not is_ours:
            os.close(fd)
            raise OutputError(f"another run is writing `{final}`")
        # Between open and lock another run may have renamed this very file to its final name.
        if _is_same_file(fd, partial):
            return file
        os.close(fd)


def _create(path: Path) -> int:
    """Open a file, in a directory that is made where it is missing."""
    for _ in range(_MOST_TRIES):
        # Before the file is in it, another run that fails may remove the directory again.
        with contextlib.suppress(FileNotFoundError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def missing_directories(outputs: Iterable[Output]) -> tuple[Path, ...]:
    """Return the directories that are to be made for outputs, the deepest first."""
    parents = {parent for output in outputs for parent in output.path.absolute().parents}
    missing = (parent for parent in parents if not parent.exists())
    return tuple(sorted(missing, key=lambda parent: len(parent.parts), reverse=True))


def remove_empty(directories: Iterable[Path]) -> None:
    """Remove those directories, the deepest first, that hold nothing: not a published file, nor another run's."""
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def check_room(outputs: Sequence[Output]) -> None:
    """Raise OutputError unless each disk has room for all outputs that go to it."""
    needed: dict[int, tuple[Path, int]] = {}
    for output in outputs:
        directory = existing_parent(output.path)
        device = directory.stat().st_dev
        more = max(output.nbytes - _taken(sibling(output.path)), 0)
        needed[device] = directory, needed.get(device, (directory, 0))[1] + more
    for directory, nbytes in needed.values():
        check_free(directory, nbytes)


def _taken(partial: Path) -> int:
    """Count what a sibling that an earlier run left takes of the disk."""
    with contextlib.suppress(FileNotFoundError):
        return partial.lstat().st_blocks * 512
    return 0


def check_parts(outputs: Sequence[Output]) -> None:
    """Raise OutputError where parts of another split lie beside parts to be, which would make one of them a riddle."""
    planned = {output.path for output in outputs}
    names = {output.path.with_name(prefix_of(output.path, output.part)) for output in outputs if output.part}
    found = (path for name in sorted(names) for path in name.parent.glob(f"{glob.escape(name.name)}-*-of-*.gguf"))
    if others := sorted(path for path in found if path not in planned and _NUMBERED.search(path.name)):
        raise OutputError(
            f"`{others[0].parent}` holds parts of another split: {shown_list([path.name for path in others])}",
            hint="they are never replaced: remove them",
            remedies=(Remedy.OTHER_PLACE,),
        )


def check_open_files(n_files: int) -> None:
    """Raise OutputError if this process may not have so many files open."""
    if not allow_open_files(n_files):
        raise OutputError(
            f"{n_files} files are to be written at once, more than this process may open",
            hint="make fewer types at once, or raise `ulimit -n`",
            remedies=(Remedy.LARGER_PARTS,),
        )


def existing_parent(path: Path) -> Path:
    """Return the nearest directory above a path that exists."""
    return next((parent for parent in path.absolute().parents if parent.is_dir()), path.absolute().parent)


def _reserve(fd: int, nbytes: int) -> None:
    """Set the length, reserving the blocks where the file system can: a full disk shows now, not midway."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
    os.ftruncate(fd, nbytes)


def _output_error(path: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"the disk is full while writing `{path}`", hint="make room and run the same command again")
    return OutputError(f"`{path}` cannot be written: {error.strerror}")
