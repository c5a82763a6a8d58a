"""bitsandbytes' 4-bit weights, nf4 and fp4: 16 values, a block's largest magnitude, and an index into them each.

    X                                       packed, (n_bytes, 1): two values a byte, the first in the high nibble
    X.quant_map                             F32 (16,), the code: what index 0 … 15 stands for, in [-1, 1]
    X.absmax                                F32 (n_blocks,): block b begins at value b * blocksize of the flat weight
    X.quant_state.bitsandbytes__nf4|fp4     JSON: see bitsandbytes_quant_state

        byte     7 6 5 4 | 3 2 1 0              value[i] = code[index[i]] * absmax[i // blocksize]
                 index 0 | index 1              in float32, then rounded to the quant_state's dtype

Blocks run over the flattened weight, so that a row need not be whole blocks, nor a weight whole bytes. With double
quantization the absmax values are bytes themselves, in blocks of (always) 256:

    X.absmax               U8 (n_blocks,)
    X.nested_quant_map     F32 (256,)
    X.nested_absmax        F32 (n_blocks / 256, rounded up)
        absmax[b] = nested_quant_map[X.absmax[b]] * nested_absmax[b // 256] + nested_offset         rounded twice

The same packed bytes may be stored under another type (`bnb_4bit_quant_storage`), since FSDP shards floats only.
Sources: bitsandbytes 0.50.2, functional.py, quantize_4bit and dequantize_4bit; backends/default/ops.py,
_dequantize_4bit_compute. That version's CPU kernel gives the same where rows are whole blocks, and is wrong elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.bitsandbytes_quant_state import KEY_START, QuantState, read_quant_state
from convert.checkpoint.packed.values import FLOATS, as_float32, read_elements, read_small
from convert.checkpoint.source import StoredType, matrix_shape
from convert.codec import decode_4bit
from convert.errors import CheckpointError
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.source import Shape, TensorSource
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array

STORAGES: Final = frozenset(
    {StoredType.U8, StoredType.I8, StoredType.F16, StoredType.BF16, StoredType.F32, StoredType.F64}
)

_COMPANION: Final = re.compile(r"(.*)\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.[^.]*)", re.DOTALL)
_CODE_LENGTH: Final = 16
_NESTED_CODE_LENGTH: Final = 256


@dataclass(frozen=True, slots=True)
class PlainAbsmax:
    """A block's largest magnitude, stored as it is."""

    source: TensorSource

    @property
    def nbytes(self) -> int:
        """Bytes in the files."""
        return self.source.nbytes

    def read(self, files: SourceFiles, blocks: range) -> F32Array:
        """Read float32 (len(blocks),)."""
        return as_float32(read_elements(self.source, files, blocks.start, len(blocks)), self.source.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class NestedAbsmax:
    """A block's largest magnitude, quantized to a byte in blocks of its own.

    code: float32 (256,).
    Source: bitsandbytes 0.50.2, functional.py, dequantize_4bit and dequantize_blockwise.
    """

    source: TensorSource
    absmax: TensorSource
    code: F32Array = field(repr=False)
    block_size: int
    offset: float

    @property
    def nbytes(self) -> int:
        """Bytes in the files."""
        return self.source.nbytes + self.absmax.nbytes + self.code.nbytes

    def read(self, files: SourceFiles, blocks: range) -> F32Array:
        """Read float32 (len(blocks),): a product and a sum, each rounded to nearest."""
        indices = read_elements(self.source, files, blocks.start, len(blocks))
        outer = range(blocks.start // self.block_size, (blocks.stop - 1) // self.block_size + 1)
        scales = as_float32(read_elements(self.absmax, files, outer.start, len(outer)), StoredType.F32)
        places = np.arange(blocks.start, blocks.stop) // self.block_size - outer.start
        with np.errstate(all="ignore"):
            values: F32Array = self.code[indices] * scales[places] + np.float32(self.offset)
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Packed4bit:
    """A weight of the model, decoded from 4 bits row by row.

    weight: the packed bytes. code: float32 (16,).
    """

    name: str
    state: QuantState
    weight: TensorSource
    code: F32Array = field(repr=False)
    absmax: PlainAbsmax | NestedAbsmax

    @property
    def dtype(self) -> StoredType:
        """What the model computes in."""
        return self.state.dtype

    @property
    def shape(self) -> Shape:
        """The model's shape."""
        return self.state.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the weight and its statistics."""
        return self.weight.nbytes + self.absmax.nbytes + self.code.nbytes

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        n_cols = matrix_shape(self.shape)[1]
        begin, count, block_size = first * n_cols, len(out) * n_cols, self.state.block_size
        packed = np.empty((begin % 2 + count + 1) // 2, np.uint8)
        files.read_into(self.weight.path, self.weight.offset + begin // 2, packed, name=self.name)
        decode_4bit(
            packed,
            self.code,
            self.absmax.read(files, range(begin // block_size, -(-(begin + count) // block_size))),
            block_size=block_size,
            first=begin,
            tensor_type=FLOATS[self.dtype],
            out=out.reshape(-1),
        )


def is_companion_4bit(name: str) -> bool:
    """Say whether a name can be that of a 4-bit weight's companion."""
    return _COMPANION.fullmatch(name) is not None


def open_4bit(tensors: Mapping[str, TensorSource]) -> dict[str, Packed4bit]:
    """Give the weight of every set of companions, by its name.

    Raises CheckpointError for a set that is incomplete, or whose types, lengths or JSON do not fit together.
    """
    sets: dict[str, dict[str, TensorSource]] = {}
    for name, source in tensors.items():
        if match := _COMPANION.fullmatch(name):
            sets.setdefault(match[1], {})[match[2]] = source
    for name in sets:
        if match := _COMPANION.fullmatch(name):
            raise CheckpointError(f"tensor {shown(name)} is a companion of {shown(match[1])}, and has some itself")
    return {name: _open(name, companions, tensors) for name, companions in sets.items()}


def _open(name: str, companions: Mapping[str, TensorSource], tensors: Mapping[str, TensorSource]) -> Packed4bit:
    state = read_quant_state(_only_state(name, companions))
    _check_complete(name, companions, state)
    weight = tensors.get(name)
    if weight is None:
        listed = shown_list([source.name for source in companions.values()])
        raise CheckpointError(f"the checkpoint lacks tensor {shown(name)}, but has {listed}")
    _check_weight(weight, state)
    code = _read_code(companions["quant_map"], _CODE_LENGTH)
    return Packed4bit(name, state, weight, code, _absmax(companions, state))


def _only_state(name: str, companions: Mapping[str, TensorSource]) -> TensorSource:
    states = [source for part, source in companions.items() if part.startswith("quant_state.")]
    if not states:
        listed = shown_list([source.name for source in companions.values()])
        raise CheckpointError(f"the checkpoint has {listed}, but no {shown(f'{name}.{KEY_START}nf4')} or `…fp4`")
    if len(states) > 1:
        raise CheckpointError(f"tensor {shown(name)} has several states: {shown_list([one.name for one in states])}")
    return states[0]


def _check_complete(name: str, companions: Mapping[str, TensorSource], state: QuantState) -> None:
    state_name = shown(_only_state(name, companions).name)
    nested = ("nested_absmax", "nested_quant_map")
    wanted = ("absmax", "quant_map", *(nested if state.nested else ()))
    for part in wanted:
        if part not in companions:
            raise CheckpointError(f"the checkpoint lacks tensor {shown(f'{name}.{part}')}, which {state_name} needs")
    for part in nested:
        if part in companions and part not in wanted:
            raise CheckpointError(f"tensor {shown(f'{name}.{part}')} is there, but {state_name} is not nested")


def _check_weight(weight: TensorSource, state: QuantState) -> None:
    what = f"tensor {shown(weight.name)}"
    if weight.dtype not in STORAGES:
        stored = ", ".join(sorted(storage.value for storage in STORAGES))
        raise CheckpointError(f"{what} is {weight.dtype.value}, packed 4-bit weights are stored as one of {stored}")
    wanted = (state.n_values + 1) // 2
    if weight.nbytes != wanted:
        raise CheckpointError(
            f"{what} has {weight.nbytes} packed bytes, its quant_state's shape {shown(list(state.shape))} takes "
            f"{shown(wanted)}"
        )
    if weight.n_elements not in weight.shape[:1] or len(weight.shape) > 2:  # noqa: PLR2004 - a column, or flat
        raise CheckpointError(f"{what} has shape {weight.shape}, packed 4-bit weights have ({weight.n_elements}, 1)")


def _absmax(companions: Mapping[str, TensorSource], state: QuantState) -> PlainAbsmax | NestedAbsmax:
    absmax = companions["absmax"]
    if state.nested is None:
        _check_vector(absmax, state.n_blocks, StoredType.F32, StoredType.F16, StoredType.BF16)
        return PlainAbsmax(absmax)
    _check_vector(absmax, state.n_blocks, StoredType.U8)
    nested_absmax = companions["nested_absmax"]
    _check_vector(nested_absmax, -(-state.n_blocks // state.nested.block_size), StoredType.F32)
    code = _read_code(companions["nested_quant_map"], _NESTED_CODE_LENGTH)
    return NestedAbsmax(absmax, nested_absmax, code, state.nested.block_size, state.nested.offset)


def _read_code(source: TensorSource, length: int) -> F32Array:
    _check_vector(source, length, StoredType.F32)
    code = as_float32(read_small(source), StoredType.F32)
    if not np.isfinite(code).all():
        raise CheckpointError(f"tensor {shown(source.name)} holds NaN or infinity, wanted {length} finite numbers")
    return code


def _check_vector(source: TensorSource, length: int, *dtypes: StoredType) -> None:
    what = f"tensor {shown(source.name)}"
    if source.dtype not in dtypes:
        raise CheckpointError(f"{what} is {source.dtype.value}, wanted {' or '.join(dtype.value for dtype in dtypes)}")
    if source.shape != (length,):
        raise CheckpointError(f"{what} has shape {source.shape}, its quant_state asks for ({length},)")
