"""What a codec is, and the few types its users need.

A codec turns rows of float32 into blocks of bytes and back. A row is cut into blocks of `block_size` weights, each
stored in `type_size` bytes; a block never crosses rows, so a row's encoded size depends only on its length.

    rows        float32 (n_rows, n_cols), C order, n_cols a multiple of block_size
    importance  float32 (n_cols,), finite, or none: how much an error in each column counts
    blocks      uint8   (n_rows, n_cols / block_size * type_size)

`encode` is deterministic and gives ggml's bytes (x86-64, `ggml_quantize_chunk` @ 0c1e570) for every finite input,
zeros of either sign, denormals and overflowing scales included. `decode(encode(x))` is what a reader of the file sees.

A type is one row here and one in C:

    in NumPy    a row of `reference.CODECS`: how blocks are encoded without importance (None: it needs importance),
                decoded, encoded with importance (None: it makes no difference), and where a block's float16 scales lie.
                What a block stores is drawn in the docstring of the file that encodes it.
    in C        kernels/: a file that ends with `const codec LEVEL(q9_z) = {...}`, its name in the list of `codecs.h`,
                its number in `kernels.h`. An encoder sees a chunk of whole blocks (codecs.h), LANES of them at a time
                at best, and gives the reference's bytes at every instruction set: lanes never share a sum. A decoder
                sees one block.
    judged      by `tests/test_codec*.py`, which go through the table: NumPy and every level against ggml, on all cases
                of weights and importance.

Where ggml aborts, NumPy raises BlocksRefused and C counts `n_refused`: whoever knows the tensor makes it an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from convert.errors import ShapeError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

F32Array: TypeAlias = NDArray[np.float32]
U8Array: TypeAlias = NDArray[np.uint8]

F16_OVERFLOW: Final = 65520.0  # the least magnitude that rounds to a float16 infinity
# The types that a source may have: value for value, no blocks.
FLOAT_TYPES: Final = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)


class BlocksRefused(Exception):  # noqa: N818 - no error yet: the tensor's name is missing
    """Some blocks cannot be encoded: ggml's own encoder aborts on them. Never leaves this room."""

    def __init__(self, n_blocks: int) -> None:
        super().__init__(n_blocks)
        self.n_blocks = n_blocks


class KernelsMissingWarning(UserWarning):
    """The compiled kernels could not be loaded, so NumPy does the work, many times slower."""


@dataclass(frozen=True, slots=True)
class BadValues:
    """How many values of a source cannot be represented."""

    n_nonfinite: int
    """NaN or infinite in the source."""
    n_overflow: int
    """Finite in the source and infinite as float16; counted only where float16 has a part in the conversion."""
    n_refused: int = 0
    """Blocks, in all targets, on which ggml's own encoder aborts; they hold no particular bytes."""

    def __bool__(self) -> bool:
        return self.n_nonfinite > 0 or self.n_overflow > 0 or self.n_refused > 0

    def __add__(self, other: BadValues) -> BadValues:
        return BadValues(
            self.n_nonfinite + other.n_nonfinite,
            self.n_overflow + other.n_overflow,
            self.n_refused + other.n_refused,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """How much an error in each column of a tensor counts, by an importance matrix."""

    columns: F32Array
    """float32 (n, n_cols), C order: a row for each of the tensor's experts, or one."""
    rows_each: int
    """How many of the tensor's rows, one after the other, share a row of `columns`."""

    def of_rows(self, first: int, n_rows: int) -> F32Array:
        """Give float32 (n_rows, n_cols): the importance of n_rows of the tensor's rows, from `first` on."""
        return self.columns[np.arange(first, first + n_rows) // self.rows_each]


@dataclass(frozen=True, slots=True)
class Weighting:
    """What encoding with importance knows of blocks besides their weights."""

    importance: F32Array
    """float32 (n_blocks, block_size)."""
    row_power: F32Array
    """float32 (n_blocks, 1): the mean square of the row that the block is in, summed in order."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One tensor type: its block layout, and readable NumPy code that defines its bytes."""

    type: GGMLQuantizationType
    block_size: int
    type_size: int
    encode_blocks: Callable[[F32Array], U8Array] | None
    """float32 (n_blocks, block_size) to uint8 (n_blocks, type_size); None where ggml refuses to without importance."""
    decode_blocks: Callable[[U8Array], F32Array]
    """uint8 (n_blocks, type_size) to float32 (n_blocks, block_size)."""
    encode_weighted: Callable[[F32Array, Weighting], U8Array] | None = None
    """The same with importance; None where it makes no difference."""
    scale_offsets: tuple[int, ...] = ()
    """Where a block's float16 scales and minimum lie, in bytes from its start."""

    @property
    def needs_importance(self) -> bool:
        """Whether there is no encoding without importance."""
        return self.encode_blocks is None

    @property
    def takes_importance(self) -> bool:
        """Whether importance makes a difference."""
        return self.encode_weighted is not None

    def row_nbytes(self, n_cols: int) -> int:
        """Size in bytes of an encoded row of `n_cols` weights.

        Raises ShapeError if n_cols is not a multiple of block_size.
        """
        return row_nbytes(self.type, n_cols)

    def encode(self, rows: F32Array, importance: F32Array | None = None) -> U8Array:
        """Encode rows.

        rows: float32 (n_rows, n_cols), n_cols a multiple of block_size.
        importance: float32 (n_cols,) or (n_rows, n_cols), finite.
        Returns uint8 (n_rows, row_nbytes(n_cols)).
        Rounding and layout are the type's own; finite input gives ggml's bytes.
        Raises ShapeError if n_cols is not a multiple of block_size, UnsupportedError if the type needs importance and
        has none, BlocksRefused where ggml aborts.
        """
        n_rows, n_cols = rows.shape
        row_nbytes = self.row_nbytes(n_cols)
        blocks = np.ascontiguousarray(rows).reshape(-1, self.block_size)
        with np.errstate(all="ignore"):  # infinities on the way are part of the definition
            if importance is not None and self.encode_weighted is not None:
                spread = np.broadcast_to(importance, rows.shape).reshape(blocks.shape)
                encoded = self.encode_weighted(blocks, Weighting(spread, _row_power(rows, self.block_size)))
            else:
                encoded = self._encode_alike(blocks)
        return encoded.reshape(n_rows, row_nbytes)

    def _encode_alike(self, blocks: F32Array) -> U8Array:
        if self.encode_blocks is None:
            raise UnsupportedError(f"{self.type.name} cannot be made without an importance matrix")
        return self.encode_blocks(blocks)

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


def _row_power(rows: F32Array, block_size: int) -> F32Array:
    """Mean square of each block's row, (n_blocks, 1); the squares are added in order."""
    n_cols = rows.shape[1]
    sums = np.square(rows).cumsum(axis=1, dtype=np.float32)[:, -1:]
    power: F32Array = np.repeat(sums / np.float32(n_cols), n_cols // block_size, axis=0)
    return power


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
