"""The codecs in NumPy: slow, readable, and the definition that the compiled kernels are held to.

Decoding blocks is the `gguf` package's. Its quantizers differ from ggml at the edges, so they are written here; and so
are the float types, which it takes a hundred times as long for:

    Q4_0, Q5_0   a block of zeros that begins with -0 gets scale +0 from gguf, -0 from ggml
    Q4_1, Q5_1   of a minimum that is both -0 and +0, gguf may store either, ggml the first
    all five     a scale below 2^-128, whose inverse is infinite: gguf casts NaN to an integer (undefined, with a
                 warning); ggml on x86-64 stores quants 0

Source: ggml-quants.c, quantize_row_{q4_0,q4_1,q5_0,q5_1,q8_0}_ref @ 0c1e570. Every line below is one float32 operation.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType, quants

from convert.codec import block32_weighted, fp4, iq1, iq2, iq3, iq4, q2_k, q3_k, q4_k, q6_k, ternary
from convert.codec.arithmetic import f16_bytes, fifth_bits, nibbles
from convert.codec.contract import Codec, F32Array, U8Array, Weighting, sizes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _inverse(scale: F32Array) -> F32Array:
    inverse: F32Array = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    return inverse


def _truncate_to_bytes(values: F32Array) -> U8Array:
    """Drop the fraction; keep the low byte. What int32 cannot hold, NaN included, is 0, as on x86-64."""
    in_range = np.abs(values) < 2.0**31
    return np.where(in_range, values, 0).astype(np.int32).astype(np.uint8)


def _scale_by_peak(blocks: F32Array, divisor: int) -> F32Array:
    """Scale = peak / divisor, where the peak is the first weight of largest magnitude, with its sign."""
    index = np.abs(blocks).argmax(axis=1, keepdims=True)
    peak = np.take_along_axis(blocks, index, axis=1)
    peak = np.where(peak == 0, np.float32(0), peak)  # Parity: ggml begins with +0, and no -0 is larger
    scale: F32Array = peak / np.float32(divisor)
    return scale


def _scale_by_range(blocks: F32Array, steps: int) -> tuple[F32Array, F32Array]:
    """Scale = (highest - lowest) / steps, and the lowest, the first of equals."""
    lowest = np.take_along_axis(blocks, blocks.argmin(axis=1, keepdims=True), axis=1)
    highest = np.take_along_axis(blocks, blocks.argmax(axis=1, keepdims=True), axis=1)
    scale: F32Array = (highest - lowest) / np.float32(steps)
    return scale, lowest


def _encode_q4_0(blocks: F32Array) -> U8Array:
    """Float16 scale, nibbles; peak maps to quant 0; truncates x / scale + 8.5, at most 15."""
    scale = _scale_by_peak(blocks, -8)
    q = np.minimum(_truncate_to_bytes(blocks * _inverse(scale) + np.float32(8.5)), 15)
    return np.concatenate([f16_bytes(scale), nibbles(q)], axis=1)


def _encode_q4_1(blocks: F32Array) -> U8Array:
    """Float16 scale, float16 minimum, nibbles; truncates (x - minimum) / scale + 0.5."""
    scale, lowest = _scale_by_range(blocks, 15)
    q = np.minimum(_truncate_to_bytes((blocks - lowest) * _inverse(scale) + np.float32(0.5)), 15)
    return np.concatenate([f16_bytes(scale), f16_bytes(lowest), nibbles(q)], axis=1)


def _encode_q5_0(blocks: F32Array) -> U8Array:
    """Float16 scale, 32 fifth bits, nibbles; peak maps to quant 0; truncates x / scale + 16.5, at most 31."""
    scale = _scale_by_peak(blocks, -16)
    q = np.minimum(_truncate_to_bytes(blocks * _inverse(scale) + np.float32(16.5)), 31)
    return np.concatenate([f16_bytes(scale), fifth_bits(q), nibbles(q)], axis=1)


def _encode_q5_1(blocks: F32Array) -> U8Array:
    """Float16 scale, float16 minimum, 32 fifth bits, nibbles; truncates (x - minimum) / scale + 0.5."""
    scale, lowest = _scale_by_range(blocks, 31)
    q = _truncate_to_bytes((blocks - lowest) * _inverse(scale) + np.float32(0.5))
    return np.concatenate([f16_bytes(scale), f16_bytes(lowest), fifth_bits(q), nibbles(q)], axis=1)


def _encode_q8_0(blocks: F32Array) -> U8Array:
    """Float16 scale, 32 signed bytes; rounds half away from zero."""
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(scale)
    whole = np.trunc(scaled)
    away = np.copysign(np.abs(scaled - whole) >= np.float32(0.5), scaled).astype(np.float32)
    return np.concatenate([f16_bytes(scale), _truncate_to_bytes(whole + away)], axis=1)


def _encode_f32(blocks: F32Array) -> U8Array:
    return blocks.astype("<f4").view(np.uint8)


def _encode_bf16(blocks: F32Array) -> U8Array:
    """Keep the upper halves, rounded to nearest, ties to even; a NaN is made quiet. ggml_compute_fp32_to_bf16."""
    bits = np.ascontiguousarray(blocks).view(np.uint32)
    sums = (bits >> np.uint32(16)) & np.uint32(1)
    sums += np.uint32(0x7FFF)
    sums += bits
    np.copyto(sums, bits | np.uint32(0x400000), where=np.isnan(blocks))
    halves: U8Array = (sums >> np.uint32(16)).astype("<u2").view(np.uint8)
    return halves


def _decode_f32(blocks: U8Array) -> F32Array:
    return np.ascontiguousarray(blocks).view("<f4").astype(np.float32)


def _decode_f16(blocks: U8Array) -> F32Array:
    return np.ascontiguousarray(blocks).view("<f2").astype(np.float32)


def _decode_bf16(blocks: U8Array) -> F32Array:
    widened: F32Array = (np.ascontiguousarray(blocks).view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return widened


def _decode_with_gguf(tensor_type: GGMLQuantizationType, blocks: U8Array) -> F32Array:
    decoded: F32Array = quants.dequantize(blocks, tensor_type)
    return decoded


def _row(
    tensor_type: GGMLQuantizationType,
    encode_blocks: Callable[[F32Array], U8Array] | None,
    *,
    weighted: Callable[[F32Array, Weighting], U8Array] | None = None,
    decode_blocks: Callable[[U8Array], F32Array] | None = None,
    scales: tuple[int, ...] = (),
) -> Codec:
    block_size, type_size = sizes_of(tensor_type)
    decode = decode_blocks or partial(_decode_with_gguf, tensor_type)
    return Codec(tensor_type, block_size, type_size, encode_blocks, decode, weighted, scales)


_TABLE: Final = (
    _row(GGMLQuantizationType.F32, _encode_f32, decode_blocks=_decode_f32),
    _row(GGMLQuantizationType.F16, f16_bytes, decode_blocks=_decode_f16),
    _row(GGMLQuantizationType.BF16, _encode_bf16, decode_blocks=_decode_bf16),
    _row(GGMLQuantizationType.Q4_0, _encode_q4_0, weighted=block32_weighted.encode_q4_0, scales=(0,)),
    _row(GGMLQuantizationType.Q4_1, _encode_q4_1, weighted=block32_weighted.encode_q4_1, scales=(0, 2)),
    _row(GGMLQuantizationType.Q5_0, _encode_q5_0, weighted=block32_weighted.encode_q5_0, scales=(0,)),
    _row(GGMLQuantizationType.Q5_1, _encode_q5_1, weighted=block32_weighted.encode_q5_1, scales=(0, 2)),
    _row(GGMLQuantizationType.Q8_0, _encode_q8_0, scales=(0,)),
    _row(GGMLQuantizationType.Q2_K, q2_k.encode_q2_k, weighted=q2_k.encode_q2_k_weighted, scales=(80, 82)),
    _row(GGMLQuantizationType.Q3_K, q3_k.encode_q3_k, weighted=q3_k.encode_q3_k_weighted, scales=(108,)),
    _row(GGMLQuantizationType.Q4_K, q4_k.encode_q4_k, weighted=q4_k.encode_q4_k_weighted, scales=(0, 2)),
    _row(GGMLQuantizationType.Q5_K, q4_k.encode_q5_k, weighted=q4_k.encode_q5_k_weighted, scales=(0, 2)),
    _row(GGMLQuantizationType.Q6_K, q6_k.encode_q6_k, weighted=q6_k.encode_q6_k_weighted, scales=(208,)),
    _row(GGMLQuantizationType.MXFP4, fp4.encode_mxfp4),
    _row(GGMLQuantizationType.NVFP4, fp4.encode_nvfp4),
    _row(GGMLQuantizationType.TQ1_0, ternary.encode_tq1_0, scales=(52,)),
    _row(GGMLQuantizationType.TQ2_0, ternary.encode_tq2_0, scales=(64,)),
    _row(GGMLQuantizationType.Q1_0, ternary.encode_q1_0, decode_blocks=ternary.decode_q1_0, scales=(0,)),
    _row(GGMLQuantizationType.Q2_0, ternary.encode_q2_0, decode_blocks=ternary.decode_q2_0, scales=(0,)),
    _row(GGMLQuantizationType.IQ4_NL, iq4.encode_iq4_nl, weighted=iq4.encode_iq4_nl, scales=(0,)),
    _row(GGMLQuantizationType.IQ4_XS, iq4.encode_iq4_xs, weighted=iq4.encode_iq4_xs, scales=(0,)),
    _row(GGMLQuantizationType.IQ3_XXS, iq3.encode_iq3_xxs, weighted=iq3.encode_iq3_xxs, scales=(0,)),
    _row(GGMLQuantizationType.IQ3_S, iq3.encode_iq3_s, weighted=iq3.encode_iq3_s, scales=(0,)),
    _row(GGMLQuantizationType.IQ2_XXS, None, weighted=iq2.encode_iq2_xxs, scales=(0,)),
    _row(GGMLQuantizationType.IQ2_XS, None, weighted=iq2.encode_iq2_xs, scales=(0,)),
    _row(GGMLQuantizationType.IQ2_S, iq2.encode_iq2_s, weighted=iq2.encode_iq2_s, scales=(0,)),
    _row(GGMLQuantizationType.IQ1_S, None, weighted=iq1.encode_iq1_s, scales=(0,)),
    _row(GGMLQuantizationType.IQ1_M, iq1.encode_iq1_m, weighted=iq1.encode_iq1_m),
)

CODECS: Final[Mapping[GGMLQuantizationType, Codec]] = MappingProxyType({codec.type: codec for codec in _TABLE})

if len(CODECS) != len(_TABLE):
    raise RuntimeError("two codecs have one type")
