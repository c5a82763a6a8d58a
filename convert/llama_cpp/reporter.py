"""What the long jobs tell while they work; the face decides how it looks."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Listens to a fetch or a build."""

    def say(self, text: str) -> None:
        """Take a line that a person should keep: a decision, a command line, a step begun."""

    def advance(self, what: str, done: float, total: float) -> None:
        """Take the state of the running step; `total` is 0 where nobody knows it."""


class Silent:
    """Listens to nothing."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def advance(self, what: str, done: float, total: float) -> None:
        """Drop the state."""
