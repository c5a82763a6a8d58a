"""One metadata entry to bytes and back, both by one table of types.

    key      u64 length, UTF-8
    type     u32
    value    a number, little endian
             a string: u64 length, bytes
             an array: u32 type of the items, u64 count, the items' values

Source: ggml/docs/gguf.md and ggml/src/gguf.cpp @ 0c1e570.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, Protocol

from gguf import GGUFValueType

from convert.gguf_file.data import Entry, KeyValue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convert.errors import CheckpointError

# The struct module's codes.
_NUMBERS: Final[Mapping[GGUFValueType, str]] = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
_MAX_ITEMS: Final = 1 << 24
_MAX_KEY_NBYTES: Final = 65535


def encoded_entry(entry: KeyValue) -> Entry:
    """Pair an entry with its bytes, so that many files share one encoding."""
    return entry, encode_key_value(entry)


def encode_key_value(entry: KeyValue) -> bytes:
    """Encode one metadata entry as it stands in the file.

    Raises struct.error, TypeError, ValueError, OverflowError or AttributeError for a value that is not of its type.
    """
    value_type = struct.pack("<I", entry.type)
    if entry.type is not GGUFValueType.ARRAY:
        return encode_string(entry.key) + value_type + _encode_values(entry.type, (entry.value,))
    item_type = _item_type(entry.value) if entry.item_type is None else entry.item_type
    head = struct.pack("<IQ", item_type, len(entry.value))
    return encode_string(entry.key) + value_type + head + _encode_values(item_type, entry.value)


def encode_string(text: str | bytes) -> bytes:
    """Encode a string with its length."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _encode_values(value_type: GGUFValueType, values: Sequence[Any]) -> bytes:
    if value_type is GGUFValueType.STRING:
        return b"".join(map(encode_string, values))
    return struct.pack(f"<{len(values)}{_NUMBERS[value_type]}", *values)


def _item_type(values: Sequence[Any]) -> GGUFValueType:
    """Tell the type of an array's items from themselves, which are all of one."""
    types = {GGUFValueType.get_type(value) for value in values}
    if len(types) != 1:
        raise ValueError("the items of a GGUF array are of one type, and there is at least one")
    return types.pop()


class Source(Protocol):
    """Where an entry is decoded from: a place in a file, and what to say where it is broken."""

    @property
    def nbytes(self) -> int:
        """The length of the whole file."""

    def take(self, nbytes: int, what: str) -> bytes:
        """Read the next bytes; CheckpointError that names `what` if they are not there."""

    def broken(self, what: str) -> CheckpointError:
        """Make the error for a file that says what cannot be."""


def decode_key_value(source: Source) -> KeyValue:
    """Decode the next metadata entry. Raises CheckpointError, before anything large is made of a hostile length."""
    key = decode_text(source, _MAX_KEY_NBYTES, "a metadata key")
    value_type = _decode_type(source, key)
    if value_type is not GGUFValueType.ARRAY:
        (value,) = _decode_values(source, value_type, 1, key)
        return KeyValue(key, value.decode(errors="replace") if isinstance(value, bytes) else value, value_type)
    item_type = _decode_type(source, key)
    count = decode_number(source, "Q", f"`{key}`")
    least = 8 if item_type is GGUFValueType.STRING else 1
    if item_type is GGUFValueType.ARRAY or count > min(source.nbytes // least, _MAX_ITEMS):
        raise source.broken(f"`{key}` is an array of {count} {item_type.name.lower()} items")
    return KeyValue(key, tuple(_decode_values(source, item_type, count, key)), value_type, item_type)


def decode_number(source: Source, code: str, what: str) -> int:
    """Decode one number; code: the struct module's."""
    value: int = struct.unpack(f"<{code}", source.take(struct.calcsize(f"<{code}"), what))[0]
    return value


def decode_string(source: Source, limit: int, what: str) -> bytes:
    """Decode a string of at most `limit` bytes."""
    nbytes = decode_number(source, "Q", what)
    if nbytes > limit:
        raise source.broken(f"{what} has {nbytes} bytes, at most {limit} are possible")
    return source.take(nbytes, what)


def decode_text(source: Source, limit: int, what: str) -> str:
    """Decode a string that must be UTF-8."""
    raw = decode_string(source, limit, what)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise source.broken(f"{what} {raw[:40]!r} is not UTF-8") from None


def _decode_type(source: Source, key: str) -> GGUFValueType:
    code = decode_number(source, "I", f"the type of `{key}`")
    try:
        return GGUFValueType(code)
    except ValueError:
        raise source.broken(f"`{key}` has the unknown value type {code}") from None


def _decode_values(source: Source, value_type: GGUFValueType, count: int, key: str) -> Sequence[Any]:
    if value_type is GGUFValueType.STRING:
        return [decode_string(source, source.nbytes, f"`{key}`") for _ in range(count)]
    layout = struct.Struct(f"<{count}{_NUMBERS[value_type]}")
    return layout.unpack(source.take(layout.size, f"`{key}`"))
