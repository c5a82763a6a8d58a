"""What must be known of a whole weight before any of its rows can be given: read once, in a pass of its own.

Double quantization needs the mean of all scales, DoRA of an embedding the length of each column. A tensor that needs
such a thing has `with_statistics(files)`, which gives the same tensor with it; until then it would read the whole
weight for every slice.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from convert.checkpoint.source_files import SourceFiles

T = TypeVar("T")


def completed(part: T, files: SourceFiles) -> T:
    """Return a tensor, or what one is made of, with all statistics in it; itself, where it needs none."""
    if isinstance(part, tuple):
        items = tuple(completed(item, files) for item in part)
        return part if all(map(_is_same, items, part)) else items  # type: ignore[return-value]
    if not is_dataclass(part) or isinstance(part, type):
        return part
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if (new := completed(value, files)) is not value:
            changed[name] = new
    whole: Any = replace(part, **changed) if changed else part
    return whole.with_statistics(files) if hasattr(whole, "with_statistics") else whole  # type: ignore[no-any-return]


def _is_same(one: object, other: object) -> bool:
    return one is other
