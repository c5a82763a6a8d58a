"""A whole GGUF header, as plain bytes, and a place for every tensor behind it.

    magic "GGUF" · version 3 · n_tensors · n_key_values
    key values:    key, type, value                                   (in the given order)
    tensor infos:  name, n_dims, dims (innermost first), type, offset (from the start of the data)
    padding to the alignment, then each tensor's data, padded too

Source: ggml/docs/gguf.md and ggml/src/gguf.cpp @ 0c1e570.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from gguf import GGUF_MAGIC, GGUF_VERSION

from convert.gguf_file.data import ALIGNMENT, Entry, TensorInfo, padded, tensor_nbytes
from convert.gguf_file.key_values import encode_string

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gguf import GGMLQuantizationType

_COUNTS: Final = struct.Struct("<IIQQ")


def layout(
    tensors: Iterable[tuple[str, tuple[int, ...], GGMLQuantizationType]],
    entries: Sequence[Entry],
    alignment: int = ALIGNMENT,
) -> tuple[bytes, tuple[TensorInfo, ...], int]:
    """Lay out a file: its header, where each tensor's data goes, and its total length in bytes.

    tensors: name, shape (NumPy order) and type, in file order. entries: the metadata, in file order.
    The header ends with the padding before the data; every tensor is followed by its padding.
    Raises ShapeError for rows that are not whole blocks.
    """
    placed, end = [], 0  # offsets from the start of the data
    for name, shape, tensor_type in tensors:
        placed.append(TensorInfo(name, shape, tensor_type, end, tensor_nbytes(shape, tensor_type)))
        end += padded(placed[-1].nbytes, alignment)
    counts = _COUNTS.pack(GGUF_MAGIC, GGUF_VERSION, len(placed), len(entries))
    header = b"".join((counts, *(encoded for _, encoded in entries), *map(_encode_info, placed)))
    header = header.ljust(padded(len(header), alignment), b"\0")
    infos = tuple(
        TensorInfo(info.name, info.shape, info.type, len(header) + info.offset, info.nbytes) for info in placed
    )
    return header, infos, len(header) + end


def _encode_info(info: TensorInfo) -> bytes:
    n_dims = len(info.shape)
    numbers = struct.pack(f"<I{n_dims}QIQ", n_dims, *reversed(info.shape), info.type, info.offset)
    return encode_string(info.name) + numbers
