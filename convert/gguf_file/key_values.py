"""A metadata entry to bytes and back: each encoding stands beside its decoding.

    entry:   key (string) · type (uint32) · value
    string:  length in bytes (uint64) · the bytes
    array:   item type (uint32) · count (uint64) · the items, without types of their own

Decoding and encoding again gives the same bytes; but for a single string that is not UTF-8, a bool
that is neither 0 nor 1, and a float32's signalling NaN, which readers have no use for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gguf import GGUFValueType

from convert.gguf_file.data import Entry, KeyValue

if TYPE_CHECKING:
    from convert.gguf_file.cursor import Cursor

_STRUCT_CODES: Final[Mapping[GGUFValueType, str]] = {
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
_TYPE: Final = struct.Struct("<I")
_COUNT: Final = struct.Struct("<Q")
_MAX_ITEMS: Final = 1 << 24
_MAX_KEY_NBYTES: Final = 65535


def encoded_entry(entry: KeyValue) -> Entry:
    """Pair an entry with its bytes, so that many files share one encoding."""
    return entry, encode_key_value(entry)


def encode_key_value(entry: KeyValue) -> bytes:
    """Encode one metadata entry as it stands in the file.

    Raises ValueError, TypeError, OverflowError or struct.error, as Python does, for a value that is
    not of its type.
    Source: gguf-py/gguf/gguf_writer.py, GGUFWriter._pack_val.
    """
    key = encode_strings([entry.key])
    if entry.type is GGUFValueType.ARRAY:
        return key + _TYPE.pack(entry.type) + _encode_array(entry.value, entry.item_type)
    return key + _TYPE.pack(entry.type) + _encode_items([entry.value], entry.type)


def decode_key_value(cursor: Cursor) -> KeyValue:
    """Decode the metadata entry at the cursor.

    Array items that are strings stay bytes: tokens need not be UTF-8.
    Raises CheckpointError if it is broken.
    """
    key = cursor.take_text(_MAX_KEY_NBYTES, "a metadata key")
    value_type = _decode_type(cursor, key)
    if value_type is GGUFValueType.ARRAY:
        item_type, items = _decode_array(cursor, key)
        return KeyValue(key, items, value_type, item_type)
    (value,) = _decode_items(cursor, value_type, 1, key)
    return KeyValue(key, value.decode(errors="replace") if isinstance(value, bytes) else value, value_type)


def _encode_array(items: Sequence[Any], item_type: GGUFValueType | None) -> bytes:
    if not isinstance(items, Sequence):
        raise ValueError("a GGUF array is made of a sequence")  # noqa: TRY004 - what the package's writer raises
    item_type = _common_type(items) if item_type is None else item_type
    return _TYPE.pack(item_type) + _COUNT.pack(len(items)) + _encode_items(items, item_type)


def _decode_array(cursor: Cursor, key: str) -> tuple[GGUFValueType, tuple[Any, ...]]:
    item_type = _decode_type(cursor, key)
    count = cursor.take_number("Q", f"`{key}`")
    least = 8 if item_type is GGUFValueType.STRING else 1  # the bytes that an item takes
    if item_type is GGUFValueType.ARRAY or count > min(cursor.nbytes // least, _MAX_ITEMS):
        raise cursor.broken(f"`{key}` is an array of {count} {item_type.name.lower()} items")
    return item_type, _decode_items(cursor, item_type, count, key)


def _encode_items(items: Sequence[Any], item_type: GGUFValueType) -> bytes:
    if item_type is GGUFValueType.STRING:
        return encode_strings(items)
    if item_type is GGUFValueType.ARRAY:
        raise ValueError("GGUF has no arrays of arrays")  # gguf.cpp reads none
    return struct.pack(f"<{len(items)}{_STRUCT_CODES[item_type]}", *items)


def _decode_items(cursor: Cursor, item_type: GGUFValueType, count: int, key: str) -> tuple[Any, ...]:
    if item_type is GGUFValueType.STRING:
        return cursor.take_strings(count, f"`{key}`")
    layout = f"<{count}{_STRUCT_CODES[item_type]}"
    return struct.unpack(layout, cursor.take(struct.calcsize(layout), f"`{key}`"))


def encode_strings(strings: Iterable[str | bytes]) -> bytes:
    """Encode strings one after the other, each with its length before it."""
    encoded = bytearray()
    for string in strings:
        raw = string.encode() if isinstance(string, str) else string
        encoded += _COUNT.pack(len(raw))
        encoded += raw
    return bytes(encoded)


def _decode_type(cursor: Cursor, key: str) -> GGUFValueType:
    code = cursor.take_number("I", f"the type of `{key}`")
    try:
        return GGUFValueType(code)
    except ValueError:
        raise cursor.broken(f"`{key}` has the unknown value type {code}") from None


def _common_type(items: Sequence[Any]) -> GGUFValueType:
    if isinstance(items, bytes):
        return GGUFValueType.UINT8
    types = set(map(GGUFValueType.get_type, items))
    if len(types) != 1:
        raise ValueError(f"the items of a GGUF array are of one type, got {sorted(type_.name for type_ in types)}")
    return types.pop()
