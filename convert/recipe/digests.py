"""SHA-256 of whole files: several at a time, each in its order, in memory that does not grow with them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.errors import CheckpointError
from convert.process import usable_processors
from convert.remote.stand_in import opened, read_stand_in
from convert.shown import shown
from convert.stream import Workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from convert.remote.stand_in import StandIn

_AT_ONCE: Final = 4 << 20  # bytes
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a file is: its length in bytes, and the SHA-256 of them all, in hexadecimal."""

    nbytes: int
    sha256: str


# Shows how far a reading is: given its length in bytes, and then told of those that are done with.
Reading = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def unseen(total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing of a reading."""
    del total
    yield lambda _: None


def file_digests(
    paths: Iterable[Path], *, jobs: int | None = None, reading: Reading = unseen
) -> dict[Path, FileDigest]:
    """Read files from end to end. jobs: threads, by default one a processor that may be used.

    An interruption ends it within a few megabytes. Raises CheckpointError for a file that cannot be read.
    """
    wanted = tuple(dict.fromkeys(paths))
    waiting, workers = iter(wanted), Workers()
    found: dict[Path, FileDigest] = {}

    def work() -> None:
        for path in waiting_paths():
            found[path] = _digest(path, workers.stop.is_set, progress)

    def waiting_paths() -> Iterable[Path]:
        while not workers.stop.is_set() and (path := next(waiting, None)) is not None:
            yield path

    with reading(sum(path.stat().st_size for path in wanted if path.is_file())) as progress:
        workers.run(min(jobs or usable_processors(), len(wanted)), work)
    return {path: found[path] for path in wanted}


def _elsewhere(stand_in: StandIn, is_over: Callable[[], bool], progress: Callable[[int], None]) -> FileDigest:
    """Take the Hub's word for the SHA-256 of what it stores as git-lfs does; read what nobody has a word for."""
    if _SHA256.fullmatch(stand_in.content):
        return FileDigest(stand_in.nbytes, stand_in.content)
    source, sha256, done = opened(stand_in), hashlib.sha256(), 0
    while done < stand_in.nbytes and not is_over():
        buffer = bytearray(min(_AT_ONCE, stand_in.nbytes - done))
        source.read_into(done, memoryview(buffer))
        sha256.update(buffer)
        done += len(buffer)
        progress(len(buffer))
    return FileDigest(done, sha256.hexdigest())


def _digest(path: Path, is_over: Callable[[], bool], progress: Callable[[int], None]) -> FileDigest:
    if (stand_in := read_stand_in(path)) is not None:
        return _elsewhere(stand_in, is_over, progress)
    nbytes, sha256, buffer = 0, hashlib.sha256(), memoryview(bytearray(_AT_ONCE))
    try:
        with path.open("rb", buffering=0) as file:
            while (n_read := file.readinto(buffer)) and not is_over():
                nbytes += n_read
                sha256.update(buffer[:n_read])
                progress(n_read)
    except OSError as error:
        raise CheckpointError(f"{shown(path)} cannot be read: {error.strerror}") from error
    return FileDigest(nbytes, sha256.hexdigest())
