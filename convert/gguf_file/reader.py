"""Read a GGUF file's header: untrusted, in bounded memory, never mapped.

`gguf.GGUFReader` maps the file and builds two arrays for every token of the vocabulary; a model with
128 000 tokens then costs more memory than a conversion may. This reader checks what it reads: counts
and lengths against the file's size, tensors against each other and the end of the file.
Source: ggml/src/gguf.cpp, gguf_init_from_file_impl @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from convert.errors import CheckpointError, UnsupportedError
from convert.gguf_file.data import ALIGNMENT, Entry, TensorInfo, padded, tensor_nbytes
from convert.gguf_file.key_values import decode_key_value, decode_number, decode_text

if TYPE_CHECKING:
    from pathlib import Path

_MAX_HEADER_NBYTES: Final = 128 << 20
_MAX_DIMS: Final = 4  # GGML_MAX_DIMS
_MAX_NAME_NBYTES: Final = 63  # GGML_MAX_NAME - 1


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A GGUF file's header.

    entries: the metadata, decoded and as the bytes in the file, in file order.
    tensors: in file order, offsets from the start of the file.
    """

    path: Path
    nbytes: int
    entries: tuple[Entry, ...]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int

    @property
    def metadata(self) -> dict[str, Any]:
        """Key to value."""
        return {entry.key: entry.value for entry, _ in self.entries}


def read_gguf(path: Path) -> GGUFFile:
    """Read and check the header of a GGUF file (version 2 or 3, little endian).

    Raises CheckpointError if it is broken or truncated, UnsupportedError for another version, the
    other byte order, or one part of a split model.
    """
    if not path.is_file():
        raise CheckpointError(f"`{path}` is not a file")
    with path.open("rb") as file:
        return _Reader(path, file).read()


class _Reader:
    """The position in one file, and the checks on what is read there."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.nbytes = path.stat().st_size

    def read(self) -> GGUFFile:
        n_tensors, n_key_values = self._read_counts()
        entries = self._read_entries(n_key_values)
        alignment = _alignment(self, entries)
        records = [self._read_tensor_record() for _ in range(n_tensors)]
        data_offset = padded(self.file.tell(), alignment)
        tensors = tuple(self._tensor_info(*record, data_offset, alignment) for record in records)
        self._check_tensors(tensors)
        return GGUFFile(self.path, self.nbytes, entries, tensors, alignment, data_offset)

    def broken(self, what: str) -> CheckpointError:
        """Make the error for a file that says what cannot be."""
        return CheckpointError(f"`{self.path}` is not a sound GGUF file: {what}")

    def take(self, nbytes: int, what: str) -> bytes:
        """Read the next bytes; CheckpointError if they are not there, or the header would become too long."""
        if self.file.tell() + nbytes > _MAX_HEADER_NBYTES:
            raise self.broken(f"its header has more than {_MAX_HEADER_NBYTES} bytes, at {what}")
        if nbytes > self.nbytes - self.file.tell():
            raise self.broken(f"{what} needs {nbytes} bytes at {self.file.tell()}, the file has {self.nbytes}")
        return self.file.read(nbytes)

    def _read_counts(self) -> tuple[int, int]:
        magic = self.take(4, "the magic")
        if magic != b"GGUF":
            raise self.broken(f"it starts with {magic!r}, not b'GGUF'")
        version = decode_number(self, "I", "the version")
        if version not in (2, 3):
            swapped = version.to_bytes(4, "big") in (b"\2\0\0\0", b"\3\0\0\0")
            what = "is big endian" if swapped else f"has GGUF version {version}"
            raise UnsupportedError(f"`{self.path}` {what}; versions 2 and 3, little endian, are supported")
        n_tensors, n_key_values = (
            decode_number(self, "Q", "the tensor count"),
            decode_number(self, "Q", "the metadata count"),
        )
        if max(n_tensors, n_key_values) > self.nbytes // 12:  # the least that an entry takes
            raise self.broken(f"it claims {n_tensors} tensors and {n_key_values} metadata entries")
        return n_tensors, n_key_values

    def _read_entries(self, count: int) -> tuple[Entry, ...]:
        entries: dict[str, Entry] = {}
        for _ in range(count):
            start = self.file.tell()
            entry = decode_key_value(self)
            if entry.key in entries:
                raise self.broken(f"metadata key `{entry.key}` stands twice")
            end = self.file.tell()
            self.file.seek(start)
            entries[entry.key] = entry, self.file.read(end - start)
        return tuple(entries.values())

    def _read_tensor_record(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        name = decode_text(self, _MAX_NAME_NBYTES, "a tensor name")
        n_dims = decode_number(self, "I", f"the dimensions of `{name}`")
        if not 1 <= n_dims <= _MAX_DIMS:
            raise self.broken(f"tensor `{name}` has {n_dims} dimensions, 1 to {_MAX_DIMS} are possible")
        shape = tuple(decode_number(self, "Q", f"the shape of `{name}`") for _ in range(n_dims))[::-1]
        if 0 in shape:
            raise self.broken(f"tensor `{name}` has shape {shape}")
        code = decode_number(self, "I", f"the type of `{name}`")
        try:
            tensor_type = GGMLQuantizationType(code)
        except ValueError:
            raise UnsupportedError(f"tensor `{name}` of `{self.path}` has the unknown type {code}") from None
        return name, shape, tensor_type, decode_number(self, "Q", f"the offset of `{name}`")

    def _tensor_info(
        self,
        name: str,
        shape: tuple[int, ...],
        tensor_type: GGMLQuantizationType,
        offset: int,
        start: int,
        alignment: int,
    ) -> TensorInfo:
        block_size = GGML_QUANT_SIZES[tensor_type][0]
        if shape[-1] % block_size:
            raise self.broken(f"tensor `{name}` has rows of {shape[-1]}, {tensor_type.name} needs {block_size}")
        if offset % alignment:
            raise self.broken(f"tensor `{name}` starts at {offset}, not a multiple of {alignment}")
        return TensorInfo(name, shape, tensor_type, start + offset, tensor_nbytes(shape, tensor_type))

    def _check_tensors(self, tensors: tuple[TensorInfo, ...]) -> None:
        names = {tensor.name for tensor in tensors}
        if len(names) < len(tensors):
            raise self.broken("two tensors have the same name")
        end = 0
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                raise self.broken(f"tensor `{tensor.name}` overlaps the one before it")
            end = tensor.offset + tensor.nbytes
            if end > self.nbytes:
                raise self.broken(f"tensor `{tensor.name}` ends at {end}, the file has {self.nbytes} bytes")


def _alignment(reader: _Reader, entries: tuple[Entry, ...]) -> int:
    value = next((entry.value for entry, _ in entries if entry.key == "general.alignment"), ALIGNMENT)
    if not isinstance(value, int) or value < 1 or value & (value - 1):
        raise reader.broken(f"general.alignment is {value!r}, not a power of two")
    return value
