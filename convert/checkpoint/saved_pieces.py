"""`.metadata` of torch's distributed checkpoints: which tensors there are, in which pieces, and where each lies.

It is a pickle of torch's own classes, read here without them: every name in it stands for plain data, and what is none
of torch's or Megatron's is refused; nothing of it runs.

    state_dict_metadata    name → TensorStorageMetadata: dtype, size, chunks of (offsets, sizes)
                                → BytesStorageMetadata: something else
    storage_data           MetadataIndex (name, offsets) → _StorageInfo: file, offset, length of what `torch.save` wrote
    planner_data           name → the keys of nested dicts that it was made of, the outermost first

Source: torch 2.13, distributed/checkpoint/metadata.py and filesystem.py.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.regular_file import file_nbytes, open_regular
from convert.checkpoint.torch_archive import TYPE_NAME
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from pathlib import Path

MAX_NBYTES: Final = 256 << 20  # a piece takes about 300 bytes
MAX_OPCODES: Final = 80_000_000  # a piece takes about 150
_INERT_ROOTS: Final = ("torch.", "megatron.", "pathlib.")
_MALFORMED: Final = (pickle.PickleError, ArithmeticError, AttributeError, EOFError, LookupError, TypeError, ValueError,
                     struct.error)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SavedPiece:
    """A block of a tensor: where it begins in the tensor, its shape, and the bytes of a file that hold it."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor in pieces, which cover it without overlapping.

    dtype: as torch calls it, `torch.bfloat16`. keys: of the nested dicts that it was in, the outermost first.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[SavedPiece, ...]
    keys: tuple[str, ...]


class _Inert:
    """What stands for an object of a class that is not imported: the state it was saved with."""

    __slots__ = ("state",)

    def __init__(self, *arguments: object) -> None:
        self.state: Any = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Tensor(_Inert):
    __slots__ = ()


_CLASSES: Final[dict[str, object]] = {
    "torch.Size": tuple,
    "collections.OrderedDict": dict,
    "torch.distributed.checkpoint.metadata.TensorStorageMetadata": _Tensor,
    "builtins.getattr": _Inert,  # some versions of Python save a member of an enumeration so
}


class _Unpickler(pickle.Unpickler):
    """Builds `_Inert` for whatever is named."""

    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data))
        self._path = path

    def find_class(self, module: str, name: str) -> object:
        full = f"{module}.{name}"
        if (known := _CLASSES.get(full)) is not None:
            return known
        if TYPE_NAME.fullmatch(full):
            return full
        if full.startswith(_INERT_ROOTS):
            return _Inert
        raise CheckpointError(
            f"{shown(self._path)} is refused: to load it would run {shown(full)}; nothing in it was executed"
        )


def read_saved(path: Path) -> dict[str, SavedTensor]:
    """Read a `.metadata`: its tensors by name, and of each the pieces; what are no tensors is left out.

    Raises CheckpointError for a pickle that is broken or names anything else, for pieces without a place, and for such
    as overlap or leave gaps; UnsupportedError for pieces that are compressed.
    """
    metadata = _fields(_load(path), path)
    places = {}
    for index, place in _dict(metadata.get("storage_data"), path).items():
        found = _fields(index, path)
        places[found.get("fqn"), _sizes(found.get("offset") or (), path)] = _fields(place, path)
    described, nested = _dict(metadata.get("state_dict_metadata"), path), metadata.get("planner_data")
    tensors = {str(name): _tensor(str(name), _fields(value, path), places, path)
               for name, value in described.items() if isinstance(value, _Tensor)}  # fmt: skip
    return {name: replace(tensor, keys=_keys(name, nested)) for name, tensor in tensors.items()}


def _keys(name: str, nested: object) -> tuple[str, ...]:
    keys = nested.get(name) if isinstance(nested, dict) else None
    return tuple(map(str, keys)) if isinstance(keys, tuple) and ".".join(map(str, keys)) == name else (name,)


def _load(path: Path) -> object:
    with open_regular(path) as file:
        if (nbytes := file_nbytes(file)) > MAX_NBYTES:
            raise CheckpointError(f"{shown(path)} has {nbytes} bytes, at most {MAX_NBYTES} are read")
        data = file.read(nbytes)
    try:
        _check(data)
        return _Unpickler(data, path).load()
    except _MALFORMED as error:
        raise CheckpointError(f"{shown(path)} is a malformed pickle: {error}") from error


