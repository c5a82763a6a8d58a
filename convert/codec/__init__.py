"""The numbers: blocks of quantized weights, encoded fast by compiled kernels and defined readably in NumPy.

contract    what a codec is
ggml_types  types that the gguf package lacks
reference   every codec in NumPy, the definition: a row each; how blocks are encoded is in the files of their types
kernels/    the same in C, for each instruction set
compiled    finds and loads them
decoding    decodes rows of blocks, and weights that a checkpoint has packed in four bits
encoding    encodes a slice for several outputs at once: what the rest of the house calls
numpy_rows  the same without kernels
"""

from __future__ import annotations

from convert.codec import ggml_types  # noqa: F401 - before any type is looked up
from convert.codec.compiled import available_levels, kernel_level, kernels_digest
from convert.codec.contract import (
    F16_OVERFLOW,
    FLOAT_TYPES,
    BadValues,
    Codec,
    Importance,
    KernelsMissingWarning,
    row_nbytes,
)
from convert.codec.decoding import decode_4bit, decode_rows
from convert.codec.encoding import encode_rows, encode_rows_allowing_nonfinite
from convert.codec.reference import CODECS

__all__ = [
    "CODECS",
    "F16_OVERFLOW",
    "FLOAT_TYPES",
    "BadValues",
    "Codec",
    "Importance",
    "KernelsMissingWarning",
    "available_levels",
    "decode_4bit",
    "decode_rows",
    "encode_rows",
    "encode_rows_allowing_nonfinite",
    "kernel_level",
    "kernels_digest",
    "row_nbytes",
]
