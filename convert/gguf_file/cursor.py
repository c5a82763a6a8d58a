"""The position in an untrusted header: every byte is checked to be there before it is taken.

The header is read ahead in chunks and kept until it is whole; nothing is mapped, and no length that
the file claims is allocated before the file is known to have as many bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO, Final

from convert.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_HEADER_NBYTES: Final = 128 << 20
_CHUNK_NBYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct("<Q")


class Cursor:
    """The position in one file's header, in bytes from its start, and the checks on what is taken there.

    file: open at its start. nbytes: the whole file's. What is taken has a name, for the error.
    Every method raises CheckpointError where the file has less than it claims.
    """

    def __init__(self, path: Path, file: BinaryIO, nbytes: int) -> None:
        self.path = path
        self.nbytes = nbytes
        self.position = 0
        self._file = file
        self._ahead = bytearray()  # the file from its start, as far as it was read

    def broken(self, what: str) -> CheckpointError:
        """Make the error that says what is wrong with the file."""
        return CheckpointError(f"`{self.path}` is not a sound GGUF file: {what}")

    def since(self, start: int) -> bytes:
        """Return again what was taken since a position."""
        return bytes(self._ahead[start : self.position])

    def take(self, nbytes: int, what: str) -> bytes:
        """Take so many bytes."""
        start = self.position
        end = start + nbytes
        if end > len(self._ahead):
            self._read_ahead(nbytes, what)
        self.position = end
        return bytes(self._ahead[start:end])

    def take_number(self, code: str, what: str) -> int:
        """Take an integer of the given `struct` code."""
        number: int = struct.unpack("<" + code, self.take(struct.calcsize(code), what))[0]
        return number

    def take_string(self, limit: int, what: str) -> bytes:
        """Take a string of at most `limit` bytes: its length, then its bytes."""
        (nbytes,) = _LENGTH.unpack(self.take(_LENGTH.size, what))
        if nbytes > limit:
            raise self.broken(f"{what} has {nbytes} bytes, at most {limit} are possible")
        return self.take(nbytes, what)

    def take_strings(self, count: int, what: str) -> tuple[bytes, ...]:
        """Take strings of any length, one after the other: a vocabulary has some 100 000."""
        strings: list[bytes] = []
        while len(strings) < count:
            strings += self._strings_ahead(count - len(strings))
            if len(strings) < count:
                strings.append(self.take_string(self.nbytes, what))
        return tuple(strings)

    def take_text(self, limit: int, what: str) -> str:
        """Take a string that must be UTF-8."""
        raw = self.take_string(limit, what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.broken(f"{what} {raw[:40]!r} is not UTF-8") from None

    def _strings_ahead(self, count: int) -> list[bytes]:
        """Take at most `count` strings, as far as they are whole in what was read ahead."""
        ahead, end, strings = self._ahead, self.position, []
        for _ in range(count):
            start = end + _LENGTH.size
            if start > len(ahead):
                break
            end = start + _LENGTH.unpack_from(ahead, end)[0]
            if end > len(ahead):
                break
            strings.append(bytes(ahead[start:end]))
            self.position = end
        return strings

    def _read_ahead(self, nbytes: int, what: str) -> None:
        end = self.position + nbytes
        if end > _MAX_HEADER_NBYTES:
            raise self.broken(f"its header has more than {_MAX_HEADER_NBYTES} bytes, at {what}")
        if end <= self.nbytes:
            self._ahead += self._file.read(max(end - len(self._ahead), _CHUNK_NBYTES))
        if end > min(self.nbytes, len(self._ahead)):
            raise self.broken(f"{what} needs {nbytes} bytes at {self.position}, the file has {self.nbytes}")
