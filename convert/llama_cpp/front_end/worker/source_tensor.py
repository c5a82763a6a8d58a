"""Our tensors as upstream wants them: `name`, `dtype`, `shape` and `mmap_bytes()`.

Source: gguf-py/gguf/utility.py, LocalTensor; conversion/base.py, LazyTorchTensor.from_local_tensor @ 0c1e570.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.checkpoint import SourceFiles, StoredType, TensorSource, matrix_shape
from convert.checkpoint.source_files import stored_in
from convert.remote import is_stand_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convert.checkpoint import Tensor


class TooMuchMemoryError(Exception):
    """More would be read at once than is allowed."""


class ElsewhereError(Exception):
    """Weights are not on this disk, and there is no network in here."""


@dataclass(slots=True)
class Loaded:
    """What definitions have read already while they planned: by name, and how many bytes."""

    max_nbytes: int | None
    names: set[str] = field(default_factory=set)
    nbytes: int = 0
    is_planning: bool = True

    def add(self, name: str, nbytes: int) -> None:
        """Note a tensor that is read."""
        if not self.is_planning:
            return
        self.names.add(name)
        self.nbytes += nbytes
        if self.max_nbytes is not None and self.nbytes > self.max_nbytes:
            raise TooMuchMemoryError(f"this definition reads {self.nbytes} bytes and more before it writes any")


class SourceTensor:
    """A tensor of our reader, under the name that the checkpoint has for it."""

    def __init__(self, tensor: Tensor, name: str, loaded: Loaded) -> None:
        assert isinstance(tensor.dtype, StoredType)  # noqa: S101 - a checkpoint's
        self.name = name
        self.dtype = tensor.dtype.value
        self.shape = tensor.shape
        self.nbytes = prod(tensor.shape) * tensor.dtype.itemsize
        self._tensor = tensor
        self._loaded = loaded

    def mmap_bytes(self) -> NDArray[Any]:
        """Give all bytes: uint8 (nbytes,), mapped where they lie in a file as they are."""
        self._loaded.add(self.name, self.nbytes)
        tensor = self._tensor
        if not self.nbytes:
            return np.empty(0, np.uint8)
        if any(is_stand_in(stored.path) for stored in stored_in(tensor)):
            raise ElsewhereError(f"this definition of llama.cpp's computes with the values of `{self.name}`")
        if isinstance(tensor, TensorSource) and not tensor.is_transposed:
            return np.memmap(tensor.path, np.uint8, "c", tensor.offset, (self.nbytes,))
        out = np.empty(self.nbytes, np.uint8)
        with closing(SourceFiles()) as files:
            tensor.read_rows(files, 0, out.reshape(matrix_shape(tensor.shape)[0], -1))
        return out
