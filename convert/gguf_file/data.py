"""What a GGUF header says, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

from convert.codec import row_nbytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gguf import GGMLQuantizationType, GGUFValueType

ALIGNMENT: Final = 32  # GGUF_DEFAULT_ALIGNMENT


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One metadata entry.

    value: a str, bool, int or float as `type` says; for `GGUFValueType.ARRAY` a tuple of them
    (strings may be bytes), whose elements have `item_type` (inferred from the first when None).
    """

    key: str
    value: Any
    type: GGUFValueType
    item_type: GGUFValueType | None = None


Entry = tuple[KeyValue, bytes]  # a metadata entry, and the same as it stands in the file


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies in a GGUF file.

    shape: NumPy order. offset: bytes from the start of the file. nbytes: without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int


def padded(nbytes: int, alignment: int = ALIGNMENT) -> int:
    """Round up to a multiple of the alignment."""
    return -(-nbytes // alignment) * alignment


def tensor_nbytes(shape: Sequence[int], tensor_type: GGMLQuantizationType) -> int:
    """Count the bytes of a tensor's data.

    Raises ShapeError if the last dimension is not a multiple of the type's block size.
    """
    return prod(shape[:-1]) * row_nbytes(tensor_type, shape[-1] if shape else 1)


def scale_name(weight: str) -> str:
    """Name the tensor of what llama.cpp multiplies with besides a weight, where there is one: `X.scale` of `X.weight`.

    Source: src/llama-model.cpp, llama_model_base::load_tensors @ 0c1e570.
    """
    return weight.removesuffix("weight") + "scale"
