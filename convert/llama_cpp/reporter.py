"""What the long jobs tell while they work; the face decides how it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convert.errors import Remedy


class Reporter(Protocol):
    """Listens to a fetch or a build."""

    def say(self, text: str, remedies: Sequence[Remedy] = ()) -> None:
        """Take a line that a person should keep: a decision, a step begun; and what would change a decision."""

    def advance(self, what: str, done: float, total: float) -> None:
        """Take the state of the running step; `total` is 0 where nobody knows it."""


class Silent:
    """Listens to nothing."""

    def say(self, text: str, remedies: Sequence[Remedy] = ()) -> None:
        """Drop the line."""

    def advance(self, what: str, done: float, total: float) -> None:
        """Drop the state."""
