"""Say what is wrong with a tensor's values: how many, the first place, the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType

from convert.checkpoint import matrix_shape
from convert.errors import WeightsError
from convert.stream.slices import SLICE_VALUES, Slice, row_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from convert.checkpoint import SourceFiles

_F16_MAX: Final = 65520.0  # the least magnitude that rounds to infinity


def describe_bad_values(piece: Slice, sources: SourceFiles, *, checks_f16: bool) -> WeightsError:
    """Scan the whole source tensor of a slice, and make the error that names it.

    checks_f16: a finite value that float16 cannot hold is wrong too.
    """
    tensor = piece.task.tensor
    assert piece.source is not None  # noqa: S101 - constants are ours, and finite
    n_nonfinite = n_overflow = 0
    first: tuple[int, float] | None = None
    for start, values in _chunks(piece, sources):
        finite = np.isfinite(values)
        overflow = finite & (np.abs(values) >= _F16_MAX) if checks_f16 else np.zeros_like(finite)
        n_nonfinite += int(np.count_nonzero(~finite))
        n_overflow += int(np.count_nonzero(overflow))
        wrong = np.flatnonzero(~finite | overflow)
        if first is None and len(wrong):
            first = start + int(wrong[0]), float(values[wrong[0]])
    assert first is not None  # noqa: S101 - the kernel has seen it
    place = np.unravel_index(first[0], _source_shape(tensor.shape, len(tensor.sources)))
    name = tensor.sources[piece.source].name
    return _error(name, n_nonfinite, n_overflow, first[1], tuple(map(int, place)))


def _error(name: str, n_nonfinite: int, n_overflow: int, value: float, place: tuple[int, ...]) -> WeightsError:
    counts = ((n_nonfinite, "NaN or infinite"), (n_overflow, "beyond float16 (65504)"))
    found = " and ".join(f"{count} values {what}" for count, what in counts if count)
    remedy = "keep the range with --types bf16, or " if n_overflow and not n_nonfinite else ""
    return WeightsError(
        f"tensor `{name}` has {found}, the first is {value:g} at {list(place)}",
        hint=f"{remedy}write the file all the same with --allow-nonfinite",
    )


def _source_shape(shape: tuple[int, ...], n_sources: int) -> tuple[int, ...]:
    return shape if n_sources == 1 else shape[1:]


def _chunks(piece: Slice, sources: SourceFiles) -> Iterator[tuple[int, NDArray[np.float32]]]:
    tensor = piece.task.tensor
    n_rows, n_cols = matrix_shape(_source_shape(tensor.shape, len(tensor.sources)))
    step = max(SLICE_VALUES // n_cols, 1)
    assert piece.source is not None  # noqa: S101
    for row in range(0, n_rows, step):
        raw = np.empty((min(step, n_rows - row), row_nbytes(tensor.type, n_cols)), np.uint8)
        tensor.sources[piece.source].read_rows(sources, row, raw)
        yield row * n_cols, _as_float32(raw.reshape(-1), tensor.type)


def _as_float32(raw: NDArray[np.uint8], tensor_type: GGMLQuantizationType) -> NDArray[np.float32]:
    if tensor_type is GGMLQuantizationType.BF16:
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    dtype = "<f2" if tensor_type is GGMLQuantizationType.F16 else "<f4"
    return raw.view(dtype).astype(np.float32)
