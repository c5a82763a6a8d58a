"""No NaN and no infinity: in the values of float tensors, and in the scales and minima of quantized blocks.

Source of the offsets: ggml/src/ggml-common.h, block_* @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from convert.verify.data import Finding, note, problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from convert.gguf_file import GGUFFile, TensorInfo
    from convert.verify.reading import OpenFile

CHECK = "blocks"

# Where a block's float16 numbers lie, in bytes from its start.
_FLOAT16_AT: Final[Mapping[Type, tuple[int, ...]]] = {
    Type.Q4_0: (0,), Type.Q4_1: (0, 2), Type.Q5_0: (0,), Type.Q5_1: (0, 2), Type.Q8_0: (0,), Type.Q8_1: (0, 2),
    Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,),
    Type.IQ1_S: (0,), Type.IQ2_XXS: (0,), Type.IQ2_XS: (0,), Type.IQ2_S: (0,), Type.IQ3_XXS: (0,), Type.IQ3_S: (0,),
    Type.IQ4_NL: (0,), Type.IQ4_XS: (0,), Type.TQ1_0: (52,), Type.TQ2_0: (64,),
}  # fmt: skip
_FLOATS: Final[Mapping[Type, np.dtype[Any]]] = {
    Type.F32: np.dtype("<u4"),
    Type.F16: np.dtype("<u2"),
    Type.BF16: np.dtype("<u2"),
    Type.F64: np.dtype("<u8"),
}
# A number is NaN or infinite if its exponent bits are all ones.
_EXPONENTS: Final = {Type.F32: 0x7F800000, Type.F16: 0x7C00, Type.BF16: 0x7F80, Type.F64: 0x7FF0000000000000}
_F16_HIGH_EXPONENT: Final = np.uint8(0x7C)  # little endian: the exponent's five bits are in the second byte
_INTEGERS: Final = frozenset({Type.I8, Type.I16, Type.I32, Type.I64})


def check_blocks(header: GGUFFile, file: OpenFile) -> Iterator[Finding]:
    """Check every value and every scale, a slice at a time."""
    unknown = set()
    for tensor in header.tensors:
        if tensor.type in _INTEGERS:
            continue
        if tensor.type not in _FLOATS and tensor.type not in _FLOAT16_AT:
            unknown.add(tensor.type.name)
            continue
        yield from _check_tensor(tensor, file)
    if unknown:
        yield note(CHECK, f"blocks of {', '.join(sorted(unknown))} are not checked: their scales are not known here")


def _check_tensor(tensor: TensorInfo, file: OpenFile) -> Iterator[Finding]:
    block_size, type_size = GGML_QUANT_SIZES[tensor.type]
    n_bad, first, start = 0, 0, 0
    for raw in file.slices(tensor.offset, tensor.nbytes, type_size):
        bad = _bad_blocks(raw.reshape(-1, type_size), tensor.type)
        if bad.any():
            first = first if n_bad else start + int(bad.argmax())
            n_bad += int(bad.sum())
        start += len(bad)
    if n_bad:
        index = np.unravel_index(first * block_size, tensor.shape)
        where = f"the first at {[int(i) for i in index]}, byte {tensor.offset + first * type_size}"
        what = "values are" if tensor.type in _FLOATS else "blocks have a scale or minimum that is"
        yield problem(CHECK, f"tensor `{tensor.name}` ({tensor.type.name}): {n_bad} {what} NaN or infinite, {where}")


def _bad_blocks(blocks: NDArray[np.uint8], tensor_type: Type) -> NDArray[np.bool_]:
    """Return bool (n_blocks,). blocks: uint8 (n_blocks, type_size)."""
    if tensor_type in _FLOATS:
        exponent = _EXPONENTS[tensor_type]
        bits = blocks.view(_FLOATS[tensor_type])[:, 0]
        found: NDArray[np.bool_] = (bits & bits.dtype.type(exponent)) == exponent
        return found
    bad = np.zeros(len(blocks), bool)
    for offset in _FLOAT16_AT[tensor_type]:
        bad |= (blocks[:, offset + 1] & _F16_HIGH_EXPONENT) == _F16_HIGH_EXPONENT
    return bad