def _check(data: bytes) -> None:
    """Raise ValueError for a pickle that would take more memory than its own: a memo is as long as its last index."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        is_far = opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"} and isinstance(argument, int) and argument > number
        if number >= MAX_OPCODES or is_far:
            raise ValueError(f"it has more than {MAX_OPCODES} operations, or remembers what there is not")


def _fields(value: object, path: Path) -> dict[Any, Any]:
    return _dict(value.state if isinstance(value, _Inert) else None, path)


def _dict(value: object, path: Path) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{shown(path)} is not what torch's distributed checkpoints have: no table of tensors")
    return value


def _sizes(value: object, path: Path) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(n) is int and 0 <= n < 1 << 62 for n in value):
        raise CheckpointError(f"{shown(path)} has {shown(value)} for a shape or a place")
    return value


def _tensor(name: str, found: dict[Any, Any], places: dict[Any, dict[Any, Any]], path: Path) -> SavedTensor:
    properties, chunks = found.get("properties"), found.get("chunks")
    state = properties.state if isinstance(properties, _Inert) else ()
    if not isinstance(state, tuple) or not state or not isinstance(chunks, list):
        raise CheckpointError(f"{shown(path)} does not say the type and the pieces of {shown(name)}")
    shape, pieces = _sizes(found.get("size"), path), []
    for chunk in chunks:
        block = _fields(chunk, path)
        offsets, sizes = _sizes(block.get("offsets"), path), _sizes(block.get("sizes"), path)
        if (place := places.get((name, offsets))) is None:
            raise CheckpointError(f"{shown(path)} has no place for the piece at {offsets} of tensor {shown(name)}")
        pieces.append(_piece(name, offsets, sizes, place, path))
    _check_cover(name, shape, pieces, path)
    return SavedTensor(name, str(state[0]), shape, tuple(pieces), (name,))


def _piece(
    name: str, offsets: tuple[int, ...], sizes: tuple[int, ...], place: dict[Any, Any], path: Path
) -> SavedPiece:
    file, (start, nbytes) = place.get("relative_path"), _sizes((place.get("offset"), place.get("length")), path)
    if place.get("transform_descriptors"):
        raise UnsupportedError(f"tensor {shown(name)} in {shown(path)} is stored compressed, wanted it plain")
    if not isinstance(file, str) or "/" in file or file in ("", ".", ".."):
        raise CheckpointError(f"{shown(path)} has tensor {shown(name)} in {shown(file)}, wanted a file beside it")
    return SavedPiece(offsets, sizes, file, start, nbytes)


def _check_cover(name: str, shape: tuple[int, ...], pieces: list[SavedPiece], path: Path) -> None:
    """Raise CheckpointError unless pieces fill a tensor, each place once: where none overlap, their sizes tell."""
    where = f"tensor {shown(name)} in {shown(path)}"
    volume = 0
    for piece in pieces:
        ends = [offset + size for offset, size in zip(piece.offsets, piece.shape, strict=False)]
        if not len(piece.offsets) == len(piece.shape) == len(shape) or any(map(int.__gt__, ends, shape)):
            raise CheckpointError(f"{where} has a piece of {piece.shape} at {piece.offsets}, its shape is {shape}")
        volume += _volume(piece.shape)
    if (pair := _overlapping(pieces)) is not None:
        raise CheckpointError(f"{where} has pieces at {pair[0].offsets} and {pair[1].offsets} that overlap")
    if volume != _volume(shape):
        raise CheckpointError(f"{where}, shape {shape}, lacks pieces: {volume} of {_volume(shape)} values are there")


def _volume(shape: tuple[int, ...]) -> int:
    volume = 1
    for size in shape:
        volume *= size
    return volume


def _overlapping(pieces: list[SavedPiece]) -> tuple[SavedPiece, SavedPiece] | None:
    """Find two that overlap: only such are compared as share rows."""
    rows = sorted((piece for piece in pieces if piece.shape and _volume(piece.shape)), key=lambda piece: piece.offsets)
    for number, piece in enumerate(rows):
        for other in rows[number + 1 :]:
            if other.offsets[0] >= piece.offsets[0] + piece.shape[0]:
                break
            if all(a < b + n and b < a + m for a, m, b, n in
                   zip(piece.offsets, piece.shape, other.offsets, other.shape, strict=True)):  # fmt: skip
                return piece, other
    return (pieces[0], pieces[1]) if len(pieces) > 1 and not pieces[0].shape else None
