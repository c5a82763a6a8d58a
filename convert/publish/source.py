"""What files were made from: a checkpoint's repository and commit, the head of its card, and what ends its answers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from convert.authorship import read_front_matter
from convert.checkpoint import read_json
from convert.errors import CheckpointError
from convert.shown import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_MAX_NBYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from, as far as it is known.

    repository: `ORG/NAME`. commit: of it, 40 hex digits. front_matter: of its card. end_ids: the tokens of
    generation_config.json that end an answer.
    """

    repository: str | None = None
    commit: str | None = None
    front_matter: Mapping[str, Any] = field(default_factory=dict)
    end_ids: tuple[int, ...] = ()


def read_source(directory: Path | None, repository: str | None = None) -> Source:
    """Look at a checkpoint's directory. repository: what it is called, where the directory does not say.

    A cache of the Hub's says both in its paths, and `hf download --local-dir` leaves the commit beside the files.
    Raises CheckpointError for a directory that is not there, a card or a generation_config.json that cannot be read.
    """
    if directory is None:
        return Source(repository)
    if not directory.exists():
        raise CheckpointError(f"{shown(directory)} does not exist", hint=nearest(directory))
    known = _of_cache(directory)
    return Source(
        repository or known[0],
        known[1] or _downloaded_commit(directory),
        read_front_matter(directory / "README.md"),
        _end_ids(directory / "generation_config.json"),
    )


def _of_cache(directory: Path) -> tuple[str | None, str | None]:
    """Read `models--ORG--NAME/…/COMMIT/…` off a path: repository and commit."""
    parts = directory.parts
    place = next((index for index, part in enumerate(parts) if part.startswith("models--")), None)
    if place is None:
        return None, None
    commit = next((part for part in parts[place + 1 :] if _COMMIT.fullmatch(part)), None)
    return parts[place].removeprefix("models--").replace("--", "/"), commit


def _downloaded_commit(directory: Path) -> str | None:
    # huggingface_hub/_local_folder.py: a file for each downloaded one, whose first line is the commit.
    told = directory / ".cache" / "huggingface" / "download" / "config.json.metadata"
    first = told.read_text(errors="replace").split("\n", 1)[0].strip() if told.is_file() else ""
    return first if _COMMIT.fullmatch(first) else None


def _end_ids(path: Path) -> tuple[int, ...]:
    config = read_json(path, max_nbytes=_MAX_NBYTES) if path.is_file() else {}
    ends = config.get("eos_token_id")
    listed = ends if isinstance(ends, list) else [ends]
    return tuple(number for number in listed if isinstance(number, int) and not isinstance(number, bool))
