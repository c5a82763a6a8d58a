"""Views of tensors: any slice gives what the whole gives, and that is what NumPy or torch makes of the whole array."""

from __future__ import annotations

import pickle
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from convert.checkpoint import SourceFiles, StoredType, Tensor, TensorSource, matrix_shape
from convert.checkpoint.views import (
    AsFloat32,
    Blocks,
    Constant,
    Rows,
    Shifted,
    Swapped,
    Transposed,
    concatenated,
    interleaved,
    leaves,
    row_unit,
    stacked,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

STORED: Final = {np.dtype("<f2"): StoredType.F16, np.dtype("<f4"): StoredType.F32}


@dataclass(frozen=True)
class Store:
    """A file that arrays are put into, and the tensors that lie there."""

    path: Path

    def put(self, array: Array, dtype: StoredType | None = None) -> TensorSource:
        """Append an array, as what `dtype` says its bytes are."""
        offset = self.path.stat().st_size if self.path.exists() else 0
        with self.path.open("ab") as file:
            file.write(array.tobytes())
        return TensorSource(f"at {offset}", self.path, offset, dtype or STORED[array.dtype], array.shape)


def _numbers(*shape: int, dtype: str = "<f2") -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def _torch_shifted(array: Array) -> Array:
    import torch

    values: list[float] = (torch.from_numpy(array) + 1.0).tolist()
    return np.array(values, array.dtype)


def _bloom(store: Store) -> tuple[Tensor, Array]:
    heads, size, width = 3, 4, 5
    array = _numbers(heads * 3 * size, width)
    base = store.put(array)
    parts = (Blocks(base, "p", (heads * size, width), 3 * size, part * size, size) for part in range(3))
    by_part = array.reshape(heads, 3, size, width).swapaxes(0, 1)
    return concatenated("qkv", tuple(parts)), by_part.reshape(-1, width)


def _latent_keys(store: Store) -> tuple[Tensor, Array]:
    heads, nope, v, rank = 3, 4, 2, 6
    array = _numbers(heads * (nope + v), rank)
    blocks = Blocks(store.put(array), "k", (heads, nope, rank), nope + v, 0, nope)
    return Transposed(blocks, "k"), array.reshape(heads, nope + v, rank)[:, :nope].swapaxes(1, 2)


def _rotary(array: Array, size: int) -> Array:
    moved: Array = array.reshape(-1, 2, size // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    return moved


def _stack(store: Store) -> tuple[Tensor, Array]:
    arrays = [_numbers(8, 3) + index for index in range(4)]
    return stacked("s", tuple(interleaved(store.put(array), 4) for array in arrays)), np.stack(
        [_rotary(array, 4) for array in arrays]
    )


def _window_of_stack(store: Store) -> tuple[Tensor, Array]:
    view, whole = _stack(store)
    return Rows(view, "w", (8, 3), 16), whole[2]


def _swapped(store: Store) -> tuple[Tensor, Array]:
    array = _numbers(24, 5)
    view = Swapped(store.put(array), "x", 2, 3, inner=2)
    return view, array.reshape(2, 2, 3, 2, 5).swapaxes(1, 2).reshape(24, 5)


def _vector(store: Store) -> tuple[Tensor, Array]:
    array = _numbers(12)
    return interleaved(store.put(array), 6), _rotary(array, 6)


def _transposed(store: Store) -> tuple[Tensor, Array]:
    array = _numbers(7, 9, dtype="<f4")
    return Transposed(store.put(array), "t"), array.T


def _shifted(dtype: str) -> Callable[[Store], tuple[Tensor, Array]]:
    def make(store: Store) -> tuple[Tensor, Array]:
        array = _numbers(33, dtype=dtype)
        return Shifted(store.put(array), "n", 1.0), _torch_shifted(array)

    return make


def _shifted_bfloat16(store: Store) -> tuple[Tensor, Array]:
    upper = (_numbers(33, dtype="<f4").view("<u4") >> 16).astype("<u2")
    values = (upper.astype("<u4") << 16).view("<f4")
    return Shifted(store.put(upper, StoredType.BF16), "n", 1.0), values + np.float32(1)


def _as_float32(store: Store) -> tuple[Tensor, Array]:
    array = _numbers(6, 4)
    return AsFloat32(store.put(array), "f"), array.astype("<f4")


def _constant(_store: Store) -> tuple[Tensor, Array]:
    array = _numbers(9, dtype="<f4")
    return Constant("c", array.tobytes()), array


def _mixed_units(store: Store) -> tuple[Tensor, Array]:
    first, second = _numbers(6, 3), _numbers(8, 3)
    return concatenated("m", (store.put(first), interleaved(store.put(second), 8))), np.concatenate(
        [first, _rotary(second, 8)]
    )


CASES: Final[dict[str, Callable[[Store], tuple[Tensor, Array]]]] = {
    "fused query, key and value": _bloom,
    "latent keys, cut and transposed": _latent_keys,
    "a stack of interleaved matrices": _stack,
    "a window of that stack": _window_of_stack,
    "swapped, with rows that stay together": _swapped,
    "a vector": _vector,
    "a transposed matrix": _transposed,
    "a shifted norm, float16": _shifted("<f2"),
    "a shifted norm, float32": _shifted("<f4"),
    "a shifted norm, bfloat16": _shifted_bfloat16,
    "in float32": _as_float32,
    "a constant": _constant,
    "parts of different row units": _mixed_units,
}


def _read(tensor: Tensor, rows: range) -> Array:
    assert isinstance(tensor.dtype, StoredType)
    n_cols = matrix_shape(tensor.shape)[1]
    out = np.empty((len(rows), n_cols * tensor.dtype.itemsize), np.uint8)
    with closing(SourceFiles()) as files:
        tensor.read_rows(files, rows.start, out)
    return out.view({2: "<f2", 4: "<f4"}[tensor.dtype.itemsize])


@pytest.mark.parametrize("name", CASES)
def test_a_view_is_what_numpy_makes_of_the_whole(name: str, tmp_path: Path) -> None:
    view, whole = CASES[name](Store(tmp_path / "values"))
    assert view.shape == whole.shape
    n_rows, n_cols = matrix_shape(view.shape)
    read = _read(view, range(n_rows))
    assert read.dtype == whole.dtype
    assert read.tobytes() == np.ascontiguousarray(whole).tobytes()
    assert n_rows % row_unit(view) == 0 or row_unit(view) <= n_rows
    assert n_cols == whole.reshape(n_rows, -1).shape[1]


@pytest.mark.parametrize("name", CASES)
def test_any_slice_of_a_view_is_that_of_the_whole(name: str, tmp_path: Path) -> None:
    view, _ = CASES[name](Store(tmp_path / "values"))
    n_rows = matrix_shape(view.shape)[0]
    whole = _read(view, range(n_rows))
    for first in range(n_rows):
        for end in range(first + 1, n_rows + 1):
            assert _read(view, range(first, end)).tobytes() == whole[first:end].tobytes(), (first, end)


@pytest.mark.parametrize("name", CASES)
def test_a_view_pickles_and_knows_what_it_is_made_of(name: str, tmp_path: Path) -> None:
    view, _ = CASES[name](Store(tmp_path / "values"))
    again = pickle.loads(pickle.dumps(view))
    assert again == view
    rows = range(matrix_shape(view.shape)[0])
    assert _read(again, rows).tobytes() == _read(view, rows).tobytes()
    stored = [leaf for leaf in leaves(view) if isinstance(leaf, TensorSource)]
    assert all(leaf.path == tmp_path / "values" for leaf in stored)
    assert view.nbytes <= sum(leaf.nbytes for leaf in stored)
    assert bool(stored) == (name != "a constant")
