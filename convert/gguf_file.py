"""GGUF files: the header to write, and a bounded, suspicious reader.

The `gguf` package owns the format's words and packs the bytes. What it lacks is here: a header as
plain data, made before any weight is read, and a reader that neither maps the file nor trusts it.

    magic "GGUF" · version 3 · n_tensors · n_key_values
    key values:    key, type, value                                   (in the given order)
    tensor infos:  name, n_dims, dims (innermost first), type, offset (from the start of the data)
    padding to the alignment, then each tensor's data, padded too

Shapes are in NumPy order (outermost first) everywhere else in the project.
Source: ggml/docs/gguf.md and ggml/src/gguf.cpp @ 0c1e570.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.gguf_writer import GGUFValue, WriterState

from convert.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One metadata entry.

    value: a str, bool, int or float as `type` says; for `GGUFValueType.ARRAY` a tuple of them
    (strings may be bytes), whose elements have `item_type` (inferred from the first when None).
    """

    key: str
    value: Any
    type: GGUFValueType
    item_type: GGUFValueType | None = None


Entry = tuple[KeyValue, bytes]  # a metadata entry, and the same as it stands in the file


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies in a GGUF file.

    shape: NumPy order. offset: bytes from the start of the file. nbytes: without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int


def padded(nbytes: int, alignment: int = ALIGNMENT) -> int:
    """Round up to a multiple of the alignment."""
    return -(-nbytes // alignment) * alignment


def tensor_nbytes(shape: Sequence[int], tensor_type: GGMLQuantizationType) -> int:
    """Count the bytes of a tensor's data.

    Raises ShapeError if the last dimension is not a multiple of the type's block size.
    """
    block_size, type_size = GGML_QUANT_SIZES[tensor_type]
    n_cols = shape[-1] if shape else 1
    if n_cols % block_size:
        msg = f"{tensor_type.name} takes rows of a multiple of {block_size}, got {n_cols}"
        raise ShapeError(msg)
    nbytes: int = prod(shape) // block_size * type_size
    return nbytes


def encode_key_value(entry: KeyValue) -> bytes:
    """Encode one metadata entry as it stands in the file."""
    writer, buffer = _buffered_writer()
    writer.kv_data = [{entry.key: GGUFValue(entry.value, entry.type, entry.item_type)}]
    writer.state = WriterState.HEADER
    writer.write_kv_data_to_file()
    return buffer.getvalue()


def encoded_entry(entry: KeyValue) -> Entry:
    """Pair an entry with its bytes, so that many files share one encoding."""
    return entry, encode_key_value(entry)


def layout(
    tensors: Iterable[tuple[str, tuple[int, ...], GGMLQuantizationType]],
    entries: Sequence[Entry],
    alignment: int = ALIGNMENT,
) -> tuple[bytes, tuple[TensorInfo, ...], int]:
    """Lay out a file: its header, where each tensor's data goes, and its total length in bytes.

    tensors: name, shape (NumPy order) and type, in file order. entries: the metadata, in file order.
    The header ends with the padding before the data; every tensor is followed by its padding.
    """
    listed = list(tensors)
    metadata = b"".join(encoded for _, encoded in entries)
    header = _counts(len(listed), len(entries)) + metadata + _encode_tensor_infos(listed, alignment)
    header = header.ljust(padded(len(header), alignment), b"\0")
    offset = len(header)
    infos = []
    for name, shape, tensor_type in listed:
        nbytes = tensor_nbytes(shape, tensor_type)
        infos.append(TensorInfo(name, shape, tensor_type, offset, nbytes))
        offset += padded(nbytes, alignment)
    return header, tuple(infos), offset


def _buffered_writer() -> tuple[GGUFWriter, io.BytesIO]:
    """Return the package's writer with a buffer in place of its file (its own path opens a real one)."""
    writer, buffer = GGUFWriter(None, ""), io.BytesIO()
    writer.kv_data = [{}]
    writer.fout = [buffer]
    return writer, buffer


def _counts(n_tensors: int, n_key_values: int) -> bytes:
    writer, buffer = _buffered_writer()
    writer.tensors = [dict.fromkeys(map(str, range(n_tensors)))]
    writer.kv_data = [dict.fromkeys(map(str, range(n_key_values)))]
    writer.state = WriterState.EMPTY
    writer.write_header_to_file()
    return buffer.getvalue()


def _encode_tensor_infos(tensors: Sequence[tuple[str, tuple[int, ...], GGMLQuantizationType]], alignment: int) -> bytes:
    writer, buffer = _buffered_writer()
    writer.data_alignment = alignment
    for name, shape, tensor_type in tensors:
        writer.add_tensor_info(name, shape, None, tensor_nbytes(shape, tensor_type), raw_dtype=tensor_type)
    writer.state = WriterState.KV_DATA
    writer.write_ti_data_to_file()
    return buffer.getvalue()
