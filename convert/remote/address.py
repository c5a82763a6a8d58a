"""What people call a model that is not on this disk."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from convert.errors import CheckpointError
from convert.shown import shown

# A path has made one slash of two.
_SCHEME: Final = re.compile(r"(hf|https?|s3|s3a|gs|gcs|az|abfs|abfss):/+(.+)")
# `refs/pr/1` is a revision with slashes; others have them written %2F, as the Hub's client reads them too.
_HUB: Final = re.compile(
    r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>refs/(?:pr/\d+|convert/[\w.-]+)|[^/@]+))?(?:/(?P<inside>.+?))?/*"
)
_PAGE: Final = re.compile(
    r"(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<name>[\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve|raw)/(?P<revision>refs%2F[\w%]+|[^/?]+)(?:/(?P<inside>[^?]+))?)?/*(?:\?.*)?"
)
_BARE: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A model on the Hub, or a file or folder in it. is_bare: it was written as a path may be, and none is there."""

    name: str
    revision: str | None = None
    inside: str = ""
    is_bare: bool = False


def read_address(given: str | os.PathLike[str]) -> HubAddress | str | None:
    """Tell what is not a path: a model of the Hub, or another address, a string; None for a path.

    `USER/MODEL` is the Hub's where neither it nor `USER` is here.
    Raises CheckpointError for an address that cannot be one.
    """
    text = os.fspath(given)
    if (address := _SCHEME.fullmatch(text)) is None:
        return _bare(text)
    scheme, rest = address.groups()
    if page := _PAGE.fullmatch(rest) if scheme.startswith("http") else None:
        return _hub(page)
    if scheme != "hf":
        return f"{scheme}://{rest.rstrip('/')}"
    hub = _HUB.fullmatch(rest.removeprefix("models/"))
    if hub is None or rest.startswith(("datasets/", "spaces/")) or ".." in rest.split("/"):
        raise CheckpointError(
            f"{shown(f'hf://{rest}')} is no model of the Hub", hint="write hf://USER/MODEL[@REVISION]"
        )
    return _hub(hub)


def _hub(match: re.Match[str]) -> HubAddress:
    revision = match["revision"]
    return HubAddress(match["name"], revision and unquote(revision), unquote(match["inside"] or "").strip("/"))


def _bare(text: str) -> HubAddress | None:
    if not _BARE.fullmatch(text) or os.path.lexists(text) or Path(text).parent.exists():
        return None
    name, _, revision = text.partition("@")
    return HubAddress(name, revision or None, is_bare=True)
