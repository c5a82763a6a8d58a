"""What a codec is, and the few types its users need.

A codec turns rows of float32 into blocks of bytes and back. A row is cut into blocks of `block_size` weights, each
stored in `type_size` bytes; a block never crosses rows, so a row's encoded size depends only on its length.

    rows    float32 (n_rows, n_cols), C order, n_cols a multiple of block_size
    blocks  uint8   (n_rows, n_cols / block_size * type_size)

`encode` is deterministic and gives ggml's bytes (x86-64, `quantize_row_*_ref` @ 0c1e570) for every finite input,
zeros of either sign, denormals and overflowing scales included. `decode(encode(x))` is what a reader of the file sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from convert.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

F32Array: TypeAlias = NDArray[np.float32]
U8Array: TypeAlias = NDArray[np.uint8]

F16_OVERFLOW: Final = 65520.0  # the least magnitude that rounds to a float16 infinity
# The types that a source may have: value for value, no blocks.
FLOAT_TYPES: Final = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)


class KernelsMissingWarning(UserWarning):
    """The compiled kernels could not be loaded, so NumPy does the work, many times slower."""


@dataclass(frozen=True, slots=True)
class BadValues:
    """How many values of a source cannot be represented."""

    n_nonfinite: int
    """NaN or infinite in the source."""
    n_overflow: int
    """Finite in the source and infinite as float16; counted only where float16 has a part in the conversion."""

    def __bool__(self) -> bool:
        return self.n_nonfinite > 0 or self.n_overflow > 0

    def __add__(self, other: BadValues) -> BadValues:
        return BadValues(self.n_nonfinite + other.n_nonfinite, self.n_overflow + other.n_overflow)


@dataclass(frozen=True, slots=True)
class Codec:
    """One tensor type: its block layout, and readable NumPy code that defines its bytes."""

    type: GGMLQuantizationType
    block_size: int
    type_size: int
    encode_blocks: Callable[[F32Array], U8Array]
    """float32 (n_blocks, block_size) to uint8 (n_blocks, type_size)."""
    decode_blocks: Callable[[U8Array], F32Array]
    """uint8 (n_blocks, type_size) to float32 (n_blocks, block_size)."""

    def row_nbytes(self, n_cols: int) -> int:
        """Size in bytes of an encoded row of `n_cols` weights.

        Raises ShapeError if n_cols is not a multiple of block_size.
        """
        return row_nbytes(self.type, n_cols)

    def encode(self, rows: F32Array) -> U8Array:
        """Encode rows.

        rows: float32 (n_rows, n_cols), n_cols a multiple of block_size.
        Returns uint8 (n_rows, row_nbytes(n_cols)).
        Rounding and layout are the type's own; finite input gives ggml's bytes.
        Raises ShapeError if n_cols is not a multiple of block_size.
        """
        n_rows, n_cols = rows.shape
        row_nbytes = self.row_nbytes(n_cols)
        blocks = np.ascontiguousarray(rows).reshape(-1, self.block_size)
        with np.errstate(all="ignore"):  # infinities on the way are part of the definition
            return self.encode_blocks(blocks).reshape(n_rows, row_nbytes)

    def decode(self, blocks: U8Array) -> F32Array:
        """Decode rows of blocks.

        blocks: uint8 (n_rows, n_blocks * type_size).
        Returns float32 (n_rows, n_blocks * block_size).
        Raises ShapeError if a row is not a whole number of blocks.
        """
        n_rows, n_bytes = blocks.shape
        if n_bytes % self.type_size:
            raise ShapeError(f"a row has {n_bytes} bytes, {self.type.name} needs a multiple of {self.type_size}")
        n_cols = n_bytes // self.type_size * self.block_size
        with np.errstate(all="ignore"):
            rows = self.decode_blocks(np.ascontiguousarray(blocks).reshape(-1, self.type_size))
        return rows.reshape(n_rows, n_cols)


def row_nbytes(tensor_type: GGMLQuantizationType, n_cols: int) -> int:
    """Size in bytes of a row of `n_cols` weights in any type, also one that has no codec and goes as it is.

    Raises ShapeError if n_cols is not whole blocks.
    """
    block_size, type_size = sizes_of(tensor_type)
    if n_cols % block_size:
        raise ShapeError(f"a row has {n_cols} columns, {tensor_type.name} needs a multiple of {block_size}")
    return n_cols // block_size * type_size


def sizes_of(tensor_type: GGMLQuantizationType) -> tuple[int, int]:
    """Block size in weights and type size in bytes, from the `gguf` package."""
    block_size, type_size = GGML_QUANT_SIZES[tensor_type]
    return block_size, type_size
