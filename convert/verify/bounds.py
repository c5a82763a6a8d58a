"""How far a decoded value may be from the checkpoint's, by what its type does: the step of its block, in parts.

With d the stored float16 scale (the step), x what was to be stored and y what is decoded, |x - y| is at most

    F32          0
    F16          half a unit of float16's last place:  2^-11 |x|,  or 2^-25 below its normal numbers
    BF16         the same of bfloat16:  2^-8 |x| of a power of two, so at most 2^-8 |x|
    Q8_0         d/2, from rounding; + 127 d 2^-11, since quants are made with the scale before it is rounded to float16
    Q4_1, Q5_1   d/2 + 15 (or 31) d 2^-11 + 2^-11 |minimum|
    Q4_0, Q5_0   d/2 + 8 (or 16) d 2^-11; but the quants reach from -8 to +7 (-16 to +15) and weights as far on
                 either side, so a value decoded as the highest may be a whole step off
    Q6_K         2 s + 17 d, with s = d * scale of the sub-block: quants reach from -32 to +31 where the search lets
                 weights reach 33 steps, and a sub-block's scale is itself rounded to a whole number of d, by up to
                 half of one, which moves a weight 33 steps out by 16.5 d
    Q4_K, Q5_K   4 s + 16 (32) d + dmin, with s = span / 15 (31) of the sub-block's weights and zero: the fit's weighted
                 squares are below those of half a step each, no weight counts less than a 64th of the sum; and the
                 sub-block's scale and minimum are rounded by up to half of d and dmin
    Q2_K         the span + 4 d + dmin: a weight near zero counts almost nothing, and may end at the other end
    Q3_K         the span + 4 d

To each comes what float16 lost before (2^-11 |x| + 2^-25: quantized files are made from the F16 values), what a scale
below float16's normal numbers loses (2^-25 times the largest quant), and 1 % for float32's own rounding.
Source: `codec.reference`, `codec.q6_k`.

Of other types, and of a tensor whose errors an importance matrix has weighed, only the RMSE is judged, see
`relative_rmse_limit`; of types with searches, both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from convert.codec import CODECS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convert.codec.contract import F32Array, U8Array

_F16: Final = np.float32(2.0**-11)
_BF16: Final = np.float32(2.0**-8)
_TINY: Final = np.float32(2.0**-25)
_SLACK: Final = np.float32(1.01)


def has_bound(tensor_type: Type, *, with_importance: bool) -> bool:
    """Say whether a value's error is bounded: an importance matrix may give a weight up for others."""
    return tensor_type in _BOUNDS and not (with_importance and CODECS[tensor_type].takes_importance)


def judged_by_rmse(tensor_type: Type, *, with_importance: bool) -> bool:
    """Say whether the type's bound, if there is one, is so wide that the tensor's RMSE says more."""
    return tensor_type in _WIDE or not has_bound(tensor_type, with_importance=with_importance)


def explained_error(tensor_type: Type, blocks: U8Array, wanted: F32Array, decoded: F32Array) -> F32Array | None:
    """Give the largest error that the type can explain, value by value; None for a type without such a bound.

    blocks: uint8 (n, type_size). wanted, decoded: float32 (n, block_size). Returns float32 (n, block_size).
    """
    bound = _BOUNDS.get(tensor_type)
    if bound is None:
        return None
    with np.errstate(all="ignore"):  # a NaN scale is found by `blocks`; here nothing explains it
        return bound(blocks, wanted, decoded)


def relative_rmse_limit(tensor_type: Type) -> float:
    """Give the RMSE, in standard deviations, from which on a tensor of another type is suspicious.

    Rounding a normal distribution with b bits a weight leaves about 2^-b of it; blocks, outliers and searches for
    other aims than this error are allowed four times as much.
    """
    block_size, type_size = GGML_QUANT_SIZES[tensor_type]
    limit: float = 4 * 2.0 ** (-8 * type_size / block_size)
    return limit


def _scale(blocks: U8Array, offset: int) -> F32Array:
    scale: F32Array = np.abs(blocks[:, offset : offset + 2].copy().view("<f2").astype(np.float32))
    return scale


def _through_f16(wanted: F32Array) -> F32Array:
    lost: F32Array = np.abs(wanted) * _F16 + _TINY
    return lost


def _exact(blocks: U8Array, wanted: F32Array, decoded: F32Array) -> F32Array:
    del blocks, decoded
    return np.zeros_like(wanted)


def _f16(blocks: U8Array, wanted: F32Array, decoded: F32Array) -> F32Array:
    del blocks, decoded
    return _through_f16(wanted)


