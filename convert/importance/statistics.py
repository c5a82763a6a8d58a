"""What an importance matrix says of a tensor, in a few numbers.

They are llama-imatrix --show-statistics's, and how many experts were seen.
Source: tools/imatrix/imatrix.cpp, compute_statistics @ 0c1e570.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint import SourceFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from convert.importance.data import ImportanceEntry

_INACTIVE: Final = 1e-5
_STEP: Final = 1 << 18  # values read at a time


@dataclass(frozen=True, slots=True)
class ImportanceStatistics:
    """One tensor's importance: over the columns of all experts that were seen.

    count: how often it was used, at most by any expert. total, mean, lowest, highest, deviation: of the mean squares.
    active: the share of columns that anything flows into.
    """

    name: str
    n_values: int
    count: int
    n_experts: int
    n_unseen: int
    total: float
    mean: float
    lowest: float
    highest: float
    deviation: float
    active: float


def statistics_of(entry: ImportanceEntry) -> ImportanceStatistics:
    """Measure an entry; reads its numbers once, a portion at a time."""
    n, total, squares, n_active, lowest, highest = 0, 0.0, 0.0, 0, math.inf, -math.inf
    for values in _seen(entry):
        n += len(values)
        total += float(values.sum())
        squares += float((values * values).sum())
        n_active += int(np.count_nonzero(np.abs(values) > _INACTIVE))
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    mean = total / n if n else 0.0
    deviation = math.sqrt(max(squares / n - mean * mean, 0.0)) if n else 0.0
    count, n_experts = max(entry.counts), 1 if entry.is_legacy else len(entry.counts)
    span = (lowest, highest) if n else (0.0, 0.0)
    return ImportanceStatistics(
        entry.name,
        entry.n_values,
        count,
        n_experts,
        len(entry.unseen),
        total,
        mean,
        *span,
        deviation,
        n_active / max(n, 1),
    )


def _seen(entry: ImportanceEntry) -> Iterator[NDArray[np.float64]]:
    n_each = entry.n_values // len(entry.counts)
    with closing(SourceFiles()) as files:
        for expert in sorted(set(range(len(entry.counts))) - set(entry.unseen)):
            for first in range(0, n_each, _STEP):
                values = entry.read(files, expert * n_each + first, min(_STEP, n_each - first))
                yield values.astype(np.float64)
