"""Decodes rows of blocks, and weights packed in four bits, by the compiled kernels or in NumPy.

Four bits:

byte i      high nibble: weight 2 i, low nibble: weight 2 i + 1, counted over the flattened tensor
weight      code[nibble] * absmax[block], one float32 product, rounded to the type asked for
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from convert.codec.compiled import Decode4BitRequest, DecodeRequest, kernel_level, load_kernels
from convert.codec.contract import FLOAT_TYPES
from convert.codec.reference import CODECS
from convert.errors import ShapeError, UnsupportedError

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

    from convert.codec.contract import F32Array, U8Array

N_CODES: Final = 16
# Byte to its two indices, the high nibble first.
_NIBBLES: Final = np.stack([np.arange(256) >> 4, np.arange(256) & 15], axis=1)


def decode_rows(blocks: U8Array, tensor_type: GGMLQuantizationType) -> F32Array:
    """Decode rows of any type that has a codec.

    blocks: uint8 (n_rows, n_blocks * type_size), C order. Returns float32 (n_rows, n_blocks * block_size).
    Thread-safe, without the interpreter's lock where a kernel decodes the type.
    Raises ShapeError if a row is not a whole number of blocks, UnsupportedError for a type without a codec.
    """
    if tensor_type not in CODECS:
        raise UnsupportedError(f"{tensor_type.name} is not a type this version can decode")
    codec, kernels, level = CODECS[tensor_type], load_kernels(), kernel_level()
    n_rows, row_size = blocks.shape
    if kernels is None or level not in kernels.levels or row_size % codec.type_size:
        return codec.decode(blocks)
    blocks, n_blocks = np.ascontiguousarray(blocks), row_size // codec.type_size
    out = np.empty((n_rows, n_blocks * codec.block_size), np.float32)
    kernels.give_grid(level, tensor_type)
    request = DecodeRequest(blocks.ctypes.data, n_rows * n_blocks, int(tensor_type), out.ctypes.data)
    return out if kernels.decode(level, request) else codec.decode(blocks)


def decode_4bit(
    packed: U8Array,
    code: F32Array,
    absmax: F32Array,
    *,
    block_size: int,
    first: int,
    tensor_type: GGMLQuantizationType,
    out: U8Array,
) -> None:
    """Decode weights of a flattened tensor, from the weight `first` on, as many as `out` holds.

    packed: uint8 (n,), contiguous, from the byte of the first weight on.
    code: float32 (16,). absmax: float32 (n_blocks,), contiguous, from the block of the first weight on.
    tensor_type: F32, F16 or BF16. out: uint8 (n_values * itemsize,), contiguous, filled; little endian.
    Each value is one float32 product, rounded to nearest, ties to even.
    Thread-safe, without the interpreter's lock.
    Raises ShapeError where a buffer is too short, UnsupportedError for a type that is no float.
    Source: bitsandbytes 0.50.2, functional.py, dequantize_4bit; Dettmers et al., QLoRA (2023), section 3.
    """
    if tensor_type not in FLOAT_TYPES:
        raise UnsupportedError(f"four bits decode to F32, F16 or BF16, not {tensor_type.name}")
    n_values = out.size // CODECS[tensor_type].type_size
    _check(
        packed, code, absmax, n_bytes=-(-(first % 2 + n_values) // 2), n_blocks=_n_blocks(first, n_values, block_size)
    )
    kernels, level = load_kernels(), kernel_level()
    if kernels is None or level not in kernels.levels:
        with np.errstate(all="ignore"):  # what overflows is found where weights are checked
            values = _decode_with_numpy(packed, code, absmax, block_size=block_size, first=first, n_values=n_values)
            out[:] = CODECS[tensor_type].encode(values.reshape(1, -1)).reshape(-1)
        return
    request = Decode4BitRequest(
        packed=packed.ctypes.data,
        code=code.ctypes.data,
        absmax=absmax.ctypes.data,
        first_in_packed=first % 2,
        first_in_block=first % block_size,
        block_size=block_size,
        n_values=n_values,
        type=int(tensor_type),
        out=out.ctypes.data,
    )
    kernels.decode_4bit(level, request)


def _n_blocks(first: int, n_values: int, block_size: int) -> int:
    return -(-(first % block_size + n_values) // block_size)


def _check(packed: U8Array, code: F32Array, absmax: F32Array, *, n_bytes: int, n_blocks: int) -> None:
    if code.shape != (N_CODES,):
        raise ShapeError(f"a code of four bits has {N_CODES} numbers, not {code.shape}")
    if packed.size < n_bytes or absmax.size < n_blocks:
        raise ShapeError(f"{packed.size} packed bytes and {absmax.size} scales, wanted {n_bytes} and {n_blocks}")


def _decode_with_numpy(
    packed: U8Array, code: F32Array, absmax: F32Array, *, block_size: int, first: int, n_values: int
) -> F32Array:
    pairs = np.ascontiguousarray(code[_NIBBLES]).view(np.uint64).reshape(-1)  # byte to its two weights, moved as one
    begin = first % 2
    two_a_byte = np.take(pairs, packed[: (begin + n_values + 1) // 2], mode="clip").view(np.float32)
    values: F32Array = two_a_byte[begin : begin + n_values]
    head = min(-first % block_size, n_values)  # the rest of a block that was begun
    whole = head + (n_values - head) // block_size * block_size
    if head:
        values[:head] *= absmax[0]
    blocks = values[head:whole].reshape(-1, block_size)
    n_begun = int(head > 0)
    blocks *= absmax[n_begun : n_begun + len(blocks), None]
    if whole < n_values:
        values[whole:] *= absmax[n_begun + len(blocks)]
    return values
