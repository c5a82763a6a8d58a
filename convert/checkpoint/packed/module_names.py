"""Lists of modules in a quantization section: those that were left as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from convert.fields import Fields


def read_names(fields: Fields, *keys: str) -> frozenset[str]:
    """Return all names that these keys list; none for a key that is not there, or null."""
    return frozenset(name for key in keys for name in fields.texts(key) or ())


def refuse_left_out(left_out: Collection[str], module: str, packed: str, where: str) -> None:
    """Raise CheckpointError if a module that was left as it is, by its full name, is packed all the same.

    Patterns are not run: a regular expression of a stranger's may take for ever, and what is packed, the tensors say.
    """
    if module in left_out:
        raise CheckpointError(f"{where} says that {shown(module)} is not quantized, but {shown(packed)} is")
