"""The JSON that bitsandbytes puts beside a 4-bit weight, as a tensor of bytes.

    {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [4096, 4096],
     "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0414}    these three: double quantization

Source: bitsandbytes 0.50.2, functional.py, QuantState.as_dict and from_dict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.json_file import parse_json
from convert.checkpoint.packed.values import read_small
from convert.checkpoint.source import TORCH_FLOATS, StoredType
from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.source import Shape, TensorSource

KEY_START: Final = "quant_state.bitsandbytes__"
QUANT_TYPES: Final = ("nf4", "fp4")
# bitsandbytes 0.50.2, functional.py, quantize_4bit; the statistics' own blocks have always 256.
BLOCK_SIZES: Final = (32, 64, 128, 256, 512, 1024, 2048, 4096)

_MAX_NBYTES: Final = 4096  # one has about 160
_MAX_FLOAT32: Final = float(np.finfo(np.float32).max)
_KEYS: Final = ("quant_type", "blocksize", "dtype", "shape")
_NESTED_KEYS: Final = ("nested_blocksize", "nested_dtype", "nested_offset")


@dataclass(frozen=True, slots=True)
class NestedState:
    """How the absmax values are quantized themselves: their block size, and the float32 that was their mean."""

    block_size: int
    offset: float


@dataclass(frozen=True, slots=True)
class QuantState:
    """What a 4-bit weight is: its code's name, the values in a block, the type it computes in, the model's shape."""

    quant_type: str
    block_size: int
    dtype: StoredType
    shape: Shape
    nested: NestedState | None

    @property
    def n_values(self) -> int:
        """Values in the weight."""
        return math.prod(self.shape)

    @property
    def n_blocks(self) -> int:
        """Blocks over the flattened weight; the last may be short."""
        return -(-self.n_values // self.block_size)


def read_quant_state(source: TensorSource) -> QuantState:
    """Read and check a quant_state; `source` is the tensor named `….quant_state.bitsandbytes__nf4` or `…__fp4`.

    Raises CheckpointError, naming the tensor, for anything that bitsandbytes would not have written.
    """
    what = f"tensor {shown(source.name)}"
    state = _parse(source, what)
    _check_keys(state, what)
    return QuantState(
        quant_type=_quant_type(state["quant_type"], source.name, what),
        block_size=_block_size(state, "blocksize", what),
        dtype=TORCH_FLOATS[_one_of(state, "dtype", tuple(TORCH_FLOATS), what)],
        shape=_shape(state["shape"], what),
        nested=_nested(state, what) if _NESTED_KEYS[0] in state else None,
    )


def _parse(source: TensorSource, what: str) -> Mapping[str, object]:
    if source.dtype is not StoredType.U8 or source.nbytes > _MAX_NBYTES:
        raise CheckpointError(
            f"{what} is {source.nbytes} bytes of {source.dtype.value}, wanted JSON as at most {_MAX_NBYTES} bytes of U8"
        )
    state = parse_json(read_small(source).tobytes(), what=what)
    if not isinstance(state, dict):
        raise CheckpointError(f"{what} holds {shown(state)}, wanted a JSON object")
    return state


def _check_keys(state: Mapping[str, object], what: str) -> None:
    is_nested = any(key in state for key in _NESTED_KEYS)
    wanted = (*_KEYS, *_NESTED_KEYS) if is_nested else _KEYS
    for key in wanted:
        if key not in state:
            raise CheckpointError(f"{what} lacks the key `{key}`")
    for key in state:
        if key not in wanted:
            raise CheckpointError(f"{what} has the key {shown(key)}, which bitsandbytes does not write")


def _quant_type(quant_type: object, name: str, what: str) -> str:
    named = name.rpartition(KEY_START)[2]
    if named not in QUANT_TYPES:
        raise CheckpointError(f"{what} is named after {shown(named)}, wanted nf4 or fp4")
    if quant_type != named:
        raise CheckpointError(f"{what} is named after {named}, its `quant_type` says {shown(quant_type)}")
    return named


def _one_of(state: Mapping[str, object], key: str, choices: tuple[str, ...], what: str) -> str:
    value = state[key]
    if not isinstance(value, str) or value not in choices:
        raise CheckpointError(f"{what} has the `{key}` {shown(value)}, wanted {' or '.join(choices)}")
    return value


def _block_size(state: Mapping[str, object], key: str, what: str) -> int:
    value = state[key]
    if type(value) is not int or value not in BLOCK_SIZES:
        choices = ", ".join(map(str, BLOCK_SIZES))
        raise CheckpointError(f"{what} has the `{key}` {shown(value)}, wanted one of {choices}")
    return value


def _shape(shape: object, what: str) -> Shape:
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size > 0 for size in shape):
        raise CheckpointError(f"{what} has the `shape` {shown(shape)}, wanted a list of positive integers")
    return tuple(shape)


def _nested(state: Mapping[str, object], what: str) -> NestedState:
    _one_of(state, "nested_dtype", ("float32",), what)  # absmax values are float32 in every version
    offset = state["nested_offset"]
    if not isinstance(offset, (int, float)) or isinstance(offset, bool) or abs(offset) > _MAX_FLOAT32:
        raise CheckpointError(f"{what} has the `nested_offset` {shown(offset)}, wanted a float32")
    return NestedState(_block_size(state, "nested_blocksize", what), float(np.float32(offset)))
