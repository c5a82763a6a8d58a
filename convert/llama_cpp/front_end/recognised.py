"""Expressions of the other process, as views of our reader's tensors; what they mean is in worker/graph.py."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint import StoredType
from convert.checkpoint.views import AsFloat32, Blocks, Rows, Swapped, Transposed, concatenated, stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convert.checkpoint import Tensor


def view_of(expression: Sequence[Any], name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Make the view that an expression says. tensors: the model's, by the checkpoint's names."""
    kind, of, *rest = expression
    if kind == "stored":
        return tensors[of]
    if kind in ("stack", "concatenated"):
        parts = _of_one_type([view_of(part, name, tensors) for part in of])
        return stacked(name, parts) if kind == "stack" else concatenated(name, parts)
    return _OF_ONE[kind](view_of(of, name, tensors), *rest)


def _shaped(base: Tensor, shape: Sequence[int]) -> Tensor:
    return base if base.shape == tuple(shape) else Rows(base, base.name, tuple(shape))


def _rows(base: Tensor, first: int, shape: Sequence[int]) -> Tensor:
    return Rows(base, base.name, tuple(shape), first * prod(base.shape[1:-1]))


def _blocks(base: Tensor, first: int, n_taken: int, period: int) -> Tensor:
    shape = (*base.shape[:-2], base.shape[-2] // period * n_taken, base.shape[-1])
    return Blocks(base, base.name, shape, period, first, n_taken)


def _swapped(base: Tensor) -> Tensor:
    heads, a, b, *inner = base.shape
    rows = _shaped(base, (heads, a, b, prod(inner)))
    return _shaped(Swapped(rows, base.name, a, b), (heads, b, a, *inner))


def _of_one_type(parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Widen parts of several types: an adapter changes some of the experts, which are then float32."""
    if len({part.dtype for part in parts}) == 1:
        return tuple(parts)
    return tuple(part if part.dtype is StoredType.F32 else AsFloat32(part, part.name) for part in parts)


_OF_ONE: Final[Mapping[str, Callable[..., Tensor]]] = {
    "shaped": _shaped,
    "rows": _rows,
    "blocks": _blocks,
    "transposed": lambda base: Transposed(base, base.name),
    "swapped": _swapped,
}
