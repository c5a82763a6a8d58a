"""Read a GGUF file's header: untrusted, in bounded memory, never mapped.

`gguf.GGUFReader` maps the file and builds two arrays for every token of the vocabulary; a model with
128 000 tokens then costs more memory than a conversion may. This reader checks what it reads: counts
and lengths against the file's size, tensors against each other and the end of the file.
Source: ggml/src/gguf.cpp, gguf_init_from_file_impl @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

from gguf import GGML_QUANT_SIZES

from convert.checkpoint.regular_file import file_nbytes, open_regular
from convert.gguf_file.cursor import Cursor
from convert.gguf_file.data import ALIGNMENT, Entry, TensorInfo, padded, tensor_nbytes
from convert.gguf_file.header import MAGIC, Described, decode_counts, decode_tensor
from convert.gguf_file.key_values import decode_key_value
from convert.gguf_file.llamafile import PROGRAMS, Member, gguf_member
from convert.gguf_file.mistaken import HEAD_NBYTES, no_file, not_a_gguf

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A GGUF file's header.

    entries: the metadata, decoded and as the bytes in the file, in file order.
    tensors: in file order, offsets from the start of the file. start: where in the file the GGUF begins, and nbytes
    where it ends: a llamafile is a program in front of it.
    """

    path: Path
    nbytes: int
    entries: tuple[Entry, ...]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    start: int = 0

    @property
    def metadata(self) -> dict[str, Any]:
        """Key to value."""
        return {entry.key: entry.value for entry, _ in self.entries}


def is_gguf(path: Path) -> bool:
    """Whether a file calls itself a GGUF file, by its name or its first bytes."""
    if not path.is_file():
        return False
    with open_regular(path) as file:
        return path.suffix in (".gguf", ".llamafile") or file.read(len(MAGIC)) == MAGIC


def read_gguf(path: Path) -> GGUFFile:
    """Read and check the header of a GGUF file (version 2 or 3, little endian).

    Raises CheckpointError if it is broken or truncated, UnsupportedError for another version, the
    other byte order, or a tensor type that is not known.
    """
    if not path.is_file():
        raise no_file(path)
    with open_regular(path) as file:
        head, nbytes = file.read(HEAD_NBYTES), file_nbytes(file)
        member = Member(0, nbytes)
        if not head.startswith(MAGIC):
            found = gguf_member(path, file, nbytes) if head.startswith(PROGRAMS) else None
            if found is None:
                raise not_a_gguf(path, head)
            member = found
        file.seek(member.start)
        return _moved(_read(Cursor(path, file, member.nbytes)), member.start)


def _moved(file: GGUFFile, start: int) -> GGUFFile:
    """Count from the start of the file that a GGUF lies in."""
    tensors = tuple(replace(tensor, offset=start + tensor.offset) for tensor in file.tensors) if start else file.tensors
    return replace(file, nbytes=start + file.nbytes, tensors=tensors, data_offset=start + file.data_offset, start=start)


def parse_gguf(path: Path, header: bytes, nbytes: int) -> GGUFFile:
    """Read the header of a file that is planned, or elsewhere. nbytes: of the whole file; errors as for `read_gguf`."""
    return _read(Cursor(path, BytesIO(header), nbytes))


def _read(cursor: Cursor) -> GGUFFile:
    n_tensors, n_key_values = decode_counts(cursor)
    entries = _read_entries(cursor, n_key_values)
    alignment = _alignment(cursor, entries)
    described = [decode_tensor(cursor) for _ in range(n_tensors)]
    data_offset = padded(cursor.position, alignment)
    for tensor, offset in described:
        _check_tensor(cursor, tensor, offset, alignment)
    tensors = tuple(
        TensorInfo(name, shape, tensor_type, data_offset + offset, tensor_nbytes(shape, tensor_type))
        for (name, shape, tensor_type), offset in described
    )
    _check_apart(cursor, tensors)
    return GGUFFile(cursor.path, cursor.nbytes, entries, tensors, alignment, data_offset)


def _read_entries(cursor: Cursor, count: int) -> tuple[Entry, ...]:
    entries: dict[str, Entry] = {}
    for _ in range(count):
        start = cursor.position
        entry = decode_key_value(cursor)
        if entry.key in entries:
            raise cursor.broken(f"metadata key `{entry.key}` stands twice")
        entries[entry.key] = entry, cursor.since(start)
    return tuple(entries.values())


def _alignment(cursor: Cursor, entries: Iterable[Entry]) -> int:
    value = next((entry.value for entry, _ in entries if entry.key == "general.alignment"), ALIGNMENT)
    if not isinstance(value, int) or value < 1 or value & (value - 1):
        raise cursor.broken(f"general.alignment is {value!r}, not a power of two")
    return value


def _check_tensor(cursor: Cursor, tensor: Described, offset: int, alignment: int) -> None:
    name, shape, tensor_type = tensor
    block_size, _ = GGML_QUANT_SIZES[tensor_type]
    if shape[-1] % block_size:
        raise cursor.broken(f"tensor `{name}` has rows of {shape[-1]}, {tensor_type.name} needs {block_size}")
    if offset % alignment:
        raise cursor.broken(f"tensor `{name}` starts at {offset}, not a multiple of {alignment}")


def _check_apart(cursor: Cursor, tensors: tuple[TensorInfo, ...]) -> None:
    names = {tensor.name for tensor in tensors}
    if len(names) < len(tensors):
        raise cursor.broken("two tensors have the same name")
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise cursor.broken(f"tensor `{tensor.name}` overlaps the one before it")
        end = tensor.offset + tensor.nbytes
        if end > cursor.nbytes:
            raise cursor.broken(f"tensor `{tensor.name}` ends at {end}, the file has {cursor.nbytes} bytes")
