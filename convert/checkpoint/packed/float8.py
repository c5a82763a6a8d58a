"""Numbers of one byte as the float32 that each of their 256 values is.

    e4m3fn     s eeee mmm    bias 7, no infinity, 0x7f and 0xff are NaN
    e5m2       s eeeee mm    bias 15, infinities and NaN as IEEE 754 has them
    e4m3fnuz   s eeee mmm    bias 8, no infinity, no negative zero: 0x80 is NaN
    e5m2fnuz   s eeeee mm    bias 16, the same
    e8m0       eeeeeeee      2 ** (byte - 127), 0xff is NaN

Source: "FP8 Formats for Deep Learning" (arXiv:2209.05433); "8-bit Numerical Formats for Deep Neural Networks"
(arXiv:2206.02915) for the fnuz ones; OCP Microscaling Formats v1.0, section 5.4, for e8m0; e2m1 is section 5.3.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.source import StoredType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.codec.contract import F32Array, U8Array

FLOAT8_TYPES: Final = (StoredType.F8_E4M3, StoredType.F8_E5M2, StoredType.F8_E4M3FNUZ, StoredType.F8_E5M2FNUZ)


def decode_bytes(raw: U8Array, dtype: StoredType) -> F32Array:
    """Decode bytes, of any shape, that are I8, an 8-bit float, an exponent in F8_E8M0, or one in U8.

    U8 is E8M0 without NaN: 0xff is infinity, as 2 ** (byte - 127) in float32 is. MX checkpoints store it so.
    """
    return np.take(_VALUES[dtype], raw)


def decode_nibbles(raw: U8Array, *, has_negative_zero: bool = True) -> F32Array:
    """Decode bytes (n_rows, n) that hold two e2m1 each, the low nibble first: float32 (n_rows, 2 * n).

    e2m1 is `s ee m`, bias 1. modelopt reads code 8 as plain zero, all others as minus zero.
    """
    pairs = _E2M1_PAIRS if has_negative_zero else _E2M1_PAIRS_WITHOUT_NEGATIVE_ZERO
    values: F32Array = np.take(pairs, raw, axis=0).reshape(len(raw), -1)
    return values


def _minifloat(exponent_bits: int, mantissa_bits: int, bias: int) -> F32Array:
    """List the values of a sign, an exponent and a mantissa, by code; the specials are the caller's to set."""
    codes = np.arange(1 << (exponent_bits + mantissa_bits))
    exponents, mantissas = codes >> mantissa_bits, codes & ((1 << mantissa_bits) - 1)
    significands = np.where(exponents == 0, mantissas, mantissas + (1 << mantissa_bits))
    magnitudes = np.ldexp(significands.astype(np.float32), np.maximum(exponents, 1) - bias - mantissa_bits)
    values: F32Array = np.concatenate([magnitudes, -magnitudes])
    return values


def _with(values: F32Array, specials: Mapping[int, float]) -> F32Array:
    changed: F32Array = values.copy()
    for code, value in specials.items():
        changed[code] = value
    return changed


def _e5m2_specials() -> dict[int, float]:
    nans = {sign | code: np.nan for sign in (0, 0x80) for code in (0x7D, 0x7E, 0x7F)}
    return {0x7C: np.inf, 0xFC: -np.inf, **nans}


def _exponents() -> F32Array:
    with np.errstate(over="ignore"):
        values: F32Array = np.ldexp(np.ones(256, np.float32), np.arange(256) - 127)
    return values


_VALUES: Final[Mapping[StoredType, F32Array]] = {
    StoredType.I8: np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32),
    StoredType.F8_E4M3: _with(_minifloat(4, 3, 7), {0x7F: np.nan, 0xFF: np.nan}),
    StoredType.F8_E5M2: _with(_minifloat(5, 2, 15), _e5m2_specials()),
    StoredType.F8_E4M3FNUZ: _with(_minifloat(4, 3, 8), {0x80: np.nan}),
    StoredType.F8_E5M2FNUZ: _with(_minifloat(5, 2, 16), {0x80: np.nan}),
    StoredType.F8_E8M0: _with(_exponents(), {0xFF: np.nan}),
    StoredType.U8: _exponents(),
}

E2M1: Final = _minifloat(2, 1, 1)


def _pairs(values: F32Array) -> F32Array:
    codes = np.arange(256)
    return np.stack([values[codes & 0xF], values[codes >> 4]], axis=1)


_E2M1_PAIRS: Final = _pairs(E2M1)
_E2M1_PAIRS_WITHOUT_NEGATIVE_ZERO: Final = _pairs(_with(E2M1, {8: 0.0}))
