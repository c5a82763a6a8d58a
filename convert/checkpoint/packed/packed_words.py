"""Integers of 1 to 8 bits packed into words of 32, without gaps: pack-quantized's codes and zero points.

    bit      | 0 … b-1 | b … 2b-1 | …          number i begins at bit i * b of the row of words, the lowest bit first;
    number   |    0    |    1     | …          one that does not fit into its word goes on in the next

What is stored is the number plus 2 ** (b - 1). Codes are packed along a row; zero points down a column, so that a row
of words holds those of 32 / b rows or so.
Source: compressed-tensors 0.20.0, compressors/pack_quantized/helpers.py, pack_to_int32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint.packed.integers import Span
from convert.checkpoint.packed.scaled import read_rows

if TYPE_CHECKING:
    from convert.checkpoint.source import TensorSource
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array

_WORD_BITS = 32


def n_words(count: int, bits: int) -> int:
    """Return how many words so many numbers take."""
    return -(-count * bits // _WORD_BITS)


def unpack(raw: U8Array, bits: int, *, first: int, count: int, zero: int | None = None) -> F32Array:
    """Unpack `count` numbers of each row from the bit `first` on: float32 (n_rows, count).

    raw: uint8 (n_rows, 4 * words), words little endian. zero: what stands for 0; by default 2 ** (bits - 1).
    """
    if bits == 8 and first == 0:  # noqa: PLR2004
        codes: U8Array = raw[:, :count]
    elif bits == 4 and first == 0:  # noqa: PLR2004
        codes = np.stack([raw & 0xF, raw >> 4], axis=2).reshape(len(raw), -1)[:, :count]
    else:
        codes = _gather(raw, bits, first, count)
    values = codes.astype(np.float32)
    values -= np.float32(1 << (bits - 1) if zero is None else zero)
    return values


def _gather(raw: U8Array, bits: int, first: int, count: int) -> U8Array:
    """Take each number out of the two bytes that it lies in."""
    starts = first + np.arange(count) * bits
    low, high = starts // 8, np.minimum((starts + bits - 1) // 8, raw.shape[1] - 1)
    pairs = raw[:, low] | (raw[:, high].astype(np.uint16) << np.uint16(8))
    mask = np.uint16((1 << bits) - 1)
    codes: U8Array = ((pairs >> (starts % 8).astype(np.uint16)) & mask).astype(np.uint8)
    return codes


@dataclass(frozen=True, slots=True)
class PackedCodes:
    """Codes in words along a row. source: I32 or U32 (n_rows, words). n_cols: numbers of a row. zero: see `unpack`."""

    source: TensorSource
    bits: int
    n_cols: int
    zero: int | None = None

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    @property
    def span(self) -> Span:
        zero = 1 << (self.bits - 1) if self.zero is None else self.zero
        return Span(-zero, (1 << self.bits) - 1 - zero)

    def read(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        raw = read_rows(self.source, files, first, n_rows)
        return unpack(raw, self.bits, first=0, count=self.n_cols, zero=self.zero)


@dataclass(frozen=True, slots=True)
class PackedZeros:
    """Zero points in words along the rows of a weight. source: I32 (words of n_rows numbers, groups)."""

    source: TensorSource
    bits: int

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def read(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        first_bit, end_bit = first * self.bits, (first + n_rows) * self.bits
        first_word, end_word = first_bit // _WORD_BITS, -(-end_bit // _WORD_BITS)
        words = read_rows(self.source, files, first_word, end_word - first_word).view("<u4")
        columns = np.ascontiguousarray(words.T).view(np.uint8)
        zeros: F32Array = unpack(columns, self.bits, first=first_bit - first_word * _WORD_BITS, count=n_rows).T
        return zeros
