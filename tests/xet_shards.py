"""What a xet shard says of files: after a header, for each file its pieces, and at the end its sha256.

    header   48 bytes: tag (32), version, length of the footer
    file     48: hash (32; all ones after the last), flags (u32), n (u32), 8 unused
             n x 48: where its pieces lie; n x 48 more under the flag 1 << 31; 48 under 1 << 30: sha256 (32), 16 unused

A hash is four little-endian words, whose digits are written in their order.
Source: xet-core, mdb_shard/src/file_structs.rs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_RECORD: Final = 48
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30


def files_of_shard(shard: bytes) -> Iterator[str]:
    """Yield the sha256 of each file that a shard describes."""
    position = _RECORD
    while (record := shard[position : position + 32]) and record != b"\xff" * 32:
        flags, n_pieces = struct.unpack_from("<II", shard, position + 32)
        position += _RECORD * (1 + n_pieces * (2 if flags & _VERIFIED else 1))
        if flags & _WITH_SHA256:
            yield "".join(f"{word:016x}" for word in struct.unpack_from("<4Q", shard, position))
            position += _RECORD
