"""From what a user names to a path; little is imported for what is on this disk."""

from __future__ import annotations

import os

PathLike = str | os.PathLike[str]


def located(given: PathLike) -> PathLike:
    """Give a path for what may be elsewhere: a path as it is; for an address, where its files or stand-ins are.

    Raises CheckpointError where it is refused or not reached, UnsupportedError for a store that nothing here knows.
    """
    text = os.fspath(given)
    if ":/" not in text and text.count("/") != 1:
        return given
    from convert.remote.address import HubAddress, read_address  # noqa: PLC0415

    address = read_address(text)
    if address is None:
        return given
    from convert.remote.snapshot import from_hub, from_store  # noqa: PLC0415

    return from_hub(address) if isinstance(address, HubAddress) else from_store(address)
