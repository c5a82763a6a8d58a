"""Weights as scale * q + minimum, q in 0..highest: the search for the scale and the minimum of a block.

Each candidate is a grid (inverse, minimum): quants on it, the best scale and minimum for these quants, and the error of
that fit. A winner's minimum begins the next candidate's grid.

Source: ggml-quants.c, make_qkx2_quants and make_qkx3_quants @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convert.codec.arithmetic import ordered_sum, quants

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array


@dataclass(frozen=True, slots=True)
class AffineSearch:
    """Candidate c has the inverse (first + c * step + highest) / range."""

    highest: int
    n_steps: int
    first: float
    step: float
    absolute: bool = False
    """Errors count as they are, not squared."""

    def inverse(self, candidate: int, span: F32Array) -> F32Array:
        """Give the candidate's inverse, in float32 all the way."""
        numerator = np.float32(self.first) + np.float32(self.step) * np.float32(candidate) + np.float32(self.highest)
        inverse: F32Array = numerator / span
        return inverse


@dataclass(frozen=True, slots=True)
class AffineFit:
    """Each (n, 1): x is nearly scale * q + minimum; q is what x becomes on the grid (inverse, grid)."""

    scale: F32Array
    minimum: F32Array
    inverse: F32Array
    grid: F32Array

    def replaced(self, where: NDArray[np.bool_], other: AffineFit) -> AffineFit:
        """Take the other where it is so."""
        fields = ("scale", "minimum", "inverse", "grid")
        return AffineFit(*(np.where(where, getattr(other, name), getattr(self, name)) for name in fields))


def search_affine(x: F32Array, w: F32Array, search: AffineSearch) -> AffineFit:
    """Search scale and minimum of each block; x, w: float32 (n, size): weights, and what an error in each counts.

    A block of one value (nothing above its lowest, or above zero) has scale 0 and inverse 0.
    """
    low = np.take_along_axis(x, x.argmin(axis=1, keepdims=True), axis=1)
    low, high = np.where(low > 0, np.float32(0), low), x.max(axis=1, keepdims=True)
    sum_w, sum_wx = (terms.cumsum(axis=1, dtype=np.float32)[:, -1:] for terms in (w, w * x))
    inverse = np.float32(search.highest) / (high - low)
    fit = AffineFit(np.float32(1) / inverse, low, inverse, low)
    error = _error(x, w, _quants(x, fit, search), fit, search)
    for candidate in range(search.n_steps + 1):
        grid = AffineFit(fit.scale, fit.minimum, search.inverse(candidate, high - fit.minimum), fit.minimum)
        q = _quants(x, grid, search)
        challenger, determinant = _solve(x, w, q, grid, sum_w, sum_wx)
        new_error = _error(x, w, q, challenger, search)
        better = (determinant > 0) & (new_error < error)
        fit, error = fit.replaced(better, challenger), np.where(better, new_error, error)
    zero = np.zeros_like(low)
    return fit.replaced(~(high > low), AffineFit(zero, low, zero, fit.grid))


def _quants(x: F32Array, on: AffineFit, search: AffineSearch) -> F32Array:
    return quants(on.inverse * (x - on.grid), 0, search.highest)


def _solve(
    x: F32Array, w: F32Array, q: F32Array, grid: AffineFit, sum_w: F32Array, sum_wx: F32Array
) -> tuple[AffineFit, F32Array]:
    """Least squares of these quants, the minimum never above zero; and the determinant."""
    p = w * q
    sum_q, sum_qq, sum_qx = ordered_sum(p), ordered_sum(p * q), ordered_sum(p * x)
    determinant = sum_w * sum_qq - sum_q * sum_q
    scale = np.divide(sum_w * sum_qx - sum_wx * sum_q, determinant, dtype=np.float32)
    minimum = np.divide(sum_qq * sum_wx - sum_q * sum_qx, determinant, dtype=np.float32)
    fit = AffineFit(scale, minimum, grid.inverse, grid.grid)
    at_zero: F32Array = sum_qx / sum_qq
    return fit.replaced(minimum > 0, AffineFit(at_zero, np.zeros_like(minimum), grid.inverse, grid.grid)), determinant


def _error(x: F32Array, w: F32Array, q: F32Array, fit: AffineFit, search: AffineSearch) -> F32Array:
    miss = fit.scale * q + fit.minimum - x
    return ordered_sum(w * (np.abs(miss) if search.absolute else miss * miss))


def final_quants(x: F32Array, fit: AffineFit, scale: F32Array, minimum: F32Array, highest: int) -> U8Array:
    """Quants of blocks that decode as scale * q - minimum; where scale came out as 0, those that the search found.

    x: (n, size). scale, minimum: (n, 1).
    """
    found = np.where(fit.inverse != 0, fit.inverse * (x - fit.grid), np.float32(0))
    return quants(np.where(scale != 0, (x + minimum) / scale, found), 0, highest).astype(np.uint8)
