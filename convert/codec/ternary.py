"""TQ1_0, TQ2_0, Q1_0 and Q2_0 in NumPy: weights of two or three values under one scale.

    TQ1_0    54 bytes of 256   32 + 16 bytes of 5 digits, 4 of 4 | d f16      weight = d * (digit - 1)
    TQ2_0    66 bytes of 256   64 x 4 pairs of bits | d f16                   weight = d * (q - 1)
    Q1_0     18 bytes of 128   d f16 | 128 bits                               weight = bit ? d : -d
    Q2_0     18 bytes of 64    d f16 | 16 x 4 pairs of bits                   weight = d * (q - 1)

A byte of digits is their number in base 3, times 256 / 243, rounded up: multiplied by 3, its ninth and tenth bit are
the next digit.

Source: ggml-quants.c, quantize_row_{tq1_0,tq2_0,q1_0,q2_0}_ref, dequantize_row_q2_0 @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convert.codec.arithmetic import f16_bytes, inverse_or_zero, ordered_sum

if TYPE_CHECKING:
    from convert.codec.contract import F32Array, U8Array


def _to_three(blocks: F32Array, otherwise: int) -> tuple[F32Array, U8Array]:
    """Give the largest magnitude d, and x / d rounded half away from zero, plus 1.

    Parity: where 1 / d is infinite no integer comes of x / d, and ggml's conversion gives `otherwise`.
    """
    d = np.abs(blocks).max(axis=1, keepdims=True)
    scaled = blocks * inverse_or_zero(d)
    q = 1 + (scaled >= np.float32(0.5)) - (scaled <= np.float32(-0.5)).astype(np.int8)
    return d, np.where(np.isinf(inverse_or_zero(d)), otherwise, q).astype(np.uint8)


def _digits(q: U8Array) -> U8Array:
    """Pack (n, n_digits, m) digits to (n, m) bytes, the first digit the highest of five."""
    number = np.zeros((len(q), q.shape[2]), np.int32)
    for digit in range(5):
        number = number * 3 + (q[:, digit] if digit < q.shape[1] else 0)
    return ((number * 256 + 242) // 243).astype(np.uint8)


def _pairs(q: U8Array) -> U8Array:
    """Pack (n, m, 4, k) numbers of two bits to (n, m * k) bytes."""
    packed = q[:, :, 0] | q[:, :, 1] << 2 | q[:, :, 2] << 4 | q[:, :, 3] << 6
    return packed.reshape(len(q), -1).astype(np.uint8)


def encode_tq1_0(blocks: F32Array) -> U8Array:
    """Quantize float32 (n, 256) to uint8 (n, 54)."""
    d, q = _to_three(blocks, otherwise=1)
    parts = (q[:, :160].reshape(-1, 5, 32), q[:, 160:240].reshape(-1, 5, 16), q[:, 240:].reshape(-1, 4, 4))
    return np.concatenate([*map(_digits, parts), f16_bytes(d)], axis=1)


def encode_tq2_0(blocks: F32Array) -> U8Array:
    """Quantize float32 (n, 256) to uint8 (n, 66)."""
    d, q = _to_three(blocks, otherwise=1)
    return np.concatenate([_pairs(q.reshape(-1, 2, 4, 32)), f16_bytes(d)], axis=1)


def encode_q2_0(blocks: F32Array) -> U8Array:
    """Quantize float32 (n, 64) to uint8 (n, 18)."""
    d, q = _to_three(blocks, otherwise=0)
    return np.concatenate([f16_bytes(d), _pairs(q.reshape(-1, 16, 4, 1))], axis=1)


def decode_q2_0(blocks: U8Array) -> F32Array:
    """Decode uint8 (n, 18) to float32 (n, 64)."""
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    q = blocks[:, 2:, np.newaxis] >> np.array([0, 2, 4, 6], np.uint8) & 3
    values: F32Array = (q.reshape(-1, 64).astype(np.float32) - np.float32(1)) * d
    return values


def encode_q1_0(blocks: F32Array) -> U8Array:
    """Quantize float32 (n, 128) to uint8 (n, 18); d is the mean magnitude, summed in order."""
    d = ordered_sum(np.abs(blocks)) / np.float32(128)
    return np.concatenate([f16_bytes(d), np.packbits(blocks >= 0, axis=1, bitorder="little")], axis=1)


def decode_q1_0(blocks: U8Array) -> F32Array:
    """Decode uint8 (n, 18) to float32 (n, 128)."""
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    return np.where(np.unpackbits(blocks[:, 2:], axis=1, bitorder="little") > 0, d, -d)
