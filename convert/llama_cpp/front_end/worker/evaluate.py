"""A lazy tensor's values, and what computing them takes; nothing is kept in the graph: any may be asked for again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convert.llama_cpp.front_end.worker.graph import nodes
from convert.llama_cpp.front_end.worker.source_tensor import SourceTensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def values_of(tensor: Any) -> NDArray[Any]:  # noqa: ANN401 - upstream's
    """Compute a tensor of the writer: a contiguous array."""
    if hasattr(tensor, "_chunks"):  # LazyChunkedTensor: rows, a chunk at a time
        return np.concatenate([np.asarray(chunk()).reshape(-1) for chunk in tensor._chunks])  # noqa: SLF001
    return np.ascontiguousarray(_values(tensor, {}))


def _values(node: Any, known: dict[int, Any]) -> Any:  # noqa: ANN401
    if isinstance(node, (list, tuple)):
        return type(node)(_values(item, known) for item in node)
    if not hasattr(node, "_func"):
        return node
    if node._data is not None:  # noqa: SLF001
        return node._data  # noqa: SLF001
    if id(node) not in known:
        args = tuple(_values(item, known) for item in node._args)  # noqa: SLF001
        known[id(node)] = node._func(*args, **node._kwargs)  # noqa: SLF001
    return known[id(node)]


def nbytes_to_compute(tensor: Any) -> int:  # noqa: ANN401
    """Bound the memory that `values_of` takes: every node's values at once, and what is read for them."""
    if hasattr(tensor, "_chunks"):
        return 2 * int(tensor.nbytes)
    if isinstance(tensor, np.ndarray):
        return 0
    found = 0
    for node in nodes(tensor):
        if node._data is None:  # noqa: SLF001
            found += _nbytes(node._meta)  # noqa: SLF001
            found += sum(item.nbytes for item in node._args if isinstance(item, SourceTensor))  # noqa: SLF001
    return found


def nbytes_kept(tensor: Any) -> int:  # noqa: ANN401
    """Count what a tensor that was computed while planning holds already."""
    if isinstance(tensor, np.ndarray):
        return int(tensor.nbytes)
    if hasattr(tensor, "_chunks"):
        return 0
    return sum(_nbytes(node._data) for node in nodes(tensor) if node._data is not None)  # noqa: SLF001


def _nbytes(values: Any) -> int:  # noqa: ANN401
    nbytes: int = int(np.prod(tuple(values.shape), dtype=np.int64)) * _itemsize(values.dtype)
    return nbytes


def _itemsize(dtype: Any) -> int:  # noqa: ANN401
    return int(dtype.itemsize)
