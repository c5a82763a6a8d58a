"""What a recipe may say: for each command the options it has, of which type. Whoever has the commands gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What an option's value is in TOML."""

    FLAG = "true or false"
    INTEGER = "a whole number"
    NUMBER = "a number"
    TEXT = "a string"
    PLACE = "a path, as a string"


@dataclass(frozen=True, slots=True)
class Key:
    """One option. many: a list of such values is taken. required: the command does nothing without.

    choices: all values there are, where those are few. least: of a number. default: where nothing is said.
    """

    kind: Kind
    many: bool = False
    required: bool = False
    choices: tuple[str, ...] = ()
    least: int | None = None
    default: object = None


Schema = Mapping[str, Mapping[str, Key]]  # by command, by option
