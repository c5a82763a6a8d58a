"""Where things lie in a file: tensors one after the other, aligned, padded with zeros, and nothing behind them.

Counts, names, types, overlaps and the file's end are checked by `gguf_reader` already.
Source: ggml/src/gguf.cpp, gguf_init_from_file_impl @ 0c1e570, which refuses a gap between two tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.gguf_file import ALIGNMENT, padded, part_of
from convert.verify.data import Finding, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.gguf_file import GGUFFile
    from convert.verify.reading import OpenFile

CHECK = "structure"


def check_structure(header: GGUFFile, file: OpenFile) -> Iterator[Finding]:
    """Check offsets, padding and the file's length."""
    if not header.tensors and part_of(header) is None:
        yield problem(CHECK, "the file holds no tensor")
    if header.alignment < ALIGNMENT:
        said = f"`general.alignment` is {header.alignment}, llama.cpp aborts below {ALIGNMENT}"
        yield problem(CHECK, said)  # ggml-impl.h, TENSOR_ALIGNMENT, asserted of a mapped file @ 0c1e570
    yield from _check_offsets(header)
    for offset, end, what in _paddings(header):
        if offset < end and file.read(offset, end - offset).any():
            yield problem(CHECK, f"the padding after {what}, from byte {offset} to {end}, is not all zeros")


def _check_offsets(header: GGUFFile) -> Iterator[Finding]:
    wanted = header.data_offset
    for tensor in header.tensors:
        if tensor.offset != wanted:
            yield problem(CHECK, f"tensor `{tensor.name}` starts at byte {tensor.offset}, in file order it is {wanted}")
        wanted = tensor.offset + padded(tensor.nbytes, header.alignment)
    if header.nbytes != wanted:
        yield problem(CHECK, f"the file has {header.nbytes} bytes, its header makes it {wanted}")


def _paddings(header: GGUFFile) -> Iterator[tuple[int, int, str]]:
    """List (first byte, end, what it follows) of every padding within the file."""
    yield _header_end(header), min(header.data_offset, header.nbytes), "the header"
    for tensor in header.tensors:
        end = tensor.offset + tensor.nbytes
        yield end, min(_padded(header, end), header.nbytes), f"tensor `{tensor.name}`"


def _padded(header: GGUFFile, end: int) -> int:
    """Round a byte up to the alignment, counted from where the GGUF begins."""
    return header.start + padded(end - header.start, header.alignment)


def _header_end(header: GGUFFile) -> int:
    # 24: magic, version, two counts. 24 a tensor: its name's length, number of dimensions, type and offset.
    metadata = sum(len(encoded) for _, encoded in header.entries)
    described = sum(24 + len(tensor.name.encode()) + 8 * len(tensor.shape) for tensor in header.tensors)
    return header.start + 24 + metadata + described
