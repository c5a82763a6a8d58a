"""One worker's hands: read a slice, encode it for every target, write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from convert.checkpoint import matrix_shape
from convert.codec import FLOAT_TYPES, Importance, encode_rows, encode_rows_allowing_nonfinite
from convert.stream.bad_values import describe_bad_values, describe_refusal
from convert.stream.slices import Slice, buffer_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gguf import GGMLQuantizationType
    from numpy.typing import NDArray

    from convert.checkpoint import SourceFiles
    from convert.importance import ImportanceEntry
    from convert.plan import Target, Task
    from convert.stream.publish import ExistingFile, PartialFile


class _How(TypedDict):
    """What is said to the codec room of every target of a slice."""

    n_cols: int
    through_f16: bool
    importance: Importance | None
    first_row: int


class SliceEncoder:
    """Buffers for one worker, made once, and what it does with a slice."""

    def __init__(self, tasks: Sequence[Task], sources: SourceFiles, *, allow_nonfinite: bool) -> None:
        nbytes, encoded = buffer_sizes(tasks)
        self._sources = sources
        self._allow_nonfinite = allow_nonfinite
        self._read = np.empty(nbytes, np.uint8)
        self._encoded: Mapping[GGMLQuantizationType, NDArray[np.uint8]] = {
            tensor_type: np.empty(size, np.uint8) for tensor_type, size in encoded.items()
        }

    def carry(self, piece: Slice, files: Mapping[int, PartialFile | ExistingFile]) -> int:
        """Carry one slice from its source to every output; returns the bytes written."""
        rows = self._load(piece)
        tensor_type = piece.task.type
        to_encode = [target for target in piece.task.targets if target.type is not tensor_type]
        outs = [self._encoded[target.type][: piece.nbytes_in(target.type)] for target in to_encode]
        if tensor_type in FLOAT_TYPES:
            self._encode(piece, rows, list(zip((target.type for target in to_encode), outs, strict=True)))
        written = sum(_write(piece, target, out, files) for target, out in zip(to_encode, outs, strict=True))
        as_it_is = [target for target in piece.task.targets if target.type is tensor_type]
        return written + sum(_write(piece, target, rows, files) for target in as_it_is)

    def _load(self, piece: Slice) -> NDArray[np.uint8]:
        read = self._read[: piece.nbytes]
        piece.task.tensor.read_rows(self._sources, piece.rows.start, read.reshape(len(piece.rows), -1))
        return read

    def _encode(
        self, piece: Slice, rows: NDArray[np.uint8], targets: list[tuple[GGMLQuantizationType, NDArray[np.uint8]]]
    ) -> None:
        through_f16 = piece.task.through is not None and any(kind not in FLOAT_TYPES for kind, _ in targets)
        tensor_type = piece.task.type
        how: _How = {
            "n_cols": piece.n_cols,
            "through_f16": through_f16,
            "importance": None,
            "first_row": 0,
        }
        if piece.task.importance is not None:
            how["importance"], how["first_row"] = _importance(piece, piece.task.importance, self._sources)
        bad = encode_rows(rows, tensor_type, targets=targets, **how)
        if not bad:
            return
        if bad.n_refused and not (bad.n_nonfinite or bad.n_overflow):
            refused = (kind for kind, out in targets if encode_rows(rows, tensor_type, targets=[(kind, out)], **how))
            raise describe_refusal(piece.task.tensor, next(refused), piece.rows)
        if not self._allow_nonfinite:
            checks_f16 = through_f16 or any(target.type.name == "F16" for target in piece.task.targets)
            raise describe_bad_values(piece.task.tensor, self._sources, checks_f16=checks_f16)
        encode_rows_allowing_nonfinite(rows, tensor_type, targets=targets, **how)


def _importance(piece: Slice, entry: ImportanceEntry, files: SourceFiles) -> tuple[Importance, int]:
    """Read the importance of the experts that a slice is of, and say where in the first one's rows it begins."""
    n_experts = entry.n_values // piece.n_cols
    rows_each = matrix_shape(piece.task.tensor.shape)[0] // n_experts
    first, last = piece.rows.start // rows_each, (piece.rows.stop - 1) // rows_each
    values = entry.read(files, first * piece.n_cols, (last - first + 1) * piece.n_cols)
    return Importance(values.reshape(-1, piece.n_cols), rows_each), piece.rows.start - first * rows_each


def _write(
    piece: Slice, target: Target, data: NDArray[np.uint8], files: Mapping[int, PartialFile | ExistingFile]
) -> int:
    start = len(data) // len(piece.rows) * piece.rows.start
    written = 0
    for output, offset in target.places:
        files[output].write(data.data, offset + start)
        written += len(data)
    return written
