"""Lists of modules in a quantization section: those that were left as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convert.errors import CheckpointError, ConfigError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def read_names(options: Mapping[str, Any], *keys: str, where: str) -> frozenset[str]:
    """Return all names that these keys list; none for a key that is not there, or null.

    Raises ConfigError if a value is not a list of strings.
    """
    names: set[str] = set()
    for key in keys:
        value = options.get(key)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"`{key}` of {where} is {value!r:.60}, wanted a list of names")
        names.update(value)
    return frozenset(names)


def refuse_left_out(left_out: Collection[str], module: str, packed: str, where: str) -> None:
    """Raise CheckpointError if a module that was left as it is, by its full name, is packed all the same.

    Patterns are not run: a regular expression of a stranger's may take for ever, and what is packed, the tensors say.
    """
    if module in left_out:
        raise CheckpointError(f"{where} says that {shown(module)} is not quantized, but {shown(packed)} is")
