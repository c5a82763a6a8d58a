"""Unpacking archives from elsewhere: only what is asked for, nothing outside the folder, no links, no devices."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from convert.errors import ToolchainError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

_NBYTES_MAX: Final = 8 << 30  # far above any archive we fetch; a bomb ends here
_EXECUTABLE: Final = 0o111


def unpack_tar(archive: Path, into: Path, *, tree: PurePosixPath) -> None:
    """Unpack the folder `tree` of a .tar.gz: its files become files of `into`.

    Modification times are those of now: an archive's lie in a past that Ninja takes for "out of date".
    Raises ToolchainError for a member that is no file or folder, a name that leads outside, or a broken archive.
    """
    left = _NBYTES_MAX
    try:
        with tarfile.open(archive, "r:gz") as opened:
            for member in opened:
                name = PurePosixPath(member.name)
                if not name.is_relative_to(tree) or member.isdir():
                    continue
                source = opened.extractfile(member) if member.isreg() else None
                if source is None:
                    raise ToolchainError(f"`{archive.name}` holds `{member.name}`, which is not a plain file")
                left -= member.size
                _write(source, _inside(into, name.relative_to(tree), archive), left)
                if member.mode & _EXECUTABLE:
                    _inside(into, name.relative_to(tree), archive).chmod(0o755)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ToolchainError(f"`{archive}` cannot be unpacked: {error}") from error


def unpack_zip(archive: Path, into: Path, *, wanted: Callable[[PurePosixPath], bool]) -> None:
    """Unpack the files of a wheel whose names `wanted` picks, under their own names in `into`."""
    left = _NBYTES_MAX
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                name = PurePosixPath(member.filename)
                if member.is_dir() or not wanted(name):
                    continue
                left -= member.file_size
                with opened.open(member) as source:
                    _write(source, _inside(into, name, archive), left)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ToolchainError(f"`{archive}` cannot be unpacked: {error}") from error


def _inside(into: Path, name: PurePosixPath, archive: Path) -> Path:
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise ToolchainError(f"`{archive.name}` holds `{name}`, which leads outside")
    return into / name


def _write(source: IO[bytes], target: Path, left: int) -> None:
    if left < 0:
        raise ToolchainError(f"the archive unpacks to more than {_NBYTES_MAX >> 30} GiB")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as written:
        shutil.copyfileobj(source, written, 1 << 20)
