"""Say what is wrong with a tensor's values: how many, the first place, the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint import matrix_shape
from convert.checkpoint.views import leaves
from convert.codec import F16_OVERFLOW
from convert.errors import Remedy, WeightsError
from convert.model import float_values
from convert.stream.slices import row_ranges

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

    from convert.checkpoint import SourceFiles, Tensor


def describe_refusal(tensor: Tensor, refusing: GGMLQuantizationType, rows: range) -> WeightsError:
    """Make the error for weights or importance so extreme that llama.cpp's own encoder aborts on them."""
    return WeightsError(
        f"tensor `{tensor.name}` has weights in rows {rows.start} to {rows.stop - 1} that {refusing.name} cannot hold: "
        "they, or their importance, are too large"
    )


@dataclass(slots=True)
class _Found:
    """What is wrong in one tensor. first: the first place, counted over all values, and the value there."""

    n_nonfinite: int = 0
    n_overflow: int = 0
    first: tuple[int, float] | None = None


def describe_bad_values(tensor: Tensor, sources: SourceFiles, *, checks_f16: bool) -> WeightsError:
    """Scan the checkpoint's tensors that a task's is made of, and make the error that names the first bad one.

    checks_f16: a finite value that float16 cannot hold is wrong too.
    """
    for source in (*leaves(tensor), tensor):  # itself last: a sum may overflow where its terms do not
        found = _scan(source, sources, checks_f16=checks_f16)
        if found.first is not None:
            place = np.unravel_index(found.first[0], source.shape)
            return _error(source.name, found.n_nonfinite, found.n_overflow, found.first[1], tuple(map(int, place)))
    raise AssertionError(f"the kernel has seen bad values in `{tensor.name}`, and a second look none")


def _scan(tensor: Tensor, sources: SourceFiles, *, checks_f16: bool) -> _Found:
    found = _Found()
    n_cols = matrix_shape(tensor.shape)[1]
    for rows in row_ranges(tensor):
        values = float_values(tensor, sources, rows).reshape(-1)
        finite = np.isfinite(values)
        overflow = finite & (np.abs(values) >= F16_OVERFLOW) if checks_f16 else np.zeros_like(finite)
        found.n_nonfinite += int(np.count_nonzero(~finite))
        found.n_overflow += int(np.count_nonzero(overflow))
        wrong = np.flatnonzero(~finite | overflow)
        if found.first is None and len(wrong):
            found.first = rows.start * n_cols + int(wrong[0]), float(values[wrong[0]])
    return found


def _error(name: str, n_nonfinite: int, n_overflow: int, value: float, place: tuple[int, ...]) -> WeightsError:
    counts = ((n_nonfinite, "NaN or infinite"), (n_overflow, "beyond float16 (65504)"))
    found = " and ".join(f"{count} values {what}" for count, what in counts if count)
    wider = (Remedy.WIDER_FLOAT,) if n_overflow and not n_nonfinite else ()
    return WeightsError(
        f"tensor `{name}` has {found}, the first is {value:g} at {list(place)}",
        remedies=(*wider, Remedy.ALLOW_NONFINITE),
    )
