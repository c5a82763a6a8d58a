"""Expressions of the other process, as views of our reader's tensors; what they mean is in worker/graph.py."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from convert.checkpoint import StoredType
from convert.checkpoint.views import AsFloat32, Blocks, Rows, Swapped, Transposed, concatenated, stacked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convert.checkpoint import Tensor


def view_of(expression: Sequence[Any], name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Make the view that an expression says. tensors: the model's, by the checkpoint's names."""
    kind, of, *rest = expression
    if kind == "stored":
        return tensors[of]
    if kind in ("stack", "concatenated"):
        parts = _of_one_type([view_of(part, name, tensors) for part in of])
        return stacked(name, parts) if kind == "stack" else concatenated(name, parts)
    base = view_of(of, name, tensors)
    if kind == "shaped":
        return _shaped(base, tuple(rest[0]))
    if kind == "rows":
        first, shape = rest
        return Rows(base, base.name, tuple(shape), first * (prod(base.shape[1:-1]) if len(base.shape) > 1 else 1))
    if kind == "blocks":
        first, n_taken = rest
        shape = (*base.shape[:-2], n_taken, base.shape[-1])
        return Blocks(base, base.name, shape, base.shape[-2], first, n_taken)
    if kind == "transposed":
        return Transposed(base, base.name)
    if kind == "swapped":
        return _swapped(base)
    raise AssertionError(f"the other process sent `{kind}`")


def _shaped(base: Tensor, shape: tuple[int, ...]) -> Tensor:
    return base if base.shape == shape else Rows(base, base.name, shape)


def _swapped(base: Tensor) -> Tensor:
    heads, a, b, *inner = base.shape
    rows = _shaped(base, (heads, a, b, prod(inner)))
    return _shaped(Swapped(rows, base.name, a, b), (heads, b, a, *inner))


def _of_one_type(parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Widen parts of several types: an adapter changes some of the experts, which are then float32."""
    if len({part.dtype for part in parts}) == 1:
        return tuple(parts)
    return tuple(part if part.dtype is StoredType.F32 else AsFloat32(part, part.name) for part in parts)
