"""A small text in a cached directory for each file whose bytes are elsewhere: which they are, and where.

<cache>/gguf-convert/remote/
├── hub/models--USER--MODEL/COMMIT/MODEL/…     as `hf download USER/MODEL --local-dir MODEL` would have it
└── other/ADDRESS@VERSION/NAME/…               the address quoted, the version a hash of what is listed there

The directory's own name is the model's, since it goes into the files.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from convert.remote.remote_file import RemoteFile

_MAGIC: Final = "the bytes of this file are elsewhere\n"
_HUB: Final = r"hub/models--([\w.-]+)/([0-9a-f]+)/[\w.-]+"
_MAX_NBYTES: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class StandIn:
    """Which bytes are meant: their address, how many, and what the content is called there; empty if it has no name.

    address: `hf://USER/MODEL@COMMIT/FILE` for the Hub's, whose host is whatever the user's client asks.
    """

    address: str
    nbytes: int
    content: str = ""

    def write(self, path: Path) -> None:
        """Write the text that stands for the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_MAGIC + json.dumps(asdict(self)), encoding="utf-8")


def root() -> Path:
    """Return where stand-ins are, and nowhere else."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path.home() / ".cache") / "gguf-convert" / "remote"


def is_stand_in(path: Path) -> bool:
    """Whether a file's bytes are elsewhere."""
    return read_stand_in(path) is not None


def read_stand_in(path: Path) -> StandIn | None:
    """Read which bytes a file stands for; None where its bytes are its own."""
    if not path.is_relative_to(root()):
        return None
    try:
        if path.stat().st_size > _MAX_NBYTES:
            return None
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return StandIn(**json.loads(text.removeprefix(_MAGIC))) if text.startswith(_MAGIC) else None


def open_remote(path: Path) -> RemoteFile | None:
    """Open the file that a path stands for; None where the path's bytes are its own. Asks no one yet."""
    stand_in = read_stand_in(path)
    return None if stand_in is None else opened(stand_in)


@lru_cache(maxsize=4096)
def opened(stand_in: StandIn) -> RemoteFile:
    """Open what a stand-in says: one for all who read it, since it remembers where redirects led."""
    if stand_in.address.startswith(("hf://", "http://", "https://")):
        from convert.remote.http_file import HttpFile  # noqa: PLC0415 - a model on this disk needs neither

        return HttpFile(stand_in.address, stand_in.nbytes, stand_in.content)
    from convert.remote.fsspec_file import FsspecFile  # noqa: PLC0415

    return FsspecFile(stand_in.address, stand_in.nbytes, stand_in.content)


def hub_name(directory: Path) -> str | None:
    """Return `USER/MODEL` for a directory that stands for a model on the Hub; else None."""
    found = re.fullmatch(rf"{re.escape(str(root()))}/{_HUB}", str(directory))
    return _name(found) if found else None


def _name(match: re.Match[str]) -> str:
    return match[1].replace("--", "/", 1)


def said(text: str) -> str:
    """Put the addresses that people know in place of the cached directories in a text."""
    place = str(root())
    if place not in text:
        return text
    text = re.sub(rf"{re.escape(place)}/{_HUB}", lambda match: f"hf://{_name(match)}@{match[2]}", text)
    from urllib.parse import unquote  # noqa: PLC0415

    return re.sub(rf"{re.escape(place)}/other/([^/]+)@\w+/[^/\s`]+", lambda match: unquote(match[1]), text)
