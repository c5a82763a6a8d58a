"""One worker's hands: read a slice, move its rows, encode it for every target, write it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.codec import FLOAT_TYPES, encode_rows, encode_rows_allowing_nonfinite
from convert.errors import CheckpointError
from convert.stream.bad_values import describe_bad_values
from convert.stream.slices import Slice, buffer_sizes, row_nbytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gguf import GGMLQuantizationType
    from numpy.typing import NDArray

    from convert.plan import ByteRange, Target, Task
    from convert.stream.publish import ExistingFile, PartialFile


MAX_OPEN_FILES: Final = 16


class _OpenFile:
    """A descriptor that is closed when nobody reads from it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class SourceFiles:
    """The checkpoint's files, opened when first read, at most `MAX_OPEN_FILES` at a time, read from any thread."""

    def __init__(self) -> None:
        self._files: Final[dict[Path, _OpenFile]] = {}
        self._lock = threading.Lock()

    def read_into(self, source: ByteRange, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` from a place in a tensor; CheckpointError if the file has become shorter."""
        view = out.data
        position = source.offset + offset
        file = self._open(source.path)
        while view:
            count = os.preadv(file.fd, [view], position)
            if count == 0:
                raise CheckpointError(f"`{source.path}` ended while `{source.name}` was read; did it change?")
            view, position = view[count:], position + count

    def _open(self, path: Path) -> _OpenFile:
        with self._lock:
            file = self._files.pop(path, None)
            if file is None:
                try:
                    file = _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                except OSError as error:
                    raise CheckpointError(f"`{path}` cannot be read: {error.strerror}") from error
            self._files[path] = file
            if len(self._files) > MAX_OPEN_FILES:
                # The one used longest ago; it closes when no thread reads from it any more.
                del self._files[next(iter(self._files))]
            return file

    def close(self) -> None:
        """Let go of them all."""
        self._files.clear()


def read_columns(source: ByteRange, first: int, out: NDArray[np.uint8]) -> None:
    """Read rows of a matrix that lies transposed in its file: there they are columns.

    out: uint8 (n_rows, n_cols, itemsize). Maps the tensor for this one read; such checkpoints are rare.
    """
    n_rows, n_cols, itemsize = out.shape
    shape = (n_cols, source.nbytes // (n_cols * itemsize), itemsize)
    stored = np.memmap(source.path, np.uint8, "r", source.offset, shape)
    np.copyto(out, stored[:, first : first + n_rows].swapaxes(0, 1))


class SliceEncoder:
    """Buffers for one worker, made once, and what it does with a slice.

    through_f16: quantized targets are made from the values rounded to float16.
    """

    def __init__(
        self, tasks: Sequence[Task], sources: SourceFiles, *, through_f16: bool, allow_nonfinite: bool
    ) -> None:
        nbytes, encoded = buffer_sizes(tasks)
        self._sources = sources
        self._through_f16 = through_f16
        self._allow_nonfinite = allow_nonfinite
        self._read = np.empty(nbytes, np.uint8)
        self._moved = np.empty(nbytes, np.uint8)
        self._encoded: Mapping[GGMLQuantizationType, NDArray[np.uint8]] = {
            tensor_type: np.empty(size, np.uint8) for tensor_type, size in encoded.items()
        }

    def carry(self, piece: Slice, files: Mapping[int, PartialFile | ExistingFile]) -> int:
        """Carry one slice from its source to every output; returns the bytes written."""
        rows = self._load(piece)
        tensor_type = piece.task.tensor.type
        to_encode = [target for target in piece.task.targets if target.type is not tensor_type]
        outs = [self._encoded[target.type][: _nbytes(piece, target)] for target in to_encode]
        if tensor_type in FLOAT_TYPES:
            self._encode(piece, rows, list(zip((target.type for target in to_encode), outs, strict=True)))
        written = sum(_write(piece, target, out, files) for target, out in zip(to_encode, outs, strict=True))
        as_it_is = [target for target in piece.task.targets if target.type is tensor_type]
        return written + sum(_write(piece, target, rows, files) for target in as_it_is)

    def _load(self, piece: Slice) -> NDArray[np.uint8]:
        tensor = piece.task.tensor
        if piece.source is None:
            return np.frombuffer(tensor.data or b"", np.uint8)
        nbytes = row_nbytes(tensor.type, piece.n_cols)
        read = self._read[: piece.nbytes]
        shape = (piece.n_rows, nbytes)
        source = tensor.sources[piece.source]
        if source.is_transposed:
            read_columns(source, piece.source_row, read.reshape(*shape[:1], piece.n_cols, -1))
        else:
            self._sources.read_into(source, piece.source_row * nbytes, read)
        moved = tensor.transform.apply(read.reshape(shape), self._moved[: piece.nbytes].reshape(shape))
        return moved.reshape(-1)

    def _encode(
        self, piece: Slice, rows: NDArray[np.uint8], targets: list[tuple[GGMLQuantizationType, NDArray[np.uint8]]]
    ) -> None:
        through_f16 = self._through_f16 and any(kind not in FLOAT_TYPES for kind, _ in targets)
        tensor_type = piece.task.tensor.type
        bad = encode_rows(rows, tensor_type, n_cols=piece.n_cols, through_f16=through_f16, targets=targets)
        if not (bad.n_nonfinite or bad.n_overflow):
            return
        if not self._allow_nonfinite:
            checks_f16 = through_f16 or any(target.type.name == "F16" for target in piece.task.targets)
            raise describe_bad_values(piece, self._sources, checks_f16=checks_f16)
        encode_rows_allowing_nonfinite(rows, tensor_type, n_cols=piece.n_cols, through_f16=through_f16, targets=targets)


def _nbytes(piece: Slice, target: Target) -> int:
    return row_nbytes(target.type, piece.n_cols) * piece.n_rows


def _write(
    piece: Slice, target: Target, data: NDArray[np.uint8], files: Mapping[int, PartialFile | ExistingFile]
) -> int:
    start = row_nbytes(target.type, piece.n_cols) * piece.output_row
    written = 0
    for output, offset in target.places:
        files[output].write(data.data, offset + start)
        written += len(data)
    return written
