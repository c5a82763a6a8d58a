"""Views read from right to left: of tensors that were made of one by views, that one.

    undone(stored, [(view of stored, made), …])        view: as the rule makes it of a tensor that has no values

Each view knows its reverse: what it moved goes back, what was cut is woven together again. Numbers are exact, but for
those that a sum rounded away when it was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from convert.checkpoint.columns import Columns, SwappedColumns
from convert.checkpoint.decay import Decay, speed_of
from convert.checkpoint.source import StoredType, matrix_shape
from convert.checkpoint.views import (
    AsFloat32,
    Blocks,
    Concatenated,
    OfOne,
    Rows,
    Shifted,
    Swapped,
    Transposed,
)
from convert.checkpoint.woven import WovenColumns, woven_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convert.checkpoint.source import Shape, Tensor
    from convert.checkpoint.source_files import SourceFiles, U8Array


@dataclass(frozen=True, slots=True)
class Outline:
    """A tensor without values: what a rule is applied to, to see what it does."""

    name: str
    shape: Shape
    dtype: StoredType = StoredType.F32
    nbytes: int = 0

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        raise AssertionError((self.name, files, first, out))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Of each `period` rows, or columns, those from `first` on."""

    made: Tensor
    period: int
    first: int
    count: int
    of_columns: bool = False


def undone(stored: Tensor, made: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Give the tensor of which the views were made.

    made: pairs of a view of `stored` and the tensor that has its values, both of floats.
    """
    pieces = [piece for view, tensor in made for piece in _pieces(stored, view, tensor)]
    if all(piece.count == piece.period for piece in pieces):  # one, or the same twice: tied matrices
        tensor = pieces[0].made
        return tensor if (tensor.name, tensor.shape) == (stored.name, stored.shape) else _named(tensor, stored)
    pieces.sort(key=lambda piece: piece.first)
    period = pieces[0].period
    assert all(piece.period == period for piece in pieces)  # noqa: S101 - cut by one rule
    assert sum(piece.count for piece in pieces) == period  # noqa: S101
    parts, counts = _of_one_type([piece.made for piece in pieces]), tuple(piece.count for piece in pieces)
    if pieces[0].of_columns:
        return WovenColumns(stored.name, stored.shape, parts, counts)
    return woven_rows(stored.name, stored.shape, parts, counts)


def _pieces(stored: Tensor, view: Tensor, made: Tensor) -> Iterator[_Piece]:
    """Yield what of the stored tensor the view's values are."""
    if view is stored:
        yield _Piece(made, 1, 0, 1)
    elif isinstance(view, Concatenated):
        first = 0
        for part in view.parts:
            yield from _of_part(stored, part, Rows(made, made.name, part.shape, first))
            first += part.shape[0]
    elif isinstance(view, (Blocks, Columns)):
        assert view.base is stored  # noqa: S101 - whatever else is done to it comes after
        yield _Piece(made, view.period, view.first, view.n_taken, isinstance(view, Columns))
    else:
        assert isinstance(view, OfOne)  # noqa: S101 - the one vocabulary
        yield from _pieces(stored, view.base, _before(view, made))


def _of_part(stored: Tensor, view: Tensor, made: Tensor) -> Iterator[_Piece]:
    """Yield what a part's values are of the tensor: of some of its rows alone, or of all."""
    rows = _slice_under(stored, view)
    if rows is None:
        yield from _pieces(stored, view, made)
    else:
        n_rows = matrix_shape(rows.shape)[0]
        yield _Piece(undone(rows, [(view, made)]), matrix_shape(rows.base.shape)[0], rows.first_row, n_rows)


def _slice_under(stored: Tensor, view: Tensor) -> Rows | None:
    """Find the slice of the stored tensor that a view is of."""
    if isinstance(view, Concatenated):
        return _slice_under(stored, view.parts[0])
    if isinstance(view, Rows) and prod(view.shape) < prod(view.base.shape) == prod(stored.shape):
        return view
    return _slice_under(stored, view.base) if isinstance(view, OfOne) else None


def _before(view: OfOne, made: Tensor) -> Tensor:
    """Give what a view that only moves or changes numbers was made of."""
    name = view.base.name
    match view:
        case Swapped(a=a, b=b, inner=inner):
            before: Tensor = Swapped(made, name, b, a, inner)
        case Shifted(by=by):
            before = Shifted(AsFloat32(made, name), name, -by)
        case SwappedColumns(a=a, b=b, inner=inner):
            before = SwappedColumns(made, name, b, a, inner)
        case Decay():
            before = speed_of(made, name)
        case Transposed():
            before = Transposed(made, name)
        case AsFloat32():
            before = made
        case Rows(first_row=0):
            whole = view.base.shape if prod(view.base.shape) == prod(made.shape) else made.shape
            before = Rows(made, name, whole)
        case _:
            raise AssertionError(view)
    return before


def _of_one_type(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    if len({tensor.dtype for tensor in tensors}) == 1:
        return tuple(tensors)
    return tuple(tensor if tensor.dtype is StoredType.F32 else AsFloat32(tensor, tensor.name) for tensor in tensors)


def _named(tensor: Tensor, stored: Tensor) -> Tensor:
    return Rows(tensor, stored.name, stored.shape)
