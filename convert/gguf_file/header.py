"""The fixed parts of a header to bytes and back, and a file's layout before any weight is read."""

from __future__ import annotations

import struct
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from gguf import GGMLQuantizationType

from convert.errors import UnsupportedError
from convert.gguf_file.data import ALIGNMENT, Entry, TensorInfo, padded, tensor_nbytes
from convert.gguf_file.key_values import encode_strings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from convert.gguf_file.cursor import Cursor

Described = tuple[str, tuple[int, ...], GGMLQuantizationType]  # a tensor's name, shape (NumPy order) and type

MAGIC: Final = b"GGUF"
_VERSION: Final = 3
_BIG_ENDIAN: Final = "turn it round, in place, with the gguf package's own tool: `gguf-convert-endian FILE little`"
# ggml/src/gguf.cpp @ 0c1e570 refuses it too; llama.cpp read it from August to November 2023.
_VERSION_1: Final = "no program of today reads it: get a newer GGUF of the model, or convert its checkpoint"
_NEWER: Final = "it is damaged, or newer than this version"
_MAX_DIMS: Final = 4  # GGML_MAX_DIMS
_MAX_NAME_NBYTES: Final = 63  # GGML_MAX_NAME - 1


def layout(
    tensors: Iterable[Described], entries: Sequence[Entry], alignment: int = ALIGNMENT
) -> tuple[bytes, tuple[TensorInfo, ...], int]:
    """Lay out a file: its header, where each tensor's data goes, and its total length in bytes.

    tensors: name, shape (NumPy order) and type, in file order. entries: the metadata, in file order.
    The header ends with the padding before the data; every tensor is followed by its padding.
    Raises ShapeError if a tensor's rows do not fill its type's blocks.
    """
    listed = list(tensors)
    nbytes = [tensor_nbytes(shape, tensor_type) for _, shape, tensor_type in listed]
    *offsets, data_nbytes = accumulate((padded(count, alignment) for count in nbytes), initial=0)
    header = _encode_counts(len(listed), len(entries)) + b"".join(encoded for _, encoded in entries)
    header += b"".join(map(_encode_tensor, listed, offsets))
    start = padded(len(header), alignment)
    infos = (
        TensorInfo(*tensor, start + offset, count)
        for tensor, offset, count in zip(listed, offsets, nbytes, strict=True)
    )
    return header.ljust(start, b"\0"), tuple(infos), start + data_nbytes


def _encode_counts(n_tensors: int, n_key_values: int) -> bytes:
    return MAGIC + struct.pack("<IQQ", _VERSION, n_tensors, n_key_values)


def decode_counts(cursor: Cursor) -> tuple[int, int]:
    """Decode what stands before the key values: how many tensors and key values follow.

    Raises CheckpointError if it is broken, UnsupportedError for another version or byte order.
    """
    cursor.take(len(MAGIC), "the magic")  # which the reader has seen
    _check_version(cursor, cursor.take_number("I", "the version"))
    n_tensors, n_key_values = cursor.take_number("Q", "the tensor count"), cursor.take_number("Q", "the metadata count")
    if max(n_tensors, n_key_values) > cursor.nbytes // 12:  # the least that an entry takes
        raise cursor.broken(f"it claims {n_tensors} tensors and {n_key_values} metadata entries")
    return n_tensors, n_key_values


def _check_version(cursor: Cursor, version: int) -> None:
    if version not in (2, 3):
        swapped = version.to_bytes(4, "big") in (b"\2\0\0\0", b"\3\0\0\0")
        what = "is big endian" if swapped else f"has GGUF version {version}"
        hint = _BIG_ENDIAN if swapped else _VERSION_1 if version == 1 else _NEWER
        raise UnsupportedError(f"`{cursor.path}` {what}; versions 2 and 3, little endian, are read", hint=hint)


def _encode_tensor(tensor: Described, offset: int) -> bytes:
    name, shape, tensor_type = tensor
    n_dims = len(shape)
    return encode_strings([name]) + struct.pack(f"<I{n_dims}QIQ", n_dims, *reversed(shape), tensor_type, offset)


def decode_tensor(cursor: Cursor) -> tuple[Described, int]:
    """Decode the tensor info at the cursor: name, shape (NumPy order) and type, then the offset in the data.

    Raises CheckpointError if it is broken, UnsupportedError for a type that is not known.
    """
    name = cursor.take_text(_MAX_NAME_NBYTES, "a tensor name")
    n_dims = cursor.take_number("I", f"the dimensions of `{name}`")
    if not 1 <= n_dims <= _MAX_DIMS:
        raise cursor.broken(f"tensor `{name}` has {n_dims} dimensions, 1 to {_MAX_DIMS} are possible")
    shape = tuple(cursor.take_number("Q", f"the shape of `{name}`") for _ in range(n_dims))[::-1]
    if 0 in shape:
        raise cursor.broken(f"tensor `{name}` has shape {shape}")
    tensor_type = _decode_tensor_type(cursor, name)
    return (name, shape, tensor_type), cursor.take_number("Q", f"the offset of `{name}`")


def _decode_tensor_type(cursor: Cursor, name: str) -> GGMLQuantizationType:
    code = cursor.take_number("I", f"the type of `{name}`")
    try:
        return GGMLQuantizationType(code)
    except ValueError:
        raise UnsupportedError(f"tensor `{name}` of `{cursor.path}` has the unknown type {code}") from None
