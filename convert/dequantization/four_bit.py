"""bitsandbytes' 4-bit types, down and up again: nf4 and fp4, with and without double quantization.

    values, flattened ── blocks of 64 ──▶ absmax               float32, one a block
    value * (1 / absmax) ── nearest of 16 ──▶ code              ties go down
    absmax - mean ── blocks of 256, nearest of 256 ──▶ absmax   only where the statistics are quantized too
    code * absmax                                               float32

All arithmetic is in float32, in the order in which bitsandbytes does it, so that every bit is equal to what its
`quantize_4bit` and `dequantize_4bit` leave on a CPU.
Source: bitsandbytes 0.50.2, backends/default/ops.py (quantize_4bit), functional.py (quantize_4bit, create_dynamic_map).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.dequantization.torch_sum import torch_sum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array

BLOCK_SIZE: Final = 64  # of the values; transformers gives no other
NESTED_BLOCK_SIZE: Final = 256  # of the absmax values
_LEAST_ABSMAX: Final = np.float32(1e-38)
_LAST_CELL: Final = 65535

# QLoRA, arXiv 2305.14314, appendix E, in the digits of bitsandbytes' get_4bit_type.
NF4_CODE: Final = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
        0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
# One sign, two exponent and one fraction bit: 0, 1/16, 2, 3, 4, 6, 8 and 12, over 12; here sorted, zero twice.
_FP4_HALF: Final = np.array([0, 0.0625, 2, 3, 4, 6, 8, 12], np.float32) / np.float32(12)
FP4_CODE: Final = np.concatenate([-_FP4_HALF[:0:-1], np.zeros(2, np.float32), _FP4_HALF[1:]])
CODES: Final = {"nf4": NF4_CODE, "fp4": FP4_CODE}


def block_absmax(values: F32Array) -> F32Array:
    """Give the largest magnitude of each block of 64: (ceil(n / 64),); the last block may be shorter."""
    n_whole = len(values) // BLOCK_SIZE * BLOCK_SIZE
    whole: F32Array = np.abs(values[:n_whole]).reshape(-1, BLOCK_SIZE).max(axis=1)
    if n_whole == len(values):
        return whole
    # Only a short block's absmax is kept away from zero where it is stored; a whole one's only where it divides.
    return np.append(whole, np.maximum(np.abs(values[n_whole:]).max(), _LEAST_ABSMAX))


def round_to_code(values: F32Array, absmax: F32Array, stored_absmax: F32Array, code: F32Array) -> F32Array:
    """Round to the nearest of 16 values in each block: float32 (n,).

    values: (n,), from the start of a block. absmax: of each block. stored_absmax: as dequantization will know it.
    code: the 16 values, sorted. A value in the middle of two goes to the lower one. A block that is not finite is given
    as it is, for the encoder to find.
    """
    index = np.zeros(len(values), np.uint8)
    scaled = _scaled(values, absmax)
    for bound in (code[:-1] + code[1:]) / np.float32(2):
        index += (scaled > bound).view(np.uint8)
    with np.errstate(invalid="ignore"):
        rounded: F32Array = code[index] * np.repeat(stored_absmax, BLOCK_SIZE)[: len(values)]
    if not np.isfinite(absmax).all():
        np.copyto(rounded, values, where=~np.isfinite(np.repeat(absmax, BLOCK_SIZE)[: len(values)]))
    return rounded


def _scaled(values: F32Array, absmax: F32Array) -> F32Array:
    scaled = np.empty_like(values)
    n_whole = len(values) // BLOCK_SIZE * BLOCK_SIZE
    n_blocks = n_whole // BLOCK_SIZE
    with np.errstate(invalid="ignore", over="ignore"):
        inverse = np.float32(1) / np.maximum(absmax[:n_blocks], _LEAST_ABSMAX)
        blocks = values[:n_whole].reshape(-1, BLOCK_SIZE)
        np.multiply(blocks, inverse[:, None], out=scaled[:n_whole].reshape(-1, BLOCK_SIZE))
        if n_whole < len(values):  # the short block is divided: another rounding than by the reciprocal
            np.divide(values[n_whole:], absmax[-1], out=scaled[n_whole:])
    return scaled


@dataclass(frozen=True, slots=True)
class NestedStatistics:
    """What double quantization must know of a whole tensor: its mean absmax, and the absmax of each 256 of them."""

    offset: np.float32
    absmax: F32Array

    def stored(self, absmax: F32Array, first_block: int) -> F32Array:
        """Give blocks' absmax as it comes out of 8 bits: float32 (n_blocks,); first_block: of the tensor's."""
        nested = self.absmax[np.arange(first_block, first_block + len(absmax)) // NESTED_BLOCK_SIZE]
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.clip((absmax - self.offset) * (np.float32(1) / nested), -1, 1)
            rounded: F32Array = DYNAMIC_CODE[_dynamic_index(scaled)] * nested + self.offset
        return rounded


def nested_statistics(absmax: F32Array) -> NestedStatistics:
    """Compute the statistics from every block's absmax of a tensor.

    The mean is torch's, on one thread: with more it is another in the last bit for some tensors of over two million
    values, as torch then adds up in as many parts as it has threads. A block that is not finite counts as zeros.
    """
    absmax = np.where(np.isfinite(absmax), absmax, np.float32(0))
    offset = np.float32(torch_sum(absmax) / np.float32(len(absmax)))
    n_blocks = -(-len(absmax) // NESTED_BLOCK_SIZE)
    padded = np.zeros(n_blocks * NESTED_BLOCK_SIZE, np.float32)
    np.subtract(absmax, offset, out=padded[: len(absmax)])
    return NestedStatistics(offset, np.abs(padded).reshape(-1, NESTED_BLOCK_SIZE).max(axis=1))


def _dynamic_index(scaled: F32Array) -> NDArray[np.uint8]:
    """Find the nearest of the 256, for the middle of the cell of a grid of 65536 that a value is in.

    The kernel for the CPU does not search; CUDA's does, and takes a neighbour for one value in a thousand.
    A block of which every absmax is the mean is NaN here: whatever its index, it comes out as the mean.
    Source: bitsandbytes 0.50.2, libbitsandbytes_cpu.so, quantize_cpu and build_quantize_lut; it fuses product and sum.
    """
    halves = (scaled + np.float32(1)) * np.float32(0.5)
    cell = (halves.astype(np.float64) * _LAST_CELL + 0.5).astype(np.float32)
    index: NDArray[np.uint8] = _INDEX_OF_CELL[np.nan_to_num(cell, copy=False).astype(np.uint16)]
    return index


def _dynamic_code() -> F32Array:
    """Make the dynamic 8-bit type: seven decades, each twice as finely divided as the one below, both signs, 0 and 1.

    arXiv 1511.04561, as bitsandbytes' create_dynamic_map computes it.
    """
    magnitudes = [
        np.float32(10.0 ** (decade - 6)) * ((bounds[:-1] + bounds[1:]) / np.float32(2))
        for decade in range(7)
        for bounds in [_linspace(2**decade + 1)]
    ]
    positive = np.concatenate(magnitudes)
    return np.sort(np.concatenate([-positive, positive, np.array([0, 1], np.float32)]))


def _linspace(n: int) -> F32Array:
    """Give n numbers from 0.1 to 1, counted from the nearer end; torch fuses product and sum, and rounds once."""
    start, end = np.float32(0.1), np.float32(1)
    step = np.float64((end - start) / np.float32(n - 1))
    index = np.arange(n)
    numbers = np.where(index < n // 2, start + step * index, end - step * (n - 1 - index))
    return np.asarray(numbers, np.float32)


def _index_of_cell() -> NDArray[np.uint8]:
    middles = np.arange(_LAST_CELL + 1, dtype=np.float32) * np.float32(2) / np.float32(_LAST_CELL) - np.float32(1)
    bounds = (DYNAMIC_CODE[:-1] + DYNAMIC_CODE[1:]) * np.float32(0.5)
    return np.asarray(np.searchsorted(bounds, middles), np.uint8)


DYNAMIC_CODE: Final = _dynamic_code()
_INDEX_OF_CELL: Final = _index_of_cell()
