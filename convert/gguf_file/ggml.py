"""Files of llama.cpp before GGUF (August 2023): GGML, GGMF and GGJT, all little endian.

    magic                `lmgg`; or `fmgg` and version 1; or `tjgg` and version 1 to 3: what is called ggmlv3
    7 x u32              n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, file type
    vocabulary           n_vocab times: u32 length, the bytes, f32 score (not in `lmgg`)
    tensors, to the end  u32 n_dims, length of the name, type; n_dims x u32, columns first; the name; then the data, in
                         `tjgg` at a multiple of 32

Names are Meta's. Blocks changed before version 3 of GGJT: older quantized files cannot be kept.
Source: convert_llama_ggml_to_gguf.py @ 0c1e570.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, BinaryIO, Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from convert.errors import CheckpointError, UnsupportedError
from convert.gguf_file.data import TensorInfo, padded
from convert.shown import shown

if TYPE_CHECKING:
    from pathlib import Path

MAGICS: Final = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT"}
_MAX_TEXT_NBYTES: Final = 4096
_MAX_TOKENS: Final = 1 << 20
_MAX_TENSORS: Final = 1 << 16
_ALIGNMENT: Final = 32
_FLOATS: Final = ("ALL_F32", "MOSTLY_F16")
# ftype → name; those before GGJT 3 whose blocks are no longer read.
FILE_TYPES: Final = {
    0: "ALL_F32", 1: "MOSTLY_F16", 2: "MOSTLY_Q4_0", 3: "MOSTLY_Q4_1", 4: "MOSTLY_Q4_1_SOME_F16", 7: "MOSTLY_Q8_0",
    8: "MOSTLY_Q5_0", 9: "MOSTLY_Q5_1", 10: "MOSTLY_Q2_K", 11: "MOSTLY_Q3_K_S", 12: "MOSTLY_Q3_K_M",
    13: "MOSTLY_Q3_K_L", 14: "MOSTLY_Q4_K_S", 15: "MOSTLY_Q4_K_M", 16: "MOSTLY_Q5_K_S", 17: "MOSTLY_Q5_K_M",
    18: "MOSTLY_Q6_K",
}  # fmt: skip
_CHANGED_IN_3: Final = (2, 3, 4, 7)


@dataclass(frozen=True, slots=True)
class GGMLFile:
    """A file's header. tensors: in file order, shapes in NumPy's, offsets from the start of the file."""

    path: Path
    version: str
    n_embd: int
    n_head: int
    n_layer: int
    file_type: int
    vocabulary: tuple[tuple[bytes, float], ...]
    tensors: tuple[TensorInfo, ...]


def is_ggml(path: Path) -> bool:
    """Whether a file begins as one of these."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in MAGICS


def read_ggml(path: Path) -> GGMLFile:
    """Read and check a file's headers, of which one stands before each tensor; no weight is read.

    Raises CheckpointError for a broken or truncated file, UnsupportedError for a version or blocks that are not read.
    """
    with path.open("rb") as file:
        return _read(_Reader(path, file, path.stat().st_size))


class _Reader:
    """Takes values one after the other, each checked to be there."""

    def __init__(self, path: Path, file: BinaryIO, nbytes: int) -> None:
        self.path, self.nbytes, self.position = path, nbytes, 0
        self._file = file

    def take(self, nbytes: int, what: str) -> bytes:
        data = self._file.read(nbytes)
        if len(data) < nbytes:
            raise self.broken(f"{what} needs {nbytes} bytes at {self.position}, the file has {self.nbytes}")
        self.position += nbytes
        return data

    def numbers(self, count: int, what: str) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self.take(4 * count, what))

    def text(self, nbytes: int, what: str) -> bytes:
        if nbytes > _MAX_TEXT_NBYTES:
            raise self.broken(f"{what} has {nbytes} bytes, at most {_MAX_TEXT_NBYTES} are possible")
        return self.take(nbytes, what)

    def skip_to(self, position: int, what: str) -> None:
        if position > self.nbytes:
            raise self.broken(f"{what} reaches to byte {position}, the file has {self.nbytes}")
        self._file.seek(position)
        self.position = position

    def broken(self, what: str) -> CheckpointError:
        return CheckpointError(f"{shown(self.path)} is not a sound GGML file: {what}")


def _read(reader: _Reader) -> GGMLFile:
    kind = MAGICS.get(reader.take(4, "magic"), "none")
    (version,) = (1,) if kind == "GGML" else reader.numbers(1, "version")
    name = f"{kind}v{version}"
    if version not in {"GGML": (1,), "GGMF": (1,), "GGJT": (1, 2, 3)}.get(kind, ()):
        raise UnsupportedError(f"{shown(reader.path)} is {name}, which is not known")
    n_vocab, n_embd, _, n_head, n_layer, _, file_type = reader.numbers(7, "hyperparameters")
    if file_type not in FILE_TYPES or not 0 < n_head <= n_embd or n_embd % n_head or not 0 < n_vocab <= _MAX_TOKENS:
        raise reader.broken(f"{n_vocab} tokens, a width of {n_embd}, {n_head} heads, file type {file_type}")
    _refuse_old(reader, name, file_type)
    vocabulary = tuple(_token(reader, has_score=kind != "GGML") for _ in range(n_vocab))
    tensors: list[TensorInfo] = []
    while reader.position < reader.nbytes and len(tensors) < _MAX_TENSORS:
        tensors.append(_tensor(reader, is_aligned=kind == "GGJT"))
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise reader.broken("two tensors have the same name")
    return GGMLFile(reader.path, name, n_embd, n_head, n_layer, file_type, vocabulary, tuple(tensors))


def _refuse_old(reader: _Reader, version: str, file_type: int) -> None:
    is_kept = version == "GGJTv3" or FILE_TYPES[file_type] in _FLOATS
    if not is_kept and (version != "GGJTv2" or file_type in _CHANGED_IN_3):
        raise UnsupportedError(
            f"{shown(reader.path)} is {version} in {FILE_TYPES[file_type]}, whose blocks are no longer those of today",
            hint="get the model in f16, or a newer file",
        )


def _token(reader: _Reader, *, has_score: bool) -> tuple[bytes, float]:
    (nbytes,) = reader.numbers(1, "token")
    text = reader.text(nbytes, "token")
    score: float = struct.unpack("<f", reader.take(4, "score"))[0] if has_score else 0.0
    return text, score


def _tensor(reader: _Reader, *, is_aligned: bool) -> TensorInfo:
    n_dims, name_nbytes, code = reader.numbers(3, "tensor")
    if n_dims not in (1, 2):
        raise reader.broken(f"a tensor has {n_dims} dimensions, wanted 1 or 2")
    shape = reader.numbers(n_dims, "dimensions")[::-1]
    name = reader.text(name_nbytes, "name of a tensor").decode(errors="replace")
    kind = next((kind for kind in GGML_QUANT_SIZES if kind == code), None)
    if kind is None:
        raise reader.broken(f"tensor {shown(name)} is of the type {code}, which is not known")
    block, block_nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    if 0 in shape or shape[-1] % block:
        raise reader.broken(f"tensor {shown(name)} has shape {shape}, {kind.name} needs rows of {block}")
    start = padded(reader.position, _ALIGNMENT) if is_aligned else reader.position
    nbytes = prod(shape) // block * block_nbytes
    reader.skip_to(start + nbytes, f"tensor {shown(name)}")
    return TensorInfo(name, shape, kind, start, nbytes)
