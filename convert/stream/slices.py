"""Cut tensors into slices: the unit that one worker reads, encodes and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.checkpoint import matrix_shape
from convert.checkpoint.views import row_unit
from convert.codec import row_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gguf import GGMLQuantizationType

    from convert.checkpoint import Tensor
    from convert.plan import Task

SLICE_VALUES: Final = 1 << 20  # 2 MB of float16: large enough for the kernels, small enough for the cache


@dataclass(frozen=True, slots=True)
class Slice:
    """Whole rows of a task's tensor, as `matrix_shape` counts them."""

    task: Task
    rows: range
    n_cols: int

    @property
    def nbytes(self) -> int:
        """The bytes to read."""
        return self.nbytes_in(self.task.type)

    def nbytes_in(self, tensor_type: GGMLQuantizationType) -> int:
        """Count the bytes that the rows take in a type."""
        return row_nbytes(tensor_type, self.n_cols) * len(self.rows)


def cut(task: Task) -> Iterator[Slice]:
    """Cut a task into slices."""
    n_cols = matrix_shape(task.tensor.shape)[1]
    return (Slice(task, rows, n_cols) for rows in row_ranges(task.tensor))


def row_ranges(tensor: Tensor) -> Iterator[range]:
    """Cut a tensor's rows into runs of about SLICE_VALUES values, at multiples of its row unit."""
    n_rows, n_cols = matrix_shape(tensor.shape)
    unit = row_unit(tensor)
    step = max(SLICE_VALUES // max(n_cols * unit, 1), 1) * unit
    return (range(first, min(first + step, n_rows)) for first in range(0, n_rows, step))


def buffer_sizes(tasks: Iterable[Task]) -> tuple[int, dict[GGMLQuantizationType, int]]:
    """Return the most bytes that any slice reads, and the most that any encodes into each type."""
    read = 0
    encoded: dict[GGMLQuantizationType, int] = {}
    for task in tasks:
        first = next(cut(task))
        read = max(read, first.nbytes)
        for target in task.targets:
            encoded[target.type] = max(encoded.get(target.type, 0), first.nbytes_in(target.type))
    return read, encoded
