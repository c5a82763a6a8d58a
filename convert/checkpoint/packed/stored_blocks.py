"""The integers of blocks that lie in a GGUF file already: those types that have one scale for 32 weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType

from convert.checkpoint.packed.float8 import E2M1
from convert.checkpoint.packed.integers import E2M1_SPAN, Integers, Span
from convert.checkpoint.source import matrix_shape
from convert.codec import row_nbytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convert.checkpoint.source import Tensor
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array

_Type = GGMLQuantizationType
_BLOCK: Final = 32


@dataclass(frozen=True, slots=True)
class _Layout:
    """How blocks are read: each function takes (n, type_size) bytes, and gives codes (n, 32), or a factor (n, 1)."""

    span: Span
    codes: Callable[[U8Array], F32Array]
    scales: Callable[[U8Array], F32Array]
    biases: Callable[[U8Array], F32Array] | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of all blocks of a tensor: "codes", "scales" or "biases"."""

    base: Tensor
    kind: GGMLQuantizationType
    part: str

    @property
    def nbytes(self) -> int:
        return self.base.nbytes

    @property
    def span(self) -> Span:
        return _LAYOUTS[self.kind].span

    def read(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        blocks = np.empty((n_rows, row_nbytes(self.kind, matrix_shape(self.base.shape)[1])), np.uint8)
        self.base.read_rows(files, first, blocks)
        values: F32Array = getattr(_LAYOUTS[self.kind], self.part)(blocks.reshape(-1, row_nbytes(self.kind, _BLOCK)))
        return values.reshape(n_rows, -1)


def _first_half(blocks: U8Array) -> F32Array:
    return np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)


def _second_half(blocks: U8Array) -> F32Array:
    return np.ascontiguousarray(blocks[:, 2:4]).view("<f2").astype(np.float32)


def _exponents(blocks: U8Array) -> F32Array:
    return np.ldexp(np.ones(1), blocks[:, :1].astype(np.int32) - 127).astype(np.float32)


def _nibbles(blocks: U8Array) -> U8Array:
    return np.concatenate([blocks[:, -16:] & 15, blocks[:, -16:] >> 4], axis=1)


def _four_bits(blocks: U8Array) -> F32Array:
    return _nibbles(blocks).astype(np.float32)


def _five_bits(blocks: U8Array) -> F32Array:
    fifth = np.unpackbits(np.ascontiguousarray(blocks[:, -20:-16]), axis=1, bitorder="little")
    return (_nibbles(blocks) | fifth << 4).astype(np.float32)


def _eight_bits(blocks: U8Array) -> F32Array:
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)


# ggml-common.h, block_q4_0 … @ 0c1e570.
_LAYOUTS: Final[Mapping[GGMLQuantizationType, _Layout]] = {
    _Type.Q4_0: _Layout(Span(-8, 7), lambda blocks: _four_bits(blocks) - np.float32(8), _first_half),
    _Type.Q4_1: _Layout(Span(0, 15), _four_bits, _first_half, _second_half),
    _Type.Q5_0: _Layout(Span(-16, 15), lambda blocks: _five_bits(blocks) - np.float32(16), _first_half),
    _Type.Q5_1: _Layout(Span(0, 31), _five_bits, _first_half, _second_half),
    _Type.Q8_0: _Layout(Span(-128, 127), _eight_bits, _first_half),
    _Type.MXFP4: _Layout(E2M1_SPAN, lambda blocks: E2M1[_nibbles(blocks)], _exponents),
}


def integers_of_blocks(tensor: Tensor, kind: GGMLQuantizationType) -> Integers | str:
    """Give the integers of a tensor of a GGUF's type, or say why it has none."""
    if kind not in _LAYOUTS:
        return f"blocks of {kind.name} are no integers with one scale for 32"
    layout = _LAYOUTS[kind]
    biases = None if layout.biases is None else _Part(tensor, kind, "biases")
    return Integers(_Part(tensor, kind, "codes"), layout.span, _Part(tensor, kind, "scales"), _BLOCK, biases=biases)
