"""What the Hub has of a repository that is not committed yet, so that a run after an interruption goes on from there.

It lies in the outputs' directory while files are deleted as they are uploaded, and is gone after the commit.
"""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.file_system import sync

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.plan import Plan

_NAME: Final = ".convert-uploaded.json"
_PARTIAL: Final = f"{_NAME}.partial"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A file that has been uploaded. fingerprint: of what it was made from."""

    sha256: str
    nbytes: int
    fingerprint: str


def read_journal(directory: Path, repository: str) -> dict[str, JournalEntry]:
    """Read what was uploaded to a repository, by name; nothing where no run was interrupted, or to another one."""
    path = directory / _NAME
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["repository"] != repository:
            return {}
        return {name: JournalEntry(**entry) for name, entry in told["files"].items()}
    except (OSError, ValueError, LookupError, TypeError):  # then everything is made and asked for again
        return {}


def write_journal(directory: Path, repository: str, files: Mapping[str, JournalEntry]) -> None:
    """Write it so that it is whole on disk before a file is deleted. Raises OSError."""
    text = json.dumps({"repository": repository, "files": {name: asdict(entry) for name, entry in files.items()}})
    partial = directory / _PARTIAL
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        sync(file.fileno())
    partial.replace(directory / _NAME)


def remove_journal(directory: Path) -> None:
    """Forget: everything is committed."""
    for name in (_NAME, _PARTIAL):
        (directory / name).unlink(missing_ok=True)


def fingerprint(plan: Plan) -> str:
    """Tell apart what files are made from: all that their plan says, and every file that it reads as it lies there.

    It is the same in another process. Raises OSError for a file that is gone.
    """
    pickled = io.BytesIO()
    pickler = _PathNotingPickler(pickled)
    pickler.dump((tuple(output.header for output in plan.outputs), plan.tasks))
    digest = sha256(pickled.getbuffer())
    for path in sorted(pickler.paths):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


class _PathNotingPickler(pickle.Pickler):
    """Notes every path that it meets."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.paths: set[Path] = set()

    def persistent_id(self, value: object) -> str | None:
        if not isinstance(value, Path):
            return None
        self.paths.add(value)
        return str(value)
