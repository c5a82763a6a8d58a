"""What a linear layer takes once bitsandbytes has packed it, to the byte, as transformers saves and loads it.

    4 bits   weight                      two values a byte
             weight.absmax               a float32 a block of 64 values; with double quantization a byte, and
             weight.nested_absmax          a float32 for 256 of those
             weight.nested_quant_map       256 float32
             weight.quant_map            16 float32
             weight.quant_state.…        JSON: what the parts mean
    8 bits   weight, SCB, weight_format  a byte a value; a float32 a row; one byte

Blocks run over the flattened tensor; the last may be short.
Source: bitsandbytes 0.50.2, functional.py, quantize_4bit and QuantState.as_dict; nn/modules.py, _save_to_state_dict of
Linear4bit and Linear8bitLt. transformers uses the default block, 64.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.source import TORCH_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from convert.checkpoint import StoredType
    from convert.memory.groups import Shape

_BLOCK: Final = 64
_NESTED_BLOCK: Final = 256
_FLOAT32: Final = 4

# `nested_offset`, the mean of all absmax, is written with as many digits as it takes to tell it from other float64.
_FEWEST_DIGITS: Final = len("0.0")
_MOST_DIGITS: Final = len("0.00012345678901234567")


@dataclass(frozen=True, slots=True)
class PackedBytes:
    """What one packed layer takes.

    weight: the packed values, which alone are the module's parameter. statistics: everything else that values are
    made from. text: the JSON beside them, its fewest and its most bytes.
    """

    weight: int
    statistics: int
    text: tuple[int, int] = (0, 0)


def int8_bytes(shape: Shape, _dtype: StoredType) -> PackedBytes:
    """Say what LLM.int8 makes of a matrix (out_features, in_features)."""
    return PackedBytes(math.prod(shape), _FLOAT32 * shape[0] + 1)


def four_bit_bytes(shape: Shape, dtype: StoredType) -> PackedBytes:
    """Say what nf4 and fp4 make of a matrix; dtype: what it is quantized from, which the text names."""
    n_values = math.prod(shape)
    statistics = _FLOAT32 * (_n_blocks(n_values, _BLOCK) + 16)
    text = len(json.dumps(_state(shape, dtype)))
    return PackedBytes(_n_blocks(n_values, 2), statistics, (text, text))


def double_quantized_bytes(shape: Shape, dtype: StoredType) -> PackedBytes:
    """Say what nf4 and fp4 with double quantization make of a matrix."""
    n_values = math.prod(shape)
    n_blocks = _n_blocks(n_values, _BLOCK)
    statistics = n_blocks + _FLOAT32 * (_n_blocks(n_blocks, _NESTED_BLOCK) + 256 + 16)
    nested = {"nested_blocksize": _NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": None}
    text = len(json.dumps(_state(shape, dtype) | nested)) - len("null")
    return PackedBytes(_n_blocks(n_values, 2), statistics, (text + _FEWEST_DIGITS, text + _MOST_DIGITS))


# How a user asks for them → what they take. nf4 and fp4 differ in the sixteen values alone.
PACKINGS: Final[dict[str, Callable[[Shape, StoredType], PackedBytes]]] = {
    "int8": int8_bytes,
    "nf4": four_bit_bytes,
    "nf4-dq": double_quantized_bytes,
    "fp4": four_bit_bytes,
    "fp4-dq": double_quantized_bytes,
}


def _state(shape: Shape, dtype: StoredType) -> dict[str, Any]:
    return {"quant_type": "nf4", "blocksize": _BLOCK, "dtype": TORCH_NAMES[dtype], "shape": list(shape)}


def _n_blocks(n_values: int, block: int) -> int:
    return -(-n_values // block)
