"""A torch file looked at before torch is: the zip's records, and the names that its pickle would import.

A file saved by PyTorch 1.6 or later is an uncompressed zip, every record under one folder:

    NAME/data.pkl       the pickled state dict; a storage is named by its key
    NAME/byteorder      `little` or `big`
    NAME/data/KEY       one storage's bytes, at an offset divisible by 64

What is refused here could not hurt through `torch.load(weights_only=True)` either; refusing it first gives an error
that says what the file wanted, and bounds memory and time. Nothing in this module runs or imports anything from the
file.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from convert.checkpoint.regular_file import LFS_POINTER_START, expect, file_nbytes, open_regular, refuse_lfs_pointer
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAX_PICKLE_NBYTES: Final = 32 << 20  # a tensor takes about 200 bytes of data.pkl
MAX_PICKLE_OPCODES: Final = 5_000_000  # a tensor takes about 40
_PROTOCOL: Final = 2  # torch/serialization.py, DEFAULT_PROTOCOL
MAX_DIRECTORY_NBYTES: Final = 16 << 20  # a record takes about 60 bytes
_HEADER_NBYTES: Final = 512  # of a record, with its name and what aligns its bytes
_ZIP_START: Final = b"PK\x03\x04"
# torch/serialization.py, MAGIC_NUMBER, pickled
_LEGACY_START: Final = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_RESAVE: Final = "load it where it came from and save it again: `torch.save(model.state_dict(), PATH)`"

# What the pickle of a state dict of plain tensors names.  torch's own list of safe names is longer; some of the rest
# allocate what a number in the file says (builtins.bytearray, torch.Tensor), none is needed to say where a tensor lies.
_STATE_DICT_NAMES: Final = frozenset(
    {
        "_codecs.encode",
        "builtins.complex",
        "builtins.set",
        "__builtin__.complex",
        "__builtin__.set",
        "collections.Counter",
        "collections.OrderedDict",
        "pathlib.PosixPath",  # among what a trainer notes beside a model; read as a PurePosixPath
        "pathlib._local.PosixPath",
        "torch.Size",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.storage.UntypedStorage",
    }
)
# torch/_tensor.py, Tensor._reduce_ex_internal: what rebuilds a tensor subclass, with its class to be imported.
_SUBCLASS_NAMES: Final = frozenset({"torch._tensor._rebuild_from_type_v2", "torch._utils._rebuild_wrapper_subclass"})
_IS_DISTRIBUTED: Final = re.compile(r"torch\.distributed\.")
_HARMLESS: Final = ("torch.", "builtins.", "__builtin__.", "collections.", "_codecs.", "numpy.")
TYPE_NAME: Final = re.compile(r"torch\.([A-Z]\w*Storage|(bfloat|float|complex|q?u?int)\d\w*|bool)")


@dataclass(frozen=True, slots=True)
class TorchArchive:
    """The records of a torch file: name without the folder → (offset of the bytes in the file, number of bytes).

    pickle: what its `data.pkl` has.
    """

    records: Mapping[str, tuple[int, int]]
    nbytes: int
    pickle: bytes

    @property
    def storages(self) -> dict[int, int]:
        """Offset → bytes of each storage."""
        return {offset: nbytes for name, (offset, nbytes) in self.records.items() if name.startswith("data/")}


def read_torch_archive(path: Path) -> TorchArchive:
    """Read a torch file's zip directory, and check it and the pickle in it.

    Raises CheckpointError if the file is not a zip, is truncated, has compressed, doubled or misplaced records, is of
    the other byte order, or if its pickle is malformed or names anything that a state dict has no need of.
    Raises UnsupportedError for a TorchScript archive.
    """
    with open_regular(path) as file:
        return archive_in(file, file_nbytes(file), path)


def archive_in(file: BinaryIO, nbytes: int, path: Path) -> TorchArchive:
    """Do it for an open file, or a part of one that is seen as one. path: for errors."""
    _check_start(file.read(len(LFS_POINTER_START)), nbytes, path)
    records = _read_records(file, nbytes, path)
    _check_kind(records, path)
    _check_byte_order(_read_record(file, records.get("byteorder", (0, 0))), path)
    pickle = _read_pickle(file, records, path)
    _check_pickle(pickle, path)
    return TorchArchive(records, nbytes, pickle)


def _check_start(start: bytes, nbytes: int, path: Path) -> None:
    refuse_lfs_pointer(start, path)
    if start.startswith(_ZIP_START):
        return
    if start.startswith(_LEGACY_START):
        raise CheckpointError(
            f"{shown(path)} was saved in the format of PyTorch before 1.6, wanted a zip", hint=_RESAVE
        )
    if nbytes == 0:
        raise CheckpointError(f"{shown(path)} is empty, wanted a file saved by `torch.save`")
    if start.startswith(b"\x80"):
        raise CheckpointError(f"{shown(path)} is a bare pickle, wanted a zip saved by `torch.save`", hint=_RESAVE)
    raise CheckpointError(f"{shown(path)} begins with {shown(start[:4].hex(' '))}, wanted a zip saved by `torch.save`")


class BoundedReads(io.RawIOBase):
    """A file whose single reads are bounded: `zipfile` reads as much as the file says its directory has."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or size > MAX_DIRECTORY_NBYTES:
            size = MAX_DIRECTORY_NBYTES
        return self._file.read(size)


