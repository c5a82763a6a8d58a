"""Signs of weights that are stored apart from their magnitudes, eight to a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.codec.contract import F32Array, U8Array


def strip_signs(eights: F32Array) -> tuple[F32Array, U8Array]:
    """Give magnitudes of float32 (n, 8), and of each eight a byte, a bit for a negative weight; -0 keeps its sign."""
    below = eights < 0
    return np.where(below, -eights, eights), np.packbits(below, axis=1, bitorder="little")[:, 0]


def strip_even_signs(eights: F32Array, counts: F32Array) -> tuple[F32Array, U8Array]:
    """Strip signs, made even in number first, so that seven bits say them all.

    Where it is odd, the weight whose error counts least changes its own: counts * x * x, the first of equals.
    """
    x, signs = strip_signs(eights)
    odd = np.flatnonzero((eights < 0).sum(axis=1) % 2)
    errors = counts * eights * eights
    least = np.where(np.isnan(errors[:, 0]), 0, np.where(np.isnan(errors), np.inf, errors).argmin(axis=1))[odd]
    x[odd, least] = -x[odd, least]
    signs[odd] ^= (1 << least).astype(np.uint8)
    return x, (signs & 127).astype(np.uint8)


def turn_signs(signs: U8Array, turned: NDArray[np.bool_], mask: int) -> U8Array:
    """Give signs, (n, m); those of rows that turned around are changed, in the bits of the mask."""
    return np.where(turned[:, np.newaxis], ~signs & mask, signs).astype(np.uint8)
