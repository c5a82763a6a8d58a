"""Every view: any slice gives what the whole gives, and the whole is what NumPy, or torch, makes of whole arrays."""

from __future__ import annotations

import pickle
from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from packed_checkpoints import bits_of, read_bits, tiny_config, write_safetensors_checkpoint

from convert.checkpoint import SourceFiles, matrix_shape, open_checkpoint
from convert.checkpoint.columns import Padded, SwappedColumns
from convert.checkpoint.decay import Decay
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
from convert.stream.slices import row_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from convert.checkpoint import Tensor

    Stored = Mapping[str, Tensor]
    Bits = NDArray[Any]

SHAPES: Final = {
    "f16": ((24, 5), torch.float16),
    "bf16": ((24, 5), torch.bfloat16),
    "f32": ((24, 5), torch.float32),
    "other": ((18, 5), torch.float16),
    "twin": ((24, 5), torch.float16),
    "stack": ((3, 8, 5), torch.float16),
    "stack-of-12": ((6, 12), torch.float16),
    "vector": ((24,), torch.float16),
    "vector-twin": ((24,), torch.float16),
    "vector-f32": ((24,), torch.float32),
    "vector-bf16": ((24,), torch.bfloat16),
    "heads": ((36, 7), torch.bfloat16),  # (heads, 3, head_dim) rows, or (heads, nope + v)
    "wide": ((1030, 1025), torch.float16),  # more than is read at a time
}
VALUES: Final = {
    name: torch.randn(shape, generator=torch.Generator().manual_seed(index), dtype=torch.float32).to(dtype)
    for index, (name, (shape, dtype)) in enumerate(SHAPES.items())
}
BITS: Final = {name: bits_of(values) for name, values in VALUES.items()}
NUMBERS: Final = np.array([1, -0.0, 3.5, 1e-40, 8], "<f4")


@dataclass(frozen=True)
class Case:
    """A view, the bits of the whole, and the stored tensors it is made of.

    reads_once: slices at multiples of the row unit read no byte twice.
    """

    view: Callable[[Stored], Tensor]
    expected: Callable[[], Bits]
    leaves: tuple[str, ...]
    reads_once: bool = True


def third(stored: Stored, index: int) -> Tensor:
    """Q, K or V of BLOOM: rows (heads, 3, head_dim)."""
    return Blocks(stored["heads"], "part", (12, 7), period=9, first=3 * index, n_taken=3)


def thirds() -> Bits:
    return BITS["heads"].reshape(4, 3, 3, 7)


def without_v(stored: Stored) -> Tensor:
    """MLA's k_b before it is transposed: (heads, nope + v, rank), without v."""
    return Blocks(stored["heads"], "k_b", (4, 5, 7), period=9, first=0, n_taken=5)


def decay_of(name: str) -> Bits:
    values = VALUES[name].double().exp().neg()
    return bits_of(values.to(torch.float16 if VALUES[name].dtype is torch.float16 else torch.float32))


