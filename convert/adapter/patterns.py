"""Regular expressions from an adapter's config, which may be hostile: refused where matching could take unbounded time.

Python's `re` tries every way to divide a name among the repetitions in a pattern. Without repetitions of repetitions or
of alternatives, n repetitions side by side take at most length ** n steps; both are bounded here, and so is the time
for all names.
"""

from __future__ import annotations

import re
import time
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_PATTERN_CHARS: Final = 4096
MAX_NAME_CHARS: Final = 128
MAX_REPETITIONS: Final = 4  # unsloth's own patterns have as many side by side
MAX_SECONDS: Final = 60.0  # for all names and patterns of an adapter; a thousand of each take one
MAX_OPTIONS: Final = 12  # each doubles the ways

# One element of a pattern: an escape, a class, a group's beginning, or a single character.
_ELEMENT: Final = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:P?<\w*>|P?=|P?!|<[=!]|[a-zA-Z-]*:|[a-zA-Z-]*))?|.", re.DOTALL
)
_REPETITION: Final = re.compile(r"[*+]|\{\d*,?\d*\}")


@contextmanager
def bounded_time(seconds: float = MAX_SECONDS) -> Iterator[None]:
    """Let matching end in an error when all of it, within this context, takes longer. One match is bounded anyhow."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


_deadline: Final[ContextVar[float | None]] = ContextVar("_deadline", default=None)


def full_match(pattern: str, name: str, *, where: str) -> bool:
    """Whether the whole name matches. where: what the pattern is called in errors."""
    return _compiled(pattern, where).fullmatch(_bounded(name, where)) is not None


def match_group(pattern: str, name: str, group: str, *, where: str, around: tuple[str, str]) -> str | None:
    """Return what a group matched at the name's beginning. around: fixed patterns put before and after."""
    found = _compiled(pattern, where, around).match(_bounded(name, where))
    return found[group] if found is not None else None


def pattern_for(patterns: Iterable[str], name: str, *, where: str) -> str | None:
    """Return the first pattern that matches a name from a dot, or from its beginning, to its end.

    Source: peft 0.21.2, utils/other.py, get_pattern_key.
    """
    around = (r"(.*\.)?(", r")$")
    return next((key for key in patterns if _compiled(key, where, around).match(_bounded(name, where))), None)


def _bounded(name: str, where: str) -> str:
    deadline = _deadline.get()
    if deadline is not None and time.monotonic() > deadline:
        raise CheckpointError(f"{where}: matching its patterns takes too long, the last name was {shown(name)}")
    if len(name) > MAX_NAME_CHARS:
        raise CheckpointError(
            f"the name {shown(name)} has {len(name)} characters, at most {MAX_NAME_CHARS} are matched"
        )
    return name


@lru_cache(maxsize=1 << 14)
def _compiled(pattern: str, where: str, around: tuple[str, str] = ("", "")) -> re.Pattern[str]:
    if len(pattern) > MAX_PATTERN_CHARS:
        raise CheckpointError(f"{where} has a pattern of {len(pattern)} characters, at most {MAX_PATTERN_CHARS}")
    if fault := _Cost(pattern).fault():
        raise CheckpointError(f"{where} has the pattern {shown(pattern)}, {fault}: matching it could take for ever")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python will one day read otherwise, peft reads the same way
            re.compile(pattern)  # alone, so that a parenthesis in it cannot close ours
            return re.compile(around[0] + pattern + around[1])
    except (re.error, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{where} has the pattern {shown(pattern)}, which is not one: {error}") from None


class _Group:
    """What stands between two parentheses, as far as it has been read."""

    def __init__(self) -> None:
        self.repeats = 0  # side by side in this alternative
        self.most_repeats = 0
        self.has_choice = False

    def end_alternative(self) -> None:
        self.most_repeats = max(self.most_repeats, self.repeats)
        self.repeats = 0


class _Cost:
    """Counts a pattern's repetitions without running it."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._stack = [_Group()]
        self._n_options = 0

    def fault(self) -> str | None:
        """Say why matching could take too long; None if it cannot."""
        position, closed = 0, None
        while position < len(self._pattern):
            if (repetition := _REPETITION.match(self._pattern, position)) and repetition.group() != "{}":
                if closed is not None and (closed.most_repeats or closed.has_choice):
                    return "which repeats what itself repeats or chooses"
                self._stack[-1].repeats += 1
                position, closed = self._after_mode(repetition.end()), None
                continue
            element = _ELEMENT.match(self._pattern, position)
            assert element is not None  # noqa: S101 - its last alternative takes any character
            closed = self._take(element.group())
            position = element.end()
        while len(self._stack) > 1:
            self._close()
        self._stack[0].end_alternative()
        if self._stack[0].most_repeats > MAX_REPETITIONS:
            return f"with {self._stack[0].most_repeats} repetitions side by side, at most {MAX_REPETITIONS} are read"
        return f"with {self._n_options} optional parts" if self._n_options > MAX_OPTIONS else None

    def _after_mode(self, position: int) -> int:
        """Step over the `?` or `+` that makes a repetition lazy or possessive."""
        return position + (self._pattern[position : position + 1] in ("?", "+"))

    def _take(self, element: str) -> _Group | None:
        if element.startswith("(") and len(self._stack) < MAX_PATTERN_CHARS:
            self._stack.append(_Group())
        elif element == ")" and len(self._stack) > 1:
            return self._close()
        elif element == "|":
            self._stack[-1].end_alternative()
            self._stack[-1].has_choice = True
        elif element == "?":
            self._n_options += 1
            self._stack[-1].has_choice = True
        return None

    def _close(self) -> _Group:
        group = self._stack.pop()
        group.end_alternative()
        self._stack[-1].repeats += group.most_repeats
        self._stack[-1].has_choice |= group.has_choice
        return group
