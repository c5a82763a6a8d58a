"""Cut a plan's tasks into slices: the unit that one worker reads, encodes and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from convert.checkpoint import matrix_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from convert.plan import Task

SLICE_VALUES: Final = 1 << 20  # 2 MB of float16: large enough for the kernels, small enough for the cache


@dataclass(frozen=True, slots=True)
class Slice:
    """Whole rows of one source of a task.

    source: its index; None for a constant. source_row: first row within that source. output_row: first
    row within the output tensor. n_rows, n_cols: how much.
    """

    task: Task
    source: int | None
    source_row: int
    output_row: int
    n_rows: int
    n_cols: int

    @property
    def nbytes(self) -> int:
        """The bytes to read."""
        return row_nbytes(self.task.tensor.type, self.n_cols) * self.n_rows


def row_nbytes(tensor_type: GGMLQuantizationType, n_cols: int) -> int:
    """Count the bytes of one row."""
    block_size, type_size = GGML_QUANT_SIZES[tensor_type]
    nbytes: int = n_cols // block_size * type_size
    return nbytes


def cut(task: Task) -> Iterator[Slice]:
    """Cut a task into slices of about SLICE_VALUES values, of whole row groups."""
    tensor = task.tensor
    n_rows, n_cols = matrix_shape(tensor.shape)
    if tensor.data is not None:
        yield Slice(task, None, 0, 0, n_rows, n_cols)
        return
    group = tensor.transform.group_rows
    step = max(SLICE_VALUES // max(n_cols * group, 1), 1) * group
    rows_per_source = n_rows // len(tensor.sources)
    for index in range(len(tensor.sources)):
        for row in range(0, rows_per_source, step):
            taken = min(step, rows_per_source - row)
            yield Slice(task, index, row, index * rows_per_source + row, taken, n_cols)


def buffer_sizes(tasks: Iterable[Task]) -> tuple[int, dict[GGMLQuantizationType, int]]:
    """Return the most bytes that any slice reads, and the most that any encodes into each type."""
    read = 0
    encoded: dict[GGMLQuantizationType, int] = {}
    for task in tasks:
        first = next(cut(task))
        read = max(read, first.nbytes)
        for target in task.targets:
            nbytes = row_nbytes(target.type, first.n_cols) * first.n_rows
            encoded[target.type] = max(encoded.get(target.type, 0), nbytes)
    return read, encoded
