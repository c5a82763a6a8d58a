"""Read an importance matrix, GGUF or .dat: untrusted; its sums are looked through once and stay in the file.

    GGUF   NAME.in_sum2 and NAME.counts, float32, for each tensor; imatrix.datasets, .chunk_count, .chunk_size
    .dat   int32 n_entries, each: int32 length, name, int32 n_calls, int32 n_values, float32 values
           then, where it does not end: int32 n_chunks, int32 length, dataset

Source: common/imatrix-loader.cpp, common_imatrix_load; tools/quantize/quantize.cpp, prepare_imatrix @ 0c1e570.
"""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
from gguf import GGMLQuantizationType

from convert.checkpoint import SourceFiles
from convert.errors import CheckpointError, UsageError
from convert.gguf_file import read_gguf
from convert.importance.data import Importance, ImportanceEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convert.gguf_file import GGUFFile, TensorInfo

_SUMS: Final = ".in_sum2"
_COUNTS: Final = ".counts"
_DATASETS: Final = "imatrix.datasets"
_N_CHUNKS: Final = "imatrix.chunk_count"
_CHUNK_SIZE: Final = "imatrix.chunk_size"
_F32_NBYTES: Final = 4
_STEP: Final = 1 << 18  # values looked through at a time
_LONGEST_NAME: Final = 1 << 16


def read_importance(
    file: str | os.PathLike[str], *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Importance:
    """Read an importance matrix, and keep of its entries those whose names hold one of `include`, or none of `exclude`.

    Raises CheckpointError if the file is broken or holds a number that is not finite; UsageError if both are given.
    """
    if include and exclude:
        raise UsageError("weights can be included or excluded, not both")
    path = Path(os.path.abspath(file))
    if not path.is_file():
        raise CheckpointError(f"`{path}` is not a file")
    with path.open("rb") as opened:
        is_gguf = opened.read(4) == b"GGUF"
        opened.seek(0)
        read = _of_gguf(read_gguf(path), os.fspath(file)) if is_gguf else _of_legacy(path, opened, os.fspath(file))
    kept = {
        name: entry
        for name, entry in read.entries.items()
        if (not include or any(part in name for part in include)) and not any(part in name for part in exclude)
    }
    for entry in kept.values():
        _check_finite(entry)
    return replace(read, entries=kept, n_entries=len(kept))


def is_importance(file: GGUFFile) -> bool:
    """Whether a GGUF file is an importance matrix."""
    return _N_CHUNKS in file.metadata


def _check_finite(entry: ImportanceEntry) -> None:
    files = SourceFiles()
    for first in range(0, entry.n_values, _STEP):
        values = entry.read(files, first, min(_STEP, entry.n_values - first))
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            where = first + int(wrong[0])
            raise CheckpointError(f"`{entry.path}` gives `{entry.name}` the importance {values[wrong[0]]:g} at {where}")
    files.close()


def _of_gguf(file: GGUFFile, given: str) -> Importance:
    missing = [key for key in (_DATASETS, _N_CHUNKS, _CHUNK_SIZE) if key not in file.metadata]
    if missing:
        raise _broken(file.path, f"it has no {', '.join(f'`{key}`' for key in missing)}")
    tensors = {tensor.name: tensor for tensor in file.tensors}
    names = sorted({name.removesuffix(end) for name in tensors for end in (_SUMS, _COUNTS) if name.endswith(end)})
    entries = {name: _entry(file, name, tensors.get(name + _SUMS), tensors.get(name + _COUNTS)) for name in names}
    if not entries:
        raise _broken(file.path, "it has no entries")
    datasets, n_chunks, chunk_size = (file.metadata[key] for key in (_DATASETS, _N_CHUNKS, _CHUNK_SIZE))
    texts = tuple(_text(item) for item in datasets) if isinstance(datasets, tuple) else ()
    return Importance(given, entries, len(entries), texts, int(n_chunks), int(chunk_size))


def _entry(file: GGUFFile, name: str, sums: TensorInfo | None, counts: TensorInfo | None) -> ImportanceEntry:
    if sums is None or counts is None:
        raise _broken(file.path, f"`{name}` has {'no sums' if sums is None else 'no counts'}")
    if sums.type is not GGMLQuantizationType.F32 or counts.type is not GGMLQuantizationType.F32:
        raise _broken(file.path, f"the sums and counts of `{name}` are not F32")
    raw = np.empty(counts.nbytes // _F32_NBYTES, np.float32)
    SourceFiles().read_into(file.path, counts.offset, raw.view(np.uint8), name=name)
    if not np.isfinite(raw).all():
        raise _broken(file.path, f"a count of `{name}` is not finite")
    rounded = np.trunc(raw + np.copysign(np.float64(0.5), raw))  # lround: half away from zero
    return ImportanceEntry(name, file.path, sums.offset, sums.nbytes // _F32_NBYTES, tuple(map(int, rounded)))


def _of_legacy(path: Path, file: BinaryIO, given: str) -> Importance:
    reader = _LegacyFile(path, file)
    n_entries = reader.number("the number of entries")
    if n_entries < 1:
        raise reader.broken("it has no entries")
    entries = {entry.name: entry for entry in reader.entries(n_entries)}
    if reader.at_end:
        return Importance(given, entries, len(entries))
    n_chunks = reader.number("the number of chunks")
    dataset = reader.text("the dataset") if not reader.at_end else ""
    return Importance(given, entries, len(entries), (dataset,) if dataset else (), n_chunks)


class _LegacyFile:
    """The position in a .dat file; what is taken there has a name, for the error."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._nbytes = path.stat().st_size

    @property
    def at_end(self) -> bool:
        return self._file.tell() >= self._nbytes

    def broken(self, what: str) -> CheckpointError:
        return _broken(self._path, what)

    def number(self, what: str) -> int:
        raw = self._file.read(4)
        if len(raw) < 4:  # noqa: PLR2004 - an int32
            raise self.broken(f"it ends before {what}")
        number: int = struct.unpack("<i", raw)[0]
        return number

    def text(self, what: str) -> str:
        length = self.number(f"the length of {what}")
        raw = self._file.read(length) if 0 <= length <= _LONGEST_NAME else b""
        if len(raw) != length:
            raise self.broken(f"{what} has {length} bytes")
        return _text(raw.split(b"\0")[0])

    def entries(self, count: int) -> Iterator[ImportanceEntry]:
        for index in range(count):
            name = self.text(f"the name of entry {index}")
            n_calls, n_values = self.number(f"the calls of `{name}`"), self.number(f"the size of `{name}`")
            offset = self._file.tell()
            if n_values < 1 or offset + n_values * _F32_NBYTES > self._nbytes:
                raise self.broken(f"`{name}` has {n_values} values, the file {self._nbytes} bytes")
            self._file.seek(offset + n_values * _F32_NBYTES)
            yield ImportanceEntry(name, self._path, offset, n_values, (n_calls,), is_legacy=True)


def _text(raw: bytes | str) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"`{path}` is not a sound importance matrix: {what}")
