"""What a quantization section says, key by key, each of the type it should have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convert.errors import ConfigError


def read_integer(options: Mapping[str, Any], *keys: str, where: str) -> int | None:
    """Return the first of these keys that is there; None if none is. ConfigError if it is not an integer."""
    key, value = _first(options, keys)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"`{key}` of {where} is {value!r:.60}, wanted an integer")
    return value


def read_name(options: Mapping[str, Any], *keys: str, where: str) -> str | None:
    """Return the first of these keys that is there, lower case; None if none is. ConfigError if it is not a string."""
    key, value = _first(options, keys)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"`{key}` of {where} is {value!r:.60}, wanted a name")
    return value.lower()


def read_flag(options: Mapping[str, Any], key: str, *, where: str) -> bool:
    """Return a flag, False if it is not there. ConfigError if it is neither true nor false."""
    value = options.get(key)
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"`{key}` of {where} is {value!r:.60}, wanted true or false")
    return bool(value)


def read_section(options: Mapping[str, Any], key: str, *, where: str) -> Mapping[str, Any]:
    """Return a section, empty if it is not there. ConfigError if it is not an object."""
    value = options.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"`{key}` of {where} is {value!r:.60}, wanted an object")
    return value


def _first(options: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, object]:
    return next(((key, options[key]) for key in keys if options.get(key) is not None), (keys[0], None))
