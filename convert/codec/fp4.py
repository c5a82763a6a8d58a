"""MXFP4 and NVFP4 in NumPy: floats of four bits under a shared scale.

    MXFP4   17 bytes of 32   e8m0 scale | 16 x nibbles (weight j low, j + 16 high)
    NVFP4   36 bytes of 64   4 x ue4m3 scale, one for 16 weights | 4 x (8 x nibbles: weight j low, j + 8 high)

A nibble is a sign and one of eight magnitudes, 0 to 6; they are kept doubled, and scales halved.

Source: ggml-quants.c, quantize_row_{mxfp4,nvfp4}_ref, best_index_mxfp4; ggml-impl.h, ggml_fp32_to_ue4m3 @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array

_DOUBLED: Final = (0, 1, 2, 3, 4, 6, 8, 12)
# log2 rounded to float32 gives the next integer for so many of the largest mantissas below a power of two, by the bits
# of the exponent: ln 2 * 2^bits, and so it is in the C library.
_N_ROUNDING_UP: Final = np.array([0, 1, 2, 5, 11, 22, 44, 88])


def _nearest_fp4(blocks: F32Array, d: F32Array) -> U8Array:
    """Sign and magnitude nearest to each weight, of equals the smaller magnitude; zero has no sign."""
    sizes = np.abs(blocks)
    least, index = sizes, np.zeros(blocks.shape, np.uint8)
    for k, doubled in enumerate(_DOUBLED[1:], 1):
        error = np.abs(np.float32(doubled) * d - sizes)
        index = np.where(error < least, k, index)
        least = np.minimum(error, least)
    return (index | ((blocks < 0) & (index > 0)) << 3).astype(np.uint8)


def _floor_of_log2(values: F32Array) -> NDArray[np.int64]:
    """floorf(log2f(x)) for x > 0."""
    mantissas, exponents = np.frexp(values.astype(np.float64))
    exponent = exponents.astype(np.int64) - 1
    distance = np.where(exponent >= 0, exponent, -(exponent + 1))
    n_bits = np.frexp(np.maximum(distance, 1).astype(np.float64))[1] - 1
    n_rounding_up = np.where(distance == 0, 0, _N_ROUNDING_UP[n_bits])
    return exponent + ((1 - mantissas) * 2**24 <= n_rounding_up)


def encode_mxfp4(blocks: F32Array) -> U8Array:
    """Quantize float32 (n, 32) to uint8 (n, 17); the exponent of the scale is kept in a byte, below zero too."""
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    safe = np.where(largest > 0, largest, np.float32(1))
    e = np.where(largest > 0, _floor_of_log2(safe) - 2 + 127, 0).astype(np.uint8)
    d = np.ldexp(np.float32(1), e.astype(np.int32) - 128).astype(np.float32)
    q = _nearest_fp4(blocks, d).reshape(-1, 2, 16)
    return np.concatenate([e, q[:, 0] | q[:, 1] << 4], axis=1)


def _ue4m3(values: F32Array) -> U8Array:
    """Round to four bits of exponent and three of mantissa, at most 448; half of the last place goes up."""
    bits = values.view(np.uint32).astype(np.int64)
    exponent = (bits >> 23) - 127 + 7
    small = np.minimum(values * np.float32(512) + np.float32(0.5), np.float32(7)).astype(np.int64)
    usual = (exponent << 3 | bits >> 20 & 7) + (bits >> 19 & 1)
    return np.where(exponent <= 0, small, np.where(usual >= 15 << 3, 0x7E, usual)).astype(np.uint8)


def encode_nvfp4(blocks: F32Array) -> U8Array:
    """Quantize float32 (n, 64) to uint8 (n, 36)."""
    subs = blocks.reshape(-1, 4, 16)
    e = _ue4m3(np.abs(subs).max(axis=2) / np.float32(6))
    exponent, mantissa = e >> 3, (e & 7).astype(np.float32)
    significand = np.where(exponent > 0, 1 + mantissa / np.float32(8), mantissa / np.float32(8))
    d = np.ldexp(significand, np.maximum(exponent, 1).astype(np.int32) - 8).astype(np.float32)
    q = _nearest_fp4(subs, d[:, :, np.newaxis])
    return np.concatenate([e, (q[:, :, :8] | q[:, :, 8:] << 4).reshape(-1, 32)], axis=1)
