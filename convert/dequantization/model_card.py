"""README.md: the original card, and a section that says what was made of what."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import yaml

from convert.dequantization.side_files import SideFile, read_bounded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_FRONT_MATTER: Final = re.compile(rb"\A(\xef\xbb\xbf)?---[ \t]*\r?\n.*?^---[ \t]*(\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_NEW_FRONT_MATTER: Final = b"---\nlibrary_name: transformers\n---\n"
_MAX_NBYTES: Final = 16 << 20


def model_card(directory: Path, name: str, statements: Sequence[str]) -> SideFile:
    """Make the card: its front matter and text as they were, the statements between them.

    name: the new model's. statements: sentences, a paragraph each.
    """
    path = directory / "README.md"
    original = read_bounded(path, _MAX_NBYTES) if path.is_file() else b""
    matter = _FRONT_MATTER.match(original)
    section = "\n\n".join(["## How these weights were made", *statements])
    if matter is None and not original:
        return SideFile("README.md", _NEW_FRONT_MATTER + f"\n# {_one_line(name)}\n\n{section}\n".encode())
    head, rest = (matter.group(), original[matter.end() :]) if matter else (b"", original)
    head = head if head.endswith(b"\n") or not head else head + b"\n"
    return SideFile("README.md", head + f"\n{section}\n\n".encode() + rest.lstrip(b"\r\n"))


def new_card(name: str, statements: Sequence[str], front_matter: Mapping[str, Any]) -> SideFile:
    """Make the card of a model that has none. front_matter: what is known of its makers."""
    matter = yaml.safe_dump({"library_name": "transformers", **front_matter}, sort_keys=False, allow_unicode=True)
    section = "\n\n".join(["## How these weights were made", *statements])
    return SideFile("README.md", f"---\n{matter}---\n\n# {_one_line(name)}\n\n{section}\n".encode())


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "�" for letter in text)
