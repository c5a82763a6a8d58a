"""A llamafile: a program with a zip behind it, in which a GGUF file lies as it is.

    | program | local header, NAME.gguf, padding | the GGUF | … | the zip's directory |

Source: Mozilla-Ocho/llamafile, llamafile/zipalign.c: members are stored, not compressed, at multiples of 64 kB.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from convert.checkpoint.torch_archive import BoundedReads
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from pathlib import Path

# How programs begin, Windows', Linux', Apple's, a script; and a zip alone.
PROGRAMS: Final = (b"MZ", b"\x7fELF", b"\xcf\xfa\xed\xfe", b"#!", b"PK\3\4")
_LOCAL: Final = b"PK\3\4"
_LOCAL_NBYTES: Final = 30


@dataclass(frozen=True, slots=True)
class Member:
    """Where in a file a GGUF lies."""

    start: int
    nbytes: int


def gguf_member(path: Path, file: BinaryIO, nbytes: int) -> Member | None:
    """Find the one GGUF in a llamafile; None where a file is no zip, or has none in it.

    Raises CheckpointError where its place is a lie, UnsupportedError where there are several, or it is compressed.
    """
    try:
        listed = zipfile.ZipFile(BoundedReads(file)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error, OverflowError):
        return None
    found = [entry for entry in listed if entry.filename.endswith(".gguf")]
    if not found:
        return None
    if len(found) > 1:
        names = shown_list([entry.filename for entry in found])
        raise UnsupportedError(
            f"{shown(path)} has several GGUF files in it: {names}", hint="unzip the one that is meant"
        )
    return _member(path, file, nbytes, found[0])


def _member(path: Path, file: BinaryIO, nbytes: int, entry: zipfile.ZipInfo) -> Member:
    where = f"{shown(entry.filename)} in {shown(path)}"
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise UnsupportedError(f"{where} is compressed or encrypted, wanted it stored", hint="unzip it first")
    file.seek(max(entry.header_offset, 0))
    header = file.read(_LOCAL_NBYTES)
    if entry.header_offset < 0 or len(header) < _LOCAL_NBYTES or not header.startswith(_LOCAL):
        raise CheckpointError(f"{where} has no header at byte {entry.header_offset}")
    name_nbytes, extra_nbytes = struct.unpack_from("<HH", header, 26)
    start = entry.header_offset + _LOCAL_NBYTES + int(name_nbytes) + int(extra_nbytes)
    if start + entry.file_size > nbytes:
        raise CheckpointError(f"{where} reaches to byte {start + entry.file_size}, the file has {nbytes}")
    return Member(start, entry.file_size)
