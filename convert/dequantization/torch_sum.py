"""The sum of float32 values as torch has it on an x86-64 CPU, bit for bit.

Addition of floats is not associative, so the order matters: torch reads a row of vectors of 8 as four columns, adds up
each in cascades (sixteen or more vectors, then as many of those sums, four levels), then the columns, what is left, and
the 8 lanes at last.
Source: torch 2.13, aten/src/ATen/native/cpu/SumKernel.cpp (cascade_sum); one thread, AVX2 (with AVX-512 too).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from convert.codec.contract import F32Array

_LANES: Final = 8
_COLUMNS: Final = 4
_LEVELS: Final = 4


def torch_sum(values: F32Array) -> np.float32:
    """Add up float32 (n,)."""
    n_lanes = _LANES if len(values) >= _LANES else 1
    n_vectors = len(values) // n_lanes
    lanes = _sum_of_vectors(values[: n_vectors * n_lanes].reshape(-1, n_lanes))
    rest = _in_order(values[n_vectors * n_lanes :], np.zeros((), np.float32))
    total: np.float32 = np.float32(_in_order(lanes, rest).item())
    return total


def _sum_of_vectors(vectors: F32Array) -> F32Array:
    """Add up vectors (n, lanes) in four columns: (lanes,)."""
    n_rows = len(vectors) // _COLUMNS
    columns = _cascade(vectors[: n_rows * _COLUMNS].reshape(n_rows, _COLUMNS, vectors.shape[1]))
    lanes = _in_order(vectors[n_rows * _COLUMNS :], columns[0])
    return _in_order(columns[1:], lanes)


def _cascade(rows: F32Array) -> F32Array:
    """Add up rows (n, columns, lanes) in levels of `step` sums each: (columns, lanes)."""
    power = max(4, (len(rows) - 1).bit_length() // _LEVELS) if len(rows) else 4
    step = 1 << power
    left_over = [rows]
    for level in range(_LEVELS - 1):
        whole = len(left_over[level]) // step * step
        groups = left_over[level][:whole].reshape(-1, step, *rows.shape[1:])
        left_over[level] = left_over[level][whole:]
        left_over.append(_in_order(groups.swapaxes(0, 1), np.zeros(groups[:, 0].shape, np.float32)))
    totals = [_in_order(level, np.zeros(rows.shape[1:], np.float32)) for level in left_over]
    return _in_order(np.stack(totals[1:]), totals[0])


def _in_order(terms: F32Array, start: F32Array) -> F32Array:
    """Add terms (n, …) to start (…), one after the other."""
    total: F32Array = start.copy()
    for term in terms:
        total += term
    return total
