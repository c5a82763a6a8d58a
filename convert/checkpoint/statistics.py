"""What must be known of a whole tensor before any row can be given: measured in a first pass, then kept in the tensor.

Such things stand anywhere inside a tensor's views: DoRA's column norms, the double quantization of `--through nf4-dq`,
and the one inside the other. The inner ones are measured first, since the outer ones read rows of them.

    portions ── measure, in any order, on any thread ── gather, in order ──▶ with_statistics
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from convert.checkpoint.source_files import SourceFiles

_Value = TypeVar("_Value")


class OfWhole(ABC):
    """A part of a tensor that gives rows only with statistics of all rows: frozen, these an optional field."""

    __slots__ = ()

    @property
    @abstractmethod
    def lacks_statistics(self) -> bool:
        """Whether they are needed, and not there."""

    @abstractmethod
    def portions(self) -> Iterator[range]:
        """Cut what is to be read into what one worker measures at a time."""

    @abstractmethod
    def measure(self, files: SourceFiles, portion: range) -> NDArray[Any]:
        """Read a portion, and keep of it what the statistics are made from."""

    @abstractmethod
    def gather(self, gathered: list[NDArray[Any]], measured: NDArray[Any]) -> None:
        """Take in the next portion's: they come in the order of `portions`."""

    @abstractmethod
    def with_statistics(self, gathered: Sequence[NDArray[Any]]) -> OfWhole:
        """Return the same, its statistics known."""


def measured(tensor: _Value, files: SourceFiles) -> _Value:
    """Return a tensor that lacks no statistics: itself, or the same after a pass over what it is made of."""
    while found := lacking([tensor]):
        known = {}
        for part in found:
            gathered: list[NDArray[Any]] = []
            for portion in part.portions():
                part.gather(gathered, part.measure(files, portion))
            known[id(part)] = part.with_statistics(gathered)
        tensor = replaced(tensor, known)
    return tensor


def lacking(values: Sequence[object]) -> list[OfWhole]:
    """Find what lacks statistics anywhere inside frozen values, and has nothing inside it that does; each once."""
    found: list[OfWhole] = []
    seen: dict[int, bool] = {}

    def visit(value: object) -> bool:
        parts = _parts(value)
        if not parts:
            return False
        if id(value) not in seen:
            inside = True in [visit(part) for part in parts]  # all of them: each may be measured now
            lacks = isinstance(value, OfWhole) and value.lacks_statistics
            if isinstance(value, OfWhole) and lacks and not inside:
                found.append(value)
            seen[id(value)] = lacks or inside
        return seen[id(value)]

    for value in values:
        visit(value)
    return found


def replaced(value: _Value, by: Mapping[int, object]) -> _Value:
    """Return a frozen value with parts of it replaced, by their `id`; what was shared stays shared."""
    done: dict[int, Any] = dict(by)

    def visit(value: Any) -> Any:  # noqa: ANN401 - of whatever type it is
        if id(value) not in done and (parts := _parts(value)):
            done[id(value)] = _with_parts(value, parts, [visit(part) for part in parts])
        return done.get(id(value), value)

    changed: _Value = visit(value)
    return changed


def _parts(value: object) -> list[Any]:
    """Return the items of a tuple, the fields of a dataclass, of all else nothing."""
    if type(value) is tuple:
        return list(value)
    return [getattr(value, name) for name in _field_names(value.__class__)]  # type: ignore[arg-type]


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def _with_parts(value: Any, old: list[Any], new: list[Any]) -> Any:  # noqa: ANN401
    if all(part is before for part, before in zip(new, old, strict=True)):
        return value
    if type(value) is tuple:
        return tuple(new)
    return replace(value, **dict(zip(_field_names(value.__class__), new, strict=True)))
