"""bitsandbytes' 8-bit weights (LLM.int8), down and up again, row by row.

    row ── float16 ──▶ absmax                   bitsandbytes rounds every weight to float16 first
    value * (1 / absmax * 127) ── nearest ──▶ int8   ties to even
    int8 * absmax * (1 / 127)                    float32, in this order

torch divides a number by a tensor as its reciprocal times the number. Outliers are a matter of activations: a weight is
stored whole.
Source: bitsandbytes 0.50.2, nn/modules.py (Int8Params), backends/default/ops.py (int8_vectorwise_quant), _ops.py
(int8_vectorwise_dequant).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from convert.codec.contract import F32Array

_RECIPROCAL_OF_127: Final = np.float32(7.874015718698502e-3)


def round_to_int8(rows: F32Array) -> F32Array:
    """Round rows to 255 values each: float32 (n_rows, n_cols) from the same. A row of zeros stays one.

    A row that is not finite in float16 is given so, for the encoder to find.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        halves = rows.astype(np.float16).astype(np.float32)
        absmax = np.abs(halves).max(axis=1, keepdims=True)
        integers = np.rint(halves * (np.float32(1) / absmax * np.float32(127)))
        np.copyto(integers, 0, where=absmax == 0)
        integers += np.float32(0)  # an int8 has no negative zero
        rounded: F32Array = integers * absmax * _RECIPROCAL_OF_127
    np.copyto(rounded, halves, where=~np.isfinite(absmax))
    return rounded
