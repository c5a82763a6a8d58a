"""What `--merge` asks for: an adapter's directory, and how much of its change is wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from convert.errors import UsageError
from convert.shown import shown


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """An adapter to merge. weight: what its low-rank changes are multiplied by; 1 is the adapter as it was trained."""

    path: Path
    weight: float = 1.0

    @property
    def directory(self) -> Path:
        """The adapter's directory, also where a weight file in it is named."""
        return self.path.parent if self.path.is_file() else self.path


def parse_merge(text: str) -> MergeRequest:
    """Read `ADAPTER` or `ADAPTER:WEIGHT`.

    What follows the last colon is a weight if it is a number, and if no directory has the whole text as its name.
    Raises UsageError for a weight that is NaN or infinite, or beyond float32.
    """
    path, colon, number = text.rpartition(":")
    weight = _number(number) if colon and path and not Path(text).exists() else None
    if weight is None:
        return MergeRequest(Path(text))
    if not math.isfinite(weight) or abs(weight) > _MAX_WEIGHT:
        raise UsageError(f"the weight {shown(number)} of the adapter {shown(path)} is not a finite number")
    return MergeRequest(Path(path), weight)


_MAX_WEIGHT = 1e30


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
