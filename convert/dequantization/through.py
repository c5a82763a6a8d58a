"""`--through`: a model's weights as bitsandbytes leaves them, quantized when the model is loaded and dequantized again.

    16-bit weight ── cast to the dtype of loading ── quantize, dequantize (float32) ── round ──▶ the same dtype

Which weights transformers would quantize is told from names and shapes, so that no model has to be built.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from convert.checkpoint import StoredType, Tensor, matrix_shape
from convert.checkpoint.packed.values import FLOATS, as_float32, pieces, rounded, to_bytes
from convert.checkpoint.statistics import OfWhole
from convert.dequantization.four_bit import (
    BLOCK_SIZE,
    CODES,
    NestedStatistics,
    block_absmax,
    nested_statistics,
    round_to_code,
)
from convert.dequantization.int8 import round_to_int8
from convert.errors import UnsupportedError
from convert.memory.groups import is_packed_linear
from convert.memory.table import CONV1D_MODELS
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from convert.checkpoint import SourceFiles
    from convert.codec.contract import F32Array, U8Array

_CHUNK_VALUES: Final = 1 << 16  # whose absmax is taken at a time


class Through(Enum):
    """A type of bitsandbytes to go down to, as the command line spells it."""

    NF4 = "nf4"
    NF4_DQ = "nf4-dq"
    FP4 = "fp4"
    FP4_DQ = "fp4-dq"
    INT8 = "int8"

    @property
    def is_nested(self) -> bool:
        """Whether the absmax values are quantized too."""
        return self.value.endswith("-dq")

    @property
    def description(self) -> str:
        """What it is, for people."""
        if self is Through.INT8:
            return "int8 (bitsandbytes LLM.int8, an absmax a row)"
        nested = ", double quantization" if self.is_nested else ""
        return f"{self.value.removesuffix('-dq')} (bitsandbytes 4-bit, blocks of {BLOCK_SIZE}{nested})"


def take_through(tensors: Mapping[str, Tensor], through: Through, dtype: StoredType) -> dict[str, Tensor]:
    """Replace the weights that transformers would quantize; the others stay as they are.

    dtype: F32, F16 or BF16, that the model is loaded in: quantized from it, dequantized to it.
    """
    taken = quantized_weights(tensors)
    wrapper = RoundedToInt8 if through is Through.INT8 else RoundedTo4Bit
    return {name: wrapper(tensor, through, dtype) if name in taken else tensor for name, tensor in tensors.items()}


def refuse_transposed(config: Mapping[str, Any], through: Through) -> None:
    """Raise UnsupportedError for the architectures whose matrices are stored transposed: their blocks run elsewhere."""
    model_type = config.get("model_type")
    if model_type in CONV1D_MODELS:
        raise UnsupportedError(
            f"the way through {through.value} does not know the transposed layers (`Conv1D`) of {shown(model_type)}",
            hint="load the model with transformers and bitsandbytes, and save what `dequantize` gives",
        )


def quantized_weights(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """Name the weights that transformers 5 quantizes when it loads a model in 4 or 8 bits; see `is_packed_linear`."""
    return frozenset(
        name
        for name, tensor in tensors.items()
        if (tensor.dtype in FLOATS or tensor.dtype is StoredType.F64)
        and prod(tensor.shape) > 0
        and is_packed_linear(name, tensor.shape)
    )


@dataclass(frozen=True, slots=True)
class _Rounded:
    """What both kinds share."""

    base: Tensor
    through: Through
    dtype: StoredType

    @property
    def name(self) -> str:
        """As the base's."""
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        """As the base's."""
        return self.base.shape

    @property
    def nbytes(self) -> int:
        """As the base's: it is what is read."""
        return self.base.nbytes

    def _load(self, files: SourceFiles, rows: range) -> F32Array:
        """Read rows in the dtype that the model is loaded in: float32 (n_rows, n_cols)."""
        n_cols = matrix_shape(self.shape)[1]
        raw = np.empty((len(rows), n_cols * self.base.dtype.itemsize), np.uint8)
        self.base.read_rows(files, rows.start, raw)
        values = as_float32(raw, self.base.dtype)
        return values if self.base.dtype is self.dtype else rounded(values, self.dtype)


@dataclass(frozen=True, slots=True)
class RoundedToInt8(_Rounded):
    """A weight as `Int8Params` leaves it."""

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        for rows in pieces(len(out), matrix_shape(self.shape)[1]):
            loaded = self._load(files, range(first + rows.start, first + rows.stop))
            out[rows.start : rows.stop] = to_bytes(round_to_int8(loaded), self.dtype)


@dataclass(frozen=True, slots=True)
class RoundedTo4Bit(_Rounded, OfWhole):
    """A weight as `quantize_4bit` and `dequantize_4bit` leave it.

    Blocks run over the flattened tensor, so a row may begin within one: what the first and the last block of a slice
    have outside it is read with it.
    statistics: of all blocks, where these are quantized too, once they are known.
    """

    statistics: NestedStatistics | None = field(default=None, compare=False, repr=False)

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        assert not self.lacks_statistics  # noqa: S101 - the first pass comes before
        n_cols = matrix_shape(self.shape)[1]
        for rows in pieces(len(out), n_cols):
            wanted = range((first + rows.start) * n_cols, (first + rows.stop) * n_cols)
            values = self._round(files, wanted)
            out[rows.start : rows.stop] = to_bytes(values.reshape(len(rows), n_cols), self.dtype)

    def _round(self, files: SourceFiles, wanted: range) -> F32Array:
        """Give values `wanted` of the flattened tensor, down and up again."""
        first_block, values = self._whole_blocks(files, wanted)
        absmax = block_absmax(values)
        stored = absmax if self.statistics is None else self.statistics.stored(absmax, first_block)
        code = CODES[self.through.value.removesuffix("-dq")]
        start = first_block * BLOCK_SIZE
        return round_to_code(values, absmax, stored, code)[wanted.start - start : wanted.stop - start]

    def _whole_blocks(self, files: SourceFiles, wanted: range) -> tuple[int, F32Array]:
        """Read the blocks that some values of the flattened tensor lie in; and the first block's number."""
        n_cols = matrix_shape(self.shape)[1]
        first_block = wanted.start // BLOCK_SIZE
        start = first_block * BLOCK_SIZE
        stop = min(-(-wanted.stop // BLOCK_SIZE) * BLOCK_SIZE, prod(self.shape))
        rows = range(start // n_cols, -(-stop // n_cols))
        values = self._load(files, rows).reshape(-1)
        return first_block, values[start - rows.start * n_cols : stop - rows.start * n_cols]

    @property
    def lacks_statistics(self) -> bool:
        """Where the absmax values are quantized too, at first."""
        return self.through.is_nested and self.statistics is None

    def portions(self) -> Iterator[range]:
        """Cut the flattened tensor at blocks."""
        size = prod(self.shape)
        return (range(start, min(start + _CHUNK_VALUES, size)) for start in range(0, size, _CHUNK_VALUES))

    def measure(self, files: SourceFiles, portion: range) -> F32Array:
        """Give the absmax of some blocks."""
        return block_absmax(self._whole_blocks(files, portion)[1])

    def gather(self, gathered: list[F32Array], measured: F32Array) -> None:
        """Keep all: four bytes a block."""
        gathered.append(measured)

    def with_statistics(self, gathered: Sequence[F32Array]) -> RoundedTo4Bit:
        return replace(self, statistics=nested_statistics(np.concatenate(gathered)))


assert _CHUNK_VALUES % BLOCK_SIZE == 0  # noqa: S101 - each block is counted once
