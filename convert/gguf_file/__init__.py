"""GGUF files: headers as data, made before any weight is read, and read without trust.

    data         what a header holds
    key_values   one metadata entry to bytes and back
    header       a whole header to bytes, with a place for every tensor
    reader       a file's header, checked, in bounded memory, never mapped

The `gguf` package owns the format's words.
"""

from convert.gguf_file.data import ALIGNMENT, Entry, KeyValue, TensorInfo, padded, tensor_nbytes
from convert.gguf_file.header import layout
from convert.gguf_file.key_values import encode_key_value, encoded_entry
from convert.gguf_file.reader import GGUFFile, read_gguf

__all__ = [
    "ALIGNMENT",
    "Entry",
    "GGUFFile",
    "KeyValue",
    "TensorInfo",
    "encode_key_value",
    "encoded_entry",
    "layout",
    "padded",
    "read_gguf",
    "tensor_nbytes",
]