CASES: Final = {
    "columns, swapped": Case(
        lambda stored: SwappedColumns(stored["stack-of-12"], "swapped", 2, 3, 2),
        lambda: BITS["stack-of-12"].reshape(6, 2, 3, 2).swapaxes(1, 2).reshape(6, 12),
        ("stack-of-12",),
    ),
    "padded": Case(
        lambda stored: Padded(stored["bf16"], "padded", (30, 5)),
        lambda: np.concatenate([BITS["bf16"], np.zeros((6, 5), BITS["bf16"].dtype)]),
        ("bf16",),
    ),
    "decay, float16": Case(lambda stored: Decay(stored["vector"], "a"), lambda: decay_of("vector"), ("vector",)),
    "decay, bfloat16": Case(
        lambda stored: Decay(stored["vector-bf16"], "a"), lambda: decay_of("vector-bf16"), ("vector-bf16",)
    ),
    "rows": Case(lambda stored: Rows(stored["f16"], "cut", (7, 5), 4), lambda: BITS["f16"][4:11], ("f16",)),
    "rows, all": Case(lambda stored: Rows(stored["f16"], "named", (24, 5)), lambda: BITS["f16"], ("f16",)),
    "rows, seen in 3-D": Case(
        lambda stored: Rows(stored["f16"], "seen", (2, 12, 5)), lambda: BITS["f16"].reshape(2, 12, 5), ("f16",)
    ),
    "rows of a vector": Case(
        lambda stored: Rows(stored["vector"], "cut", (9,), 3), lambda: BITS["vector"][3:12], ("vector",)
    ),
    "rows, an expert": Case(
        lambda stored: Rows(stored["stack"], "expert", (8, 5), 8), lambda: BITS["stack"][1], ("stack",)
    ),
    "rows, one as a vector": Case(
        lambda stored: Rows(stored["f16"], "bias", (5,), 6), lambda: BITS["f16"][6], ("f16",)
    ),
    "rows, a vector as a matrix": Case(
        lambda stored: Rows(stored["vector"], "seen", (4, 5), 2),
        lambda: BITS["vector"][2:22].reshape(4, 5),
        ("vector",),
    ),
    "blocks": Case(
        lambda stored: Blocks(stored["f16"], "cut", (8, 5), period=6, first=2, n_taken=2),
        lambda: BITS["f16"].reshape(4, 6, 5)[:, 2:4].reshape(8, 5),
        ("f16",),
    ),
    "blocks of a vector": Case(
        lambda stored: Blocks(stored["vector"], "cut", (16,), period=6, first=1, n_taken=4),
        lambda: BITS["vector"].reshape(4, 6)[:, 1:5].reshape(16),
        ("vector",),
    ),
    "interleaved": Case(
        lambda stored: interleaved(stored["f16"], 6),
        lambda: BITS["f16"].reshape(4, 2, 3, 5).swapaxes(1, 2).reshape(24, 5),
        ("f16",),
    ),
    "interleaved vector": Case(
        lambda stored: interleaved(stored["vector"], 8),
        lambda: BITS["vector"].reshape(3, 2, 4).swapaxes(1, 2).reshape(24),
        ("vector",),
    ),
    "swapped": Case(
        lambda stored: Swapped(stored["stack"], "swapped", 4, 2),
        lambda: BITS["stack"].reshape(3, 4, 2, 5).swapaxes(1, 2).reshape(3, 8, 5),
        ("stack",),
    ),
    "swapped, inner rows": Case(
        lambda stored: Swapped(stored["f16"], "swapped", 2, 3, 2),
        lambda: BITS["f16"].reshape(2, 2, 3, 2, 5).swapaxes(1, 2).reshape(24, 5),
        ("f16",),
    ),
    "concatenated": Case(
        lambda stored: concatenated("all", (stored["f16"], stored["other"])),
        lambda: np.concatenate([BITS["f16"], BITS["other"]]),
        ("f16", "other"),
    ),
    "concatenated vectors": Case(
        lambda stored: concatenated("all", (stored["vector"], stored["vector-twin"])),
        lambda: np.concatenate([BITS["vector"], BITS["vector-twin"]]),
        ("vector", "vector-twin"),
    ),
    "stacked": Case(
        lambda stored: stacked("all", (stored["f16"], stored["twin"])),
        lambda: np.stack([BITS["f16"], BITS["twin"]]),
        ("f16", "twin"),
    ),
    "stacked stacks": Case(
        lambda stored: stacked("all", (stored["stack"], stored["stack"])),
        lambda: np.stack([BITS["stack"], BITS["stack"]]),
        ("stack", "stack"),
    ),
    "stacked vectors": Case(
        lambda stored: stacked("all", (stored["vector-twin"], stored["vector"])),
        lambda: np.stack([BITS["vector-twin"], BITS["vector"]]),
        ("vector-twin", "vector"),
    ),
    "transposed": Case(lambda stored: Transposed(stored["f16"], "t"), lambda: BITS["f16"].T, ("f16",)),
    "transposed, 3-D": Case(
        lambda stored: Transposed(stored["stack"], "t"), lambda: BITS["stack"].swapaxes(1, 2), ("stack",)
    ),
    "transposed, large": Case(
        lambda stored: Transposed(stored["wide"], "t"), lambda: BITS["wide"].T, ("wide",), reads_once=False
    ),
    **{
        f"shifted {name}": Case(
            lambda stored, name=name: Shifted(stored[name], name, 1.0),  # type: ignore[misc]
            lambda name=name: bits_of(  # type: ignore[misc]
                VALUES[name] + 1 if VALUES[name].dtype is torch.float16 else VALUES[name].float() + 1
            ),
            (name,),
        )
        for name in ("f16", "bf16", "f32", "vector", "vector-bf16", "vector-f32")
    },
    **{
        f"as float32 {name}": Case(
            lambda stored, name=name: AsFloat32(stored[name], name),  # type: ignore[misc]
            lambda name=name: bits_of(VALUES[name].float()),  # type: ignore[misc]
            (name,),
        )
        for name in ("f16", "bf16", "f32", "vector", "stack")
    },
    "constant": Case(lambda _: Constant("numbers", NUMBERS.tobytes()), lambda: NUMBERS.view("<u4"), ("numbers",)),
    "concatenated blocks": Case(
        lambda stored: concatenated("qkv", tuple(third(stored, index) for index in range(3))),
        lambda: np.concatenate([thirds()[:, index].reshape(12, 7) for index in range(3)]),
        ("heads",) * 3,
    ),
    "transposed blocks": Case(
        lambda stored: Transposed(without_v(stored), "k_b"),
        lambda: BITS["heads"].reshape(4, 9, 7)[:, :5].swapaxes(1, 2),
        ("heads",),
    ),
    "interleaved blocks": Case(
        lambda stored: interleaved(Rows(without_v(stored), "k", (20, 7)), 10),
        lambda: BITS["heads"].reshape(4, 9, 7)[:, :5].reshape(2, 2, 5, 7).swapaxes(1, 2).reshape(20, 7),
        ("heads",),
    ),
    "stacked interleaved": Case(
        lambda stored: stacked("all", (interleaved(stored["f16"], 6), interleaved(stored["twin"], 6))),
        lambda: np.stack([BITS[name].reshape(4, 2, 3, 5).swapaxes(1, 2).reshape(24, 5) for name in ("f16", "twin")]),
        ("f16", "twin"),
    ),
    "rows of stacked": Case(
        lambda stored: Rows(stacked("all", (stored["f16"], stored["twin"])), "cut", (20, 5), 14),
        lambda: np.concatenate([BITS["f16"], BITS["twin"]])[14:34],
        ("f16", "twin"),
    ),
    "rows of stacked vectors": Case(
        lambda stored: Rows(stacked("all", (stored["vector"], stored["vector-twin"])), "bias", (24,), 1),
        lambda: BITS["vector-twin"],
        ("vector", "vector-twin"),
        reads_once=False,  # of two rows, the second is read
    ),
    "concatenated of several row units": Case(
        lambda stored: concatenated(
            "all", (interleaved(stored["f16"], 4), interleaved(stored["twin"], 6), stored["other"])
        ),
        lambda: np.concatenate(
            [
                BITS["f16"].reshape(6, 2, 2, 5).swapaxes(1, 2).reshape(24, 5),
                BITS["twin"].reshape(4, 2, 3, 5).swapaxes(1, 2).reshape(24, 5),
                BITS["other"],
            ]
        ),
        ("f16", "twin", "other"),
    ),
    "shifted transposed": Case(
        lambda stored: Shifted(Transposed(stored["bf16"], "t"), "t", 1.0),
        lambda: bits_of(VALUES["bf16"].float().T + 1),
        ("bf16",),
    ),
    "interleaved float32 of rows": Case(
        lambda stored: interleaved(AsFloat32(Rows(stored["bf16"], "cut", (16, 5), 3), "cut"), 8),
        lambda: bits_of(VALUES["bf16"].float()[3:19].reshape(2, 2, 4, 5).swapaxes(1, 2).reshape(16, 5)),
        ("bf16",),
    ),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("views") / "model"
    return open_checkpoint(write_safetensors_checkpoint(folder, tiny_config(), VALUES)).tensors


def read_slice(tensor: Tensor, files: SourceFiles, rows: range) -> Bits:
    """Read rows into memory that holds something else."""
    out = np.full((len(rows), matrix_shape(tensor.shape)[1] * tensor.dtype.itemsize), 0xA5, np.uint8)
    tensor.read_rows(files, rows.start, out)
    return out.view(f"<u{tensor.dtype.itemsize}")


def some_rows(n_rows: int) -> list[range]:
    """Each row for itself, or some of many; and slices of any length, anywhere."""
    random = np.random.default_rng(n_rows)
    single = random.choice(n_rows, min(n_rows, 48), replace=False)
    bounds = [sorted(random.choice(n_rows + 1, 2, replace=False)) for _ in range(48)]
    return [range(row, row + 1) for row in single] + [range(start, stop) for start, stop in bounds]


@pytest.mark.parametrize("case", CASES)
def test_the_whole_is_numpys(case: str, stored: Stored) -> None:
    view = CASES[case].view(stored)
    expected = CASES[case].expected()
    assert (view.shape, view.dtype.itemsize) == (expected.shape, expected.itemsize)
    np.testing.assert_array_equal(read_bits(view), expected)


@pytest.mark.parametrize("case", CASES)
def test_any_slice_is_that_of_the_whole(case: str, stored: Stored) -> None:
    view = CASES[case].view(stored)
    n_rows, n_cols = matrix_shape(view.shape)
    whole = CASES[case].expected().reshape(n_rows, n_cols)
    with closing(SourceFiles()) as files:
        for rows in [*some_rows(n_rows), *row_ranges(view)]:
            np.testing.assert_array_equal(
                read_slice(view, files, rows), whole[rows.start : rows.stop], err_msg=str(rows)
            )


@pytest.mark.parametrize("case", CASES)
def test_nbytes_are_those_of_the_files_and_leaves_are_stored(case: str, stored: Stored) -> None:
    view = CASES[case].view(stored)
    assert tuple(leaf.name for leaf in leaves(view)) == CASES[case].leaves
    itemsize = 0 if isinstance(view, Constant) else next(leaves(view)).dtype.itemsize
    in_files = sum(leaf.nbytes for leaf in leaves(view))  # rows of zeros are in no file
    assert view.nbytes == min(prod(view.shape) * itemsize, in_files)


@pytest.mark.parametrize("case", CASES)
def test_a_view_pickles(case: str, stored: Stored) -> None:
    view = CASES[case].view(stored)
    sent = pickle.loads(pickle.dumps(view))
    assert sent == view
    np.testing.assert_array_equal(read_bits(sent, rows_at_a_time=3), read_bits(view))


class CountedFiles(SourceFiles):
    """Counts the bytes that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def read_into(self, path: Path, position: int, out: Bits, *, name: str) -> None:
        """See SourceFiles."""
        self.nbytes += out.nbytes
        super().read_into(path, position, out, name=name)


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.reads_once])
def test_slices_at_multiples_of_the_row_unit_read_no_byte_twice(case: str, stored: Stored) -> None:
    view = CASES[case].view(stored)
    n_rows, unit = matrix_shape(view.shape)[0], row_unit(view)
    with closing(CountedFiles()) as files:
        for first in range(0, n_rows, unit):
            read_slice(view, files, range(first, min(first + unit, n_rows)))
        assert files.nbytes == view.nbytes