def _read_records(file: BinaryIO, nbytes: int, path: Path) -> dict[str, tuple[int, int]]:
    try:
        entries = zipfile.ZipFile(BoundedReads(file)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error, OverflowError) as error:
        raise CheckpointError(
            f"{shown(path)} is a broken zip of {nbytes} bytes: {error}",
            hint="a file that was cut short ends so: copy or download it again",
        ) from error
    expect(file, ((entry.header_offset, _HEADER_NBYTES) for entry in entries if entry.header_offset >= 0))
    records: dict[str, tuple[int, int]] = {}
    for entry in entries:
        name = entry.filename.partition("/")[2] or entry.filename
        if name in records:
            raise CheckpointError(f"{shown(path)} has the record {shown(entry.filename)} twice")
        records[name] = (_data_offset(file, entry, nbytes, path), entry.file_size)
    return records


def _data_offset(file: BinaryIO, entry: zipfile.ZipInfo, nbytes: int, path: Path) -> int:
    """Find where a record's bytes begin: after its local header, whose length is only known there.

        0          4         6       8        10             26            28             30
        | PK 03 04 | version | flags | method | times, sizes | name length | extra length | name, extra, bytes

    Raises CheckpointError if the record is not stored plainly, or not inside the file.
    """
    where = f"record {shown(entry.filename)} in {shown(path)}"
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
        raise CheckpointError(f"{where} is compressed or encrypted, wanted it stored", hint=_RESAVE)
    file.seek(max(entry.header_offset, 0))
    header = file.read(30)
    if entry.header_offset < 0 or len(header) < 30 or not header.startswith(_ZIP_START):  # noqa: PLR2004 - drawn above
        raise CheckpointError(f"{where} has no header at byte {entry.header_offset}")
    name_nbytes, extra_nbytes = struct.unpack_from("<HH", header, 26)
    offset = entry.header_offset + 30 + int(name_nbytes) + int(extra_nbytes)
    if offset + entry.file_size > nbytes:
        raise CheckpointError(f"{where} reaches to byte {offset + entry.file_size}, the file has {nbytes}")
    return offset


def _check_kind(records: Mapping[str, tuple[int, int]], path: Path) -> None:
    if "constants.pkl" in records:
        raise UnsupportedError(f"{shown(path)} is a TorchScript program, wanted a state dict", hint=_RESAVE)
    if "data.pkl" not in records:
        raise CheckpointError(f"{shown(path)} is a zip without a `data.pkl`, wanted a file saved by `torch.save`")


