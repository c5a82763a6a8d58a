"""GGUF files: the header to write, and a bounded, suspicious reader, with one codec for both.

    magic "GGUF" · version 3 · n_tensors · n_key_values
    key values:    key, type, value                                   (in the given order)
    tensor infos:  name, n_dims, dims (innermost first), type, offset (from the start of the data)
    padding to the alignment, then each tensor's data, padded too

data        what a header says, as plain values
key_values  a metadata entry to bytes and back
header      counts and tensor infos to bytes and back; lays out a file before any weight is read
cursor      the position in an untrusted header
reader      reads a header and checks it as a whole
llamafile   a program that holds a GGUF file
ggml        files older than GGUF
split       models in parts: which one a file is, and all of them together
mistaken    what is passed where a GGUF file is wanted

Numbers are little endian; a string is its length in bytes (uint64), then UTF-8. Shapes are in NumPy
order (outermost first) everywhere but in the file. The `gguf` package owns the format's words.
Source: ggml/docs/gguf.md and ggml/src/gguf.cpp @ 0c1e570.
"""

from __future__ import annotations

from convert.gguf_file.data import ALIGNMENT, Entry, KeyValue, TensorInfo, padded, scale_name, tensor_nbytes
from convert.gguf_file.ggml import is_ggml, read_ggml
from convert.gguf_file.header import layout
from convert.gguf_file.key_values import encode_key_value, encoded_entry
from convert.gguf_file.reader import GGUFFile, is_gguf, parse_gguf, read_gguf
from convert.gguf_file.split import SPLIT_COUNT, SPLIT_KEYS, Part, as_one, part_of, read_parts

__all__ = [
    "ALIGNMENT",
    "SPLIT_COUNT",
    "SPLIT_KEYS",
    "Entry",
    "GGUFFile",
    "KeyValue",
    "Part",
    "TensorInfo",
    "as_one",
    "encode_key_value",
    "encoded_entry",
    "is_ggml",
    "is_gguf",
    "layout",
    "padded",
    "parse_gguf",
    "part_of",
    "read_ggml",
    "read_gguf",
    "read_parts",
    "scale_name",
    "tensor_nbytes",
]
