"""GGUF files, damaged in chosen ways, and what `verify` says of a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gguf import GGUFValueType

from convert.gguf_file import KeyValue, encoded_entry, layout, read_gguf
from convert.verify import verify_files

if TYPE_CHECKING:
    from pathlib import Path

    from convert.gguf_file import TensorInfo


def problems(path: Path, against: Path | None = None) -> list[str]:
    """List the problems of a file, as `check: message`."""
    (file,) = verify_files([path], against=against).files
    return [f"{finding.check}: {finding.message}" for finding in file.problems]


def notes(path: Path) -> list[str]:
    """List the notes of a file, as `check: message`."""
    (file,) = verify_files([path]).files
    return [f"{finding.check}: {finding.message}" for finding in file.notes]


def patched(path: Path, out: Path, offset: int, raw: bytes) -> Path:
    """Write a copy in which `raw` stands at `offset`."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(raw)] = raw
    out.write_bytes(content)
    return out


def tensor_of(path: Path, name: str) -> TensorInfo:
    """Find a tensor's place in a file."""
    return next(tensor for tensor in read_gguf(path).tensors if tensor.name == name)


def with_metadata(path: Path, out: Path, *, alignment: int = 32, **changes: object) -> Path:
    """Write the file anew with other values (dots spelled as two underscores); None takes a key out."""
    header = read_gguf(path)
    wanted = {key.replace("__", "."): value for key, value in changes.items()}
    entries = [
        encoded_entry(replace(entry, value=wanted[entry.key])) if entry.key in wanted else (entry, raw)
        for entry, raw in header.entries
        if wanted.get(entry.key, entry.value) is not None
    ]
    known = header.metadata
    entries += [
        encoded_entry(KeyValue(key, value, GGUFValueType.UINT32 if isinstance(value, int) else GGUFValueType.STRING))
        for key, value in wanted.items()
        if key not in known
    ]
    listed = [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors]
    head, infos, nbytes = layout(listed, entries, alignment)
    content = bytearray(nbytes)
    content[: len(head)] = head
    raw = path.read_bytes()
    for old, new in zip(header.tensors, infos, strict=True):
        content[new.offset : new.offset + new.nbytes] = raw[old.offset : old.offset + old.nbytes]
    out.write_bytes(content)
    return out
