"""SHA256SUMS: what `sha256sum -c` reads."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

SUMS: Final = "SHA256SUMS"
_PIECE: Final = 1 << 22
_HEX: Final = 64


def sums_of(
    directory: Path, names: Iterable[str], *, progress: Callable[[int], None] = lambda _: None
) -> dict[str, str]:
    """Give each file's sha256: from SHA256SUMS where that is newer than the file, else from all its bytes.

    progress: called with the bytes that are done with.
    """
    known = read_sums(directory)
    written = (directory / SUMS).stat().st_mtime_ns if known else 0
    sums = {}
    for name in names:
        status = (directory / name).stat()
        if name in known and written > status.st_mtime_ns:
            sums[name] = known[name]
            progress(status.st_size)
        else:
            sums[name] = file_sha256(directory / name, progress=progress)
    return sums


def read_sums(directory: Path) -> dict[str, str]:
    """Read SHA256SUMS; nothing where there is none. Lines that are no sum are passed over."""
    path = directory / SUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    pairs = (line.split(maxsplit=1) for line in lines)
    return {pair[1].removeprefix("*"): pair[0] for pair in pairs if len(pair) == 2 and len(pair[0]) == _HEX}  # noqa: PLR2004


def sums_text(sums: Mapping[str, str]) -> str:
    """Write SHA256SUMS."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def file_sha256(path: Path, *, progress: Callable[[int], None] = lambda _: None) -> str:
    """Read a file whole. Raises OSError."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()
