"""From what a user names to a path; little is imported for what is on this disk."""

from __future__ import annotations

import os
from pathlib import Path

from convert.errors import UnsupportedError
from convert.remote.stand_in import is_stand_in, said
from convert.shown import shown

PathLike = str | os.PathLike[str]


def located(given: PathLike) -> PathLike:
    """Give a path for what may be elsewhere: a path as it is; for an address, where its files or stand-ins are.

    Raises CheckpointError where it is refused or not reached, UnsupportedError for a store that nothing here knows.
    """
    text = os.fspath(given)
    if ":/" not in text and text.count("/") != 1:
        return given
    from convert.remote.address import HubAddress, read_address  # noqa: PLC0415

    if (address := read_address(text)) is None:
        return given
    from convert.remote.snapshot import from_hub, from_store  # noqa: PLC0415

    return from_hub(address) if isinstance(address, HubAddress) else from_store(address)


def require_here(given: PathLike) -> None:
    """Raise UnsupportedError for what is not on this disk, where another program is to read it."""
    path = Path(given)
    if is_stand_in(path) or (":/" in os.fspath(given) and not path.exists()):
        what = shown(said(os.fspath(given)))
        raise UnsupportedError(
            f"{what} is not on this disk, and llama.cpp's programs read no other",
            hint="download it first: `hf download`",
        )
