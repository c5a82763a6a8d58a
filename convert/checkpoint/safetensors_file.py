"""Where the tensors of a safetensors file lie, read from its header alone.

The format (https://github.com/huggingface/safetensors, README "Format"):

    8 bytes            N, an unsigned little-endian integer
    N bytes            the header: a JSON object in UTF-8 that begins with `{`, padded with spaces
    the rest           the data buffer

Each header entry but `__metadata__` (strings to strings) is a tensor: `dtype`, `shape`, and `data_offsets` [begin, end)
within the buffer. The tensors fill the buffer: no hole, no overlap, nothing after the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Final, TypeGuard

from convert.checkpoint.json_file import parse_json
from convert.checkpoint.regular_file import file_nbytes, open_regular, refuse_lfs_pointer
from convert.checkpoint.source import StoredType, TensorSource
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MAX_HEADER_NBYTES: Final = 100_000_000  # safetensors/src/tensor.rs, MAX_HEADER_SIZE
MAX_TENSORS: Final = 250_000  # in one file; the largest models have about a hundred thousand in all their files
MAX_DIMENSIONS: Final = 32
_MAX_VALUES: Final = 16 * MAX_TENSORS
_INT63_END: Final = 1 << 63
_LENGTH_NBYTES: Final = 8
_ENTRY_KEYS: Final = frozenset({"dtype", "shape", "data_offsets"})
_DTYPES: Final = {dtype.value: dtype for dtype in StoredType}
_UNREAD_DTYPES: Final = frozenset({"F4", "F6_E2M3", "F6_E3M2", "C64"})  # the format's own, not ours
_TRUNCATED_HINT: Final = "the file is not all there: copy or download it again"


def read_safetensors(path: Path) -> tuple[TensorSource, ...]:
    """Read the header of a safetensors file and check every promise it makes.

    Returns the tensors sorted by name. Reads the header only, and never more bytes than the file has.
    Raises CheckpointError on the first broken rule, naming the file, the tensor and the numbers; UnsupportedError for a
    dtype of the format that this package does not read.
    """
    # Parity: gguf/utility.py, SafetensorsLocal.__init__ @ 0c1e570 sorts by name; the output's tensor order follows.
    with open_regular(path) as file:
        nbytes = file_nbytes(file)
        header = _read_header(file, nbytes, path)
    entries = _parse_header(header, path)
    first_byte = _LENGTH_NBYTES + len(header)
    sources = [_source(name, entry, path, first_byte) for name, entry in entries.items()]
    validate(sources, path=path, first_byte=first_byte, file_nbytes=nbytes)
    return tuple(sorted(sources, key=lambda source: source.name))


def read_metadata(path: Path) -> Mapping[str, str]:
    """Read what a safetensors file says of itself beside its tensors: `__metadata__` of its header, or nothing.

    Raises CheckpointError as `read_safetensors` does.
    """
    with open_regular(path) as file:
        header = _read_header(file, file_nbytes(file), path)
    what = f"the header of {shown(path)}"
    entries = parse_json(header, what=what, max_values=_MAX_VALUES)
    metadata = entries.get("__metadata__", {}) if isinstance(entries, dict) else {}
    _check_metadata(metadata, what)
    return metadata


def validate(sources: Iterable[TensorSource], *, path: Path, first_byte: int, file_nbytes: int) -> None:
    """Check that tensors fill a file from first_byte to its end: no hole, no overlap, nothing left over.

    Raises CheckpointError naming the file, the tensor and the numbers.
    """
    end = first_byte
    for source in sorted(sources, key=lambda source: (source.offset, source.nbytes)):
        if source.offset != end:
            fault = "overlaps the one before" if source.offset < end else "leaves a hole before"
            where = f"begins at byte {source.offset - first_byte} of the data, wanted {end - first_byte}"
            raise CheckpointError(f"{_tensor(source.name, path)} {fault}: it {where}")
        end += source.nbytes
    if end > file_nbytes:
        raise CheckpointError(
            f"{shown(path)} is truncated: it has {file_nbytes} bytes, its tensors reach to byte {end}",
            hint=_TRUNCATED_HINT,
        )
    if end < file_nbytes:
        raise CheckpointError(f"{shown(path)} has {file_nbytes - end} bytes after its last tensor, wanted none")


def _read_header(file: BinaryIO, nbytes: int, path: Path) -> bytes:
    prefix = file.read(len(b"version https://git-lfs"))
    refuse_lfs_pointer(prefix, path)
    if nbytes < _LENGTH_NBYTES:
        raise CheckpointError(
            f"{shown(path)} has {nbytes} bytes, a safetensors file has at least {_LENGTH_NBYTES}", hint=_TRUNCATED_HINT
        )
    length = int.from_bytes(prefix[:_LENGTH_NBYTES], "little")
    if length > MAX_HEADER_NBYTES:
        raise CheckpointError(
            f"{shown(path)} declares a header of {length} bytes, at most {MAX_HEADER_NBYTES} are read"
        )
    if length > nbytes - _LENGTH_NBYTES:
        raise CheckpointError(
            f"{shown(path)} declares a header of {length} bytes, only {nbytes - _LENGTH_NBYTES} follow",
            hint=_TRUNCATED_HINT,
        )
    file.seek(_LENGTH_NBYTES)
    return file.read(length)


def _parse_header(header: bytes, path: Path) -> dict[str, dict[str, object]]:
    what = f"the header of {shown(path)}"
    if not header.startswith(b"{"):
        raise CheckpointError(f"{what} begins with {shown(header[:1].decode('latin-1'))}, wanted `{{`")
    if (n_objects := header.count(b"{")) > MAX_TENSORS + 2:
        raise CheckpointError(f"{what} holds about {n_objects} tensors, at most {MAX_TENSORS} are read")
    entries = parse_json(header, what=what, max_values=_MAX_VALUES)
    assert isinstance(entries, dict)  # noqa: S101 - it begins with `{`
    _check_metadata(entries.pop("__metadata__", {}), what)
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
            raise CheckpointError(f"{_tensor(name, path)} is described by {_description(entry)}, wanted {_WANTED}")
    return entries


_WANTED: Final = "`dtype`, `shape` and `data_offsets`"


def _description(entry: object) -> str:
    if not isinstance(entry, dict):
        return f"{shown(entry)}"
    return ", ".join(shown(key) for key in list(entry)[:8]) or "nothing"


def _check_metadata(metadata: object, what: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{what} has a `__metadata__` that is not an object of strings")


def _source(name: str, entry: dict[str, object], path: Path, first_byte: int) -> TensorSource:
    dtype = _dtype(entry["dtype"], name, path)
    shape = _shape(entry["shape"], name, path)
    begin, end = _data_offsets(entry["data_offsets"], name, path)
    source = TensorSource(name=name, path=path, offset=first_byte + begin, dtype=dtype, shape=shape)
    if source.nbytes != end - begin:
        raise CheckpointError(
            f"{_tensor(name, path)} takes {end - begin} bytes, its shape {shape} in {dtype.value} takes {source.nbytes}"
        )
    return source


def _dtype(dtype: object, name: str, path: Path) -> StoredType:
    if not isinstance(dtype, str):
        raise CheckpointError(f"{_tensor(name, path)} has the dtype {shown(dtype)}, wanted a string")
    if dtype in _UNREAD_DTYPES:
        raise UnsupportedError(f"{_tensor(name, path)} has the dtype {shown(dtype)}, which this version does not read")
    if dtype not in _DTYPES:
        raise CheckpointError(f"{_tensor(name, path)} has the unknown dtype {shown(dtype)}")
    return _DTYPES[dtype]


def _shape(shape: object, name: str, path: Path) -> tuple[int, ...]:
    if not _is_counts(shape):
        raise CheckpointError(f"{_tensor(name, path)} has the shape {shown(shape)}, wanted integers from 0 below 2**63")
    if len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"{_tensor(name, path)} has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are read")
    return tuple(shape)


def _data_offsets(offsets: object, name: str, path: Path) -> tuple[int, int]:
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004 - begin and end
        raise CheckpointError(
            f"{_tensor(name, path)} has the data_offsets {shown(offsets)}, wanted [begin, end] with 0 <= begin <= end"
        )
    return offsets[0], offsets[1]


def _is_counts(value: object) -> TypeGuard[list[int]]:
    """Tell whether a JSON value is a list of integers in [0, 2**63); a JSON boolean is no integer."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _INT63_END for item in value)


def _tensor(name: str, path: Path) -> str:
    return f"tensor {shown(name)} in {shown(path)}"
