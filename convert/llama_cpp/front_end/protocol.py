"""What goes over the socket between the two processes: a header in JSON, then bytes.

    length of the header, length of the bytes (uint32, uint64, little endian) · header · bytes

What comes from the other process is only ever JSON and numbers: it may have run a stranger's code.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

_LENGTHS: Final = struct.Struct("<IQ")
_MAX_HEADER_NBYTES: Final = 1 << 30


class ConnectionLostError(Exception):
    """The other process has ended."""


def send(connection: socket.socket, header: Mapping[str, Any], payload: bytes | memoryview = b"") -> None:
    """Send a header and bytes."""
    encoded = json.dumps(header).encode()
    try:
        connection.sendall(_LENGTHS.pack(len(encoded), len(payload)) + encoded)
        if len(payload):
            connection.sendall(payload)
    except OSError as error:
        raise ConnectionLostError from error


def receive(connection: socket.socket) -> tuple[dict[str, Any], int]:
    """Receive a header, and how many bytes follow it; they must be received next."""
    n_header, n_payload = _LENGTHS.unpack(receive_bytes(connection, _LENGTHS.size))
    if n_header > _MAX_HEADER_NBYTES:
        raise ConnectionLostError
    header: dict[str, Any] = json.loads(receive_bytes(connection, n_header))
    return header, n_payload


def receive_bytes(connection: socket.socket, nbytes: int) -> bytearray:
    """Receive so many bytes."""
    received = bytearray(nbytes)
    receive_into(connection, memoryview(received))
    return received


def receive_into(connection: socket.socket, out: memoryview) -> None:
    """Fill a contiguous buffer."""
    view = out.cast("B")
    while view.nbytes:
        try:
            count = connection.recv_into(view)
        except OSError as error:
            raise ConnectionLostError from error
        if count == 0:
            raise ConnectionLostError
        view = view[count:]
