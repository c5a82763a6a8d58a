"""How a value from elsewhere is shown in a message: quoted, harmless to a terminal, and not too long."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

MAX_SHOWN_CHARS: Final = 120


def shown(text: object) -> str:
    """Quote a name from a hostile file: in backticks, unprintable characters escaped, cut to a readable length.

    A Path is not cut: the system bounds it, and its last part matters most.
    """
    cut = str(text)
    if len(cut) > MAX_SHOWN_CHARS and not isinstance(text, PurePath):
        cut = cut[: MAX_SHOWN_CHARS - 1] + "…"
    escaped = (char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut)
    return f"`{''.join(escaped)}`"


def shown_list(names: list[str], *, most: int = 8) -> str:
    """Quote several names, and count those that there is no room for."""
    listed = ", ".join(shown(name) for name in names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"
