"""What a checkpoint is, once opened: names, types, shapes and places of tensors. It never holds their bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

from convert.checkpoint.source_files import RowSource
from convert.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gguf import GGMLQuantizationType

    from convert.checkpoint.source_files import SourceFiles, U8Array

Shape = tuple[int, ...]


class StoredType(Enum):
    """How a checkpoint stores a number, spelled as safetensors spells it; always little endian."""

    F64 = "F64"
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    F8_E4M3 = "F8_E4M3"
    F8_E5M2 = "F8_E5M2"
    F8_E4M3FNUZ = "F8_E4M3FNUZ"
    F8_E5M2FNUZ = "F8_E5M2FNUZ"
    F8_E8M0 = "F8_E8M0"
    I64 = "I64"
    I32 = "I32"
    I16 = "I16"
    I8 = "I8"
    U64 = "U64"
    U32 = "U32"
    U16 = "U16"
    U8 = "U8"
    BOOL = "BOOL"

    @property
    def itemsize(self) -> int:
        """Bytes one number takes."""
        return _ITEMSIZES[self]


# torch's names of the types that a model computes in, as configs spell them.
TORCH_FLOATS: Final = {"float32": StoredType.F32, "float16": StoredType.F16, "bfloat16": StoredType.BF16}
TORCH_NAMES: Final = {dtype: name for name, dtype in TORCH_FLOATS.items()}

_ITEMSIZES: Final = {
    StoredType.F64: 8,
    StoredType.F32: 4,
    StoredType.F16: 2,
    StoredType.BF16: 2,
    StoredType.F8_E4M3: 1,
    StoredType.F8_E5M2: 1,
    StoredType.F8_E4M3FNUZ: 1,
    StoredType.F8_E5M2FNUZ: 1,
    StoredType.F8_E8M0: 1,
    StoredType.I64: 8,
    StoredType.I32: 4,
    StoredType.I16: 2,
    StoredType.I8: 1,
    StoredType.U64: 8,
    StoredType.U32: 4,
    StoredType.U16: 2,
    StoredType.U8: 1,
    StoredType.BOOL: 1,
}


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """View a tensor as (n_rows, n_cols): a vector's elements are its rows, so that a transform can move them."""
    if len(shape) == 1:
        return shape[0], 1
    return math.prod(shape[:-1]), math.prod(shape[-1:])


class Tensor(RowSource, Protocol):
    """A tensor of the model, wherever its values come from; `read_rows` gives them as `dtype`."""

    @property
    def dtype(self) -> StoredType | GGMLQuantizationType:
        """The type of the values that `read_rows` gives; GGML's for what lies in a GGUF file."""

    @property
    def shape(self) -> Shape:
        """The model's shape, not that of packed bytes."""


if TYPE_CHECKING:
    Arrange = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class TensorSource:
    """Where one tensor's bytes lie: `nbytes` bytes from `offset` in `path`, contiguous, C order, little endian.

    is_transposed: a matrix whose bytes are those of its transpose, in C order, as `torch.save` leaves a `.T`.
    The bytes were inside the file when it was opened.
    """

    name: str
    path: Path
    offset: int
    dtype: StoredType
    shape: tuple[int, ...]
    is_transposed: bool = False

    @property
    def n_elements(self) -> int:
        """Numbers in the tensor: 1 for a scalar, 0 if a dimension is 0."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes the tensor takes in its file."""
        return self.n_elements * self.dtype.itemsize

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        if self.is_transposed:
            self._read_columns(files, first, out.reshape(len(out), -1, self.dtype.itemsize))
        else:
            files.read_into(self.path, self.offset + first * out.shape[1], out, name=self.name)

    def _read_columns(self, files: SourceFiles, first: int, out: U8Array) -> None:
        """Read rows that lie in the file as columns, a piece of each stored row at a time; such are rare."""
        import numpy as np  # noqa: PLC0415 - opening a checkpoint needs none

        piece = np.empty(out.shape[::2], np.uint8)
        for row in range(out.shape[1]):
            begin = (row * self.shape[0] + first) * self.dtype.itemsize
            files.read_into(self.path, self.offset + begin, piece, name=self.name)
            out[:, row] = piece


@dataclass(frozen=True, slots=True)
class StoredBlocks:
    """A tensor in a GGUF file: `nbytes` bytes from `offset` in `path`, of whatever type, as they lie there."""

    name: str
    path: Path
    offset: int
    nbytes: int
    shape: Shape
    dtype: GGMLQuantizationType

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        files.read_into(self.path, self.offset + first * out.shape[1], out, name=self.name)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file that tensors are read from, and its size when it was opened."""

    path: Path
    nbytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model directory, opened.

    tensors: by name, in the order llama.cpp's converter meets them: files sorted by name; within a safetensors file
        sorted by tensor name, within a torch file as saved.
    files: the files the tensors lie in.
    config: `config.json`, read once; what is wrong with it; or None where there is none.
    notes: what was decided without being asked: files passed over, prefixes removed; a line each, for the plan to show.
    arrange: how another program's tensors, decoded, become transformers'; None where they are. stated_tokenizer: the
        directory of the tokenizer's files, where it is not the checkpoint's.
    lacking: what is wrong if the model needs more than is there: shards or tensors are missing. absent: the tensors,
        where an index names them.
    """

    directory: Path
    tensors: Mapping[str, TensorSource]
    files: tuple[WeightFile, ...] = ()
    config: Mapping[str, Any] | ConfigError | None = None
    notes: tuple[str, ...] = ()
    lacking: CheckpointError | None = None
    absent: tuple[str, ...] = ()
    arrange: Arrange | None = None
    stated_tokenizer: Path | None = None

    @property
    def tokenizer(self) -> Path:
        """The directory of the tokenizer's files."""
        return self.stated_tokenizer or self.directory

    def require_whole(self) -> None:
        """Raise CheckpointError if something is missing; for whoever cannot tell what the model needs."""
        if self.lacking is not None:
            raise self.lacking

    @property
    def known_config(self) -> Mapping[str, Any]:
        """The config, as far as it is known; empty where it is missing or broken."""
        return {} if self.config is None or isinstance(self.config, ConfigError) else self.config

    def require_config(self) -> Mapping[str, Any]:
        """Return the config; ConfigError where there is none, or it is broken."""
        if isinstance(self.config, ConfigError):
            raise self.config
        if self.config is None:
            path = self.directory / "config.json"
            hint = "a checkpoint as transformers saves it has one beside its weights; copy it from the base model"
            raise ConfigError(f"`{path}` is missing", hint=hint)
        return self.config