def _bf16(blocks: U8Array, wanted: F32Array, decoded: F32Array) -> F32Array:
    del blocks, decoded
    bound: F32Array = np.abs(wanted) * _BF16 + np.float32(2.0**-133)
    return bound


def _symmetric(highest: int) -> Callable[[U8Array, F32Array, F32Array], F32Array]:
    """Make the bound of Q4_0 (highest 7) and Q5_0 (15)."""

    def bound(blocks: U8Array, wanted: F32Array, decoded: F32Array) -> F32Array:
        d = _scale(blocks, 0)
        signed = blocks[:, :2].copy().view("<f2").astype(np.float32)
        at_the_end = decoded * np.sign(signed) > (highest - np.float32(0.5)) * d
        steps = np.where(at_the_end, np.float32(1), np.float32(0.5)) + (highest + 1) * _F16
        found: F32Array = _SLACK * steps * d + _through_f16(wanted) + (highest + 1) * _TINY
        return found

    return bound


def _by_range(highest: int) -> Callable[[U8Array, F32Array, F32Array], F32Array]:
    """Make the bound of Q4_1 (highest 15) and Q5_1 (31)."""

    def bound(blocks: U8Array, wanted: F32Array, decoded: F32Array) -> F32Array:
        del decoded
        d, minimum = _scale(blocks, 0), _scale(blocks, 2)
        steps = np.float32(0.5) + highest * _F16
        found: F32Array = _SLACK * (steps * d + minimum * _F16) + _through_f16(wanted) + (highest + 1) * _TINY
        return found

    return bound


def _q8_0(blocks: U8Array, wanted: F32Array, decoded: F32Array) -> F32Array:
    del decoded
    steps = np.float32(0.5) + 127 * _F16
    found: F32Array = _SLACK * steps * _scale(blocks, 0) + _through_f16(wanted) + 128 * _TINY
    return found


def _q6_k(blocks: U8Array, wanted: F32Array, decoded: F32Array) -> F32Array:
    del decoded
    d = _scale(blocks, 208)
    scales = np.abs(blocks[:, 192:208].view(np.int8).astype(np.float32))
    bound = 2 * scales * d + 17 * d + 33 * (scales + np.float32(0.5)) * _TINY
    found: F32Array = _SLACK * np.repeat(bound, 16, axis=1) + _through_f16(wanted)
    return found


def _span(wanted: F32Array, sub_block: int) -> F32Array:
    """From the lowest weight of each sub-block to the highest, zero among them; for each value."""
    subs = wanted.reshape(-1, sub_block)
    span = np.maximum(subs.max(axis=1, keepdims=True), 0) - np.minimum(subs.min(axis=1, keepdims=True), 0)
    spread: F32Array = np.broadcast_to(span, subs.shape).reshape(wanted.shape)
    return spread


def _affine_super(
    sub_block: int, highest: int, reach: int, offset: int
) -> Callable[[U8Array, F32Array, F32Array], F32Array]:
    """Make the bound of Q2_K, Q4_K and Q5_K; reach: in steps. offset: of d, before dmin."""

    def bound(blocks: U8Array, wanted: F32Array, decoded: F32Array) -> F32Array:
        del decoded
        units = (highest + 1) * _scale(blocks, offset) + _scale(blocks, offset + 2)
        steps = np.float32(reach / highest) * _span(wanted, sub_block)
        found: F32Array = _SLACK * (steps + units) + _through_f16(wanted) + 64 * (highest + 1) * _TINY
        return found

    return bound


def _q3_k(blocks: U8Array, wanted: F32Array, decoded: F32Array) -> F32Array:
    del decoded
    found: F32Array = _SLACK * (_span(wanted, 16) + 4 * _scale(blocks, 108)) + _through_f16(wanted) + 128 * _TINY
    return found


_BOUNDS: Final[Mapping[Type, Callable[[U8Array, F32Array, F32Array], F32Array]]] = {
    Type.F32: _exact,
    Type.F16: _f16,
    Type.BF16: _bf16,
    Type.Q4_0: _symmetric(7),
    Type.Q4_1: _by_range(15),
    Type.Q5_0: _symmetric(15),
    Type.Q5_1: _by_range(31),
    Type.Q8_0: _q8_0,
    Type.Q2_K: _affine_super(16, highest=3, reach=3, offset=80),
    Type.Q3_K: _q3_k,
    Type.Q4_K: _affine_super(32, highest=15, reach=4, offset=0),
    Type.Q5_K: _affine_super(32, highest=31, reach=4, offset=0),
    Type.Q6_K: _q6_k,
}
_WIDE: Final = {Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K}
