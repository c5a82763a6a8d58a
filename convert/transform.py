"""What is done to a tensor's rows on the way from the checkpoint to GGUF.

A transform is data. It moves rows, never changes values, and works on any slice that holds whole
row groups, so that a tensor can be streamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Identity:
    """Rows go out as they come in."""

    group_rows: int = 1

    def apply(self, rows: NDArray[np.uint8], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the rows themselves; `out` is not needed."""
        del out
        return rows


@dataclass(frozen=True, slots=True)
class InterleaveHalves:
    """Bring each head's two rotary halves together, pair by pair.

    transformers rotates row j of a head with row j + head_dim / 2, llama.cpp with its neighbour:

        in   a0 a1 a2 … b0 b1 b2 …        (head_dim rows of one head)
        out  a0 b0 a1 b1 a2 b2 …

    group_rows: head_dim, even.
    Source: conversion/llama.py, LlamaModel.permute @ 0c1e570.
    """

    group_rows: int

    def apply(self, rows: NDArray[np.uint8], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Reorder rows given as bytes.

        rows, out: uint8 (n_rows, row_nbytes), n_rows a multiple of group_rows. Returns `out`, filled.
        """
        n_rows, row_nbytes = rows.shape
        heads = n_rows // self.group_rows
        halves = rows.reshape(heads, 2, self.group_rows // 2, row_nbytes)
        np.copyto(out.reshape(heads, self.group_rows // 2, 2, row_nbytes), halves.swapaxes(1, 2))
        return out


Transform = Identity | InterleaveHalves

UNCHANGED: Final = Identity()
