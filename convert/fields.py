"""Typed access to a JSON object from a stranger: the one way in which config.json and its like are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from convert.errors import CheckpointError, ConfigError
from convert.shown import shown

MAX_SIZE: Final = 1 << 31  # far beyond every published model; keeps a hostile config from asking for unbounded work
_FLOAT32_END: Final = 3.4e38  # just below FLT_MAX

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object; an error names the key and `where` it stands.

    Of several keys the first present one counts, null included; null reads as absent.
    error: what is raised for a value of another type, or an absurd one.
    asked: every key that was looked for, so that it can be told which were not.
    """

    values: Mapping[str, Any] = field(repr=False)
    where: str
    error: type[CheckpointError] = field(default=ConfigError, repr=False, kw_only=True)
    asked: set[str] = field(default_factory=set, repr=False, compare=False, kw_only=True)

    def get(self, *keys: str) -> Any:  # noqa: ANN401 - JSON
        """Give the value of the first present key as it stands, None where none is (the reference's find_hparam)."""
        self.asked.update(keys)
        return next((self.values[key] for key in keys if key in self.values), None)

    def has(self, *keys: str) -> bool:
        """Whether one of the keys is there, null or not."""
        self.asked.update(keys)
        return any(key in self.values for key in keys)

    def key(self, *keys: str) -> str:
        """Give the first present key, or the first of all: the one to name in an error."""
        return next((key for key in keys if key in self.values), keys[0])

    def size(self, *keys: str, limit: int = MAX_SIZE) -> int:
        """Give a whole number from 1 to `limit` - 1; an error where it is absent or null."""
        value = self.optional_size(*keys, limit=limit)
        if value is None:
            raise self.error(f"{self.where} lacks `{self.key(*keys)}`")
        return value

    def optional_size(self, *keys: str, limit: int = MAX_SIZE) -> int | None:
        """Give a whole number from 1 to `limit` - 1, None where it is absent or null."""
        return self._whole(keys, 1, limit)

    def optional_count(self, *keys: str, limit: int = MAX_SIZE) -> int | None:
        """Give a whole number from 0 to `limit` - 1, None where it is absent or null."""
        return self._whole(keys, 0, limit)

    def integer(self, *keys: str) -> int | None:
        """Give any whole number, None where it is absent or null."""
        value = self.get(*keys)
        if value is not None and type(value) is not int:
            raise self.wrong(keys, "an integer")
        return value

    def _whole(self, keys: tuple[str, ...], least: int, limit: int) -> int | None:
        value = self.get(*keys)
        if value is None:
            return None
        if type(value) is not int or not least <= value < limit:
            raise self.wrong(keys, f"a whole number from {least} to {limit - 1}")
        return value

    def number(self, *keys: str) -> float | None:
        """Give a number that float32 can hold, an int where it is written as one."""
        value = self.get(*keys)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _FLOAT32_END:
            raise self.wrong(keys, "a finite number")
        return value

    def flag(self, *keys: str) -> bool:
        """Give true or false, false where it is absent or null."""
        return bool(self.optional_flag(*keys))

    def optional_flag(self, *keys: str) -> bool | None:
        """Give true or false, None where it is absent or null."""
        return self._typed(bool, keys, "true or false")

    def text(self, *keys: str) -> str | None:
        """Give a string."""
        return self._typed(str, keys, "a string")

    def name(self, *keys: str) -> str | None:
        """Give a word that stands for one of a few, lower case."""
        value = self._typed(str, keys, "a name")
        return None if value is None else value.lower()

    def texts(self, *keys: str) -> list[str] | None:
        """Give a list of strings."""
        value = self._typed(list, keys, "a list of strings")
        if value is not None and not all(isinstance(item, str) for item in value):
            raise self.wrong(keys, "a list of strings")
        return value

    def mapping(self, *keys: str) -> Mapping[str, Any]:
        """Give an object, an empty one where it is absent or null."""
        value = self.get(*keys)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(keys, "an object")
        return value or {}

    def inner(self, key: str) -> Fields:
        """Give an object's own fields; none where it is absent or null."""
        return Fields(self.mapping(key), f"{shown(key)} in {self.where}", error=self.error)

    def wrong(self, keys: tuple[str, ...], wanted: str) -> CheckpointError:
        """Make the error that says what stands under the first present key, and what was wanted there."""
        return self.error(f"{shown(self.key(*keys))} in {self.where} is {self.get(*keys)!r:.60}, wanted {wanted}")

    def _typed(self, kind: type[_T], keys: tuple[str, ...], wanted: str) -> _T | None:
        value = self.get(*keys)
        if value is not None and not isinstance(value, kind):
            raise self.wrong(keys, wanted)
        return value