def _check_byte_order(order: bytes, path: Path) -> None:
    if order not in {b"", b"little"}:
        raise CheckpointError(f"{shown(path)} has the byte order {shown(order.decode('latin-1'))}, wanted `little`")


def _read_pickle(file: BinaryIO, records: Mapping[str, tuple[int, int]], path: Path) -> bytes:
    _, nbytes = records["data.pkl"]
    if nbytes > MAX_PICKLE_NBYTES:
        raise CheckpointError(f"{shown(path)} has a pickle of {nbytes} bytes, at most {MAX_PICKLE_NBYTES} are read")
    return _read_record(file, records["data.pkl"])


def _read_record(file: BinaryIO, record: tuple[int, int]) -> bytes:
    offset, nbytes = record
    file.seek(offset)
    return file.read(min(nbytes, MAX_PICKLE_NBYTES))


def _check_pickle(pickle: bytes, path: Path) -> None:
    try:
        refused = {
            name: None
            for name in _imported_names(pickle)
            if name not in _STATE_DICT_NAMES and not TYPE_NAME.fullmatch(name)
        }
        if refused:
            raise _refusal(list(refused), path)
        _check_protocol(pickle, path)
    except _TooLongError:
        raise CheckpointError(
            f"{shown(path)} has a pickle of more than {MAX_PICKLE_OPCODES} operations, no more are read"
        ) from None
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise CheckpointError(f"{shown(path)} has a malformed pickle: {error}") from error


def _check_protocol(pickle: bytes, path: Path) -> None:
    """Refuse another protocol than `torch.save`'s own, after the names: `weights_only=True` reads no other."""
    opcode, protocol, _ = next(pickletools.genops(pickle))
    if opcode.name != "PROTO" or protocol != _PROTOCOL:
        got = protocol if opcode.name == "PROTO" else "0 or 1"
        raise CheckpointError(f"{shown(path)} has a pickle of protocol {got}, wanted {_PROTOCOL}", hint=_RESAVE)


def _refusal(names: list[str], path: Path) -> CheckpointError | UnsupportedError:
    name = names[0]
    if any(_IS_DISTRIBUTED.match(part) for part in names) and all(part.startswith(_HARMLESS) for part in names):
        return UnsupportedError(
            f"{shown(path)} holds DTensors, one process's part of a model that was spread over several",
            hint="put the parts together with the program that trained it (verl.model_merger,"
            " `accelerate merge-weights`, torchtitan's convert), and convert what it writes",
        )
    if name in _SUBCLASS_NAMES:
        return UnsupportedError(
            f"{shown(path)} holds tensors of a subclass, such as torchao's packed weights, which are not decoded from "
            "torch files",
            hint="load it with transformers and torchao and save it again, as safetensors, or replace each weight by "
            "`weight.dequantize()` before; or get the 16-bit checkpoint",
        )
    if name.startswith("torch."):
        return CheckpointError(f"{shown(path)} holds a {shown(name)}, wanted plain tensors", hint=_RESAVE)
    return CheckpointError(
        f"{shown(path)} is refused: to load it would run {shown(name)}; nothing in it was executed", hint=_RESAVE
    )


class _TooLongError(Exception):
    """The pickle has too many operations."""


def _imported_names(pickle: bytes) -> Iterator[str]:
    """Every `module.name` that loading a pickle would look up, found without loading it."""
    strings: list[object] = ["", ""]
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        if number >= MAX_PICKLE_OPCODES:
            raise _TooLongError
        if opcode.name in {"GLOBAL", "INST"}:
            yield str(argument).replace(" ", ".", 1)
        elif opcode.name == "STACK_GLOBAL":  # named by the two strings before it
            yield ".".join(map(str, strings))
        elif "UNICODE" in opcode.name:
            strings = [strings[1], argument]
