"""The types that look up a grid, IQ1 to IQ3: every level against ggml, and what ggml's own encoder aborts on."""

from __future__ import annotations

import faulthandler
import os
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from codec_cases import CASES, GRID_TYPES, IMPORTANCES, draw, draw_importance
from gguf import GGMLQuantizationType as Type
from test_codec_ggml import ggml_bytes

from convert.codec import CODECS, Importance, available_levels, compiled, encode_rows
from convert.codec.grids import grid_of
from convert.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

N_ROWS, N_COLS = 2, 768  # six super-blocks: no number of lanes divides them
NEEDING: Final = tuple(kind for kind in GRID_TYPES if CODECS[kind].needs_importance)
# Where no near point has a finite error, ggml's IQ1 goes on with whatever lies behind its weights, and need not abort.
READING_BEYOND: Final = (Type.IQ1_S, Type.IQ1_M)
ABORTING: Final = tuple(kind for kind in GRID_TYPES if kind not in (*READING_BEYOND, Type.IQ2_XXS))
named = pytest.mark.parametrize("tensor_type", GRID_TYPES, ids=lambda kind: kind.name)


def encode(
    rows: NDArray[np.float32], tensor_type: Type, importance: NDArray[np.float32] | None
) -> tuple[NDArray[np.uint8], int]:
    """Give the bytes, and how many blocks were refused."""
    n_rows, n_cols = rows.shape
    out = np.full(n_rows * CODECS[tensor_type].row_nbytes(n_cols), 0x55, np.uint8)
    bad = encode_rows(
        rows.reshape(-1).view(np.uint8),
        Type.F32,
        n_cols=n_cols,
        through_f16=False,
        targets=[(tensor_type, out)],
        importance=None if importance is None else Importance(importance, n_rows),
    )
    return out, bad.n_refused


def ggml_aborts(
    libggml_base: Path, rows: NDArray[np.float32], tensor_type: Type, importance: NDArray[np.float32] | None
) -> bool:
    """Ask ggml in a process of its own, silently."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        os.environ["GGML_NO_BACKTRACE"] = "1"
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        ggml_bytes(libggml_base, rows, tensor_type, importance)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.llama_cpp
@named
@pytest.mark.parametrize("case", CASES)
def test_every_level_gives_the_bytes_of_ggml_and_refuses_what_it_aborts_on(
    case: str, tensor_type: Type, libggml_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = draw(case, N_ROWS, N_COLS)
    importances = {name: draw_importance(name, 1, N_COLS) for name in IMPORTANCES}
    for name, importance in (importances if tensor_type in NEEDING else importances | {"none": None}).items():
        got = {}
        for level in available_levels():
            monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
            got[level] = encode(rows, tensor_type, importance)
        if any(n_refused for _, n_refused in got.values()):
            assert all(n_refused for _, n_refused in got.values()), name
            if tensor_type not in READING_BEYOND:
                assert ggml_aborts(libggml_base, rows, tensor_type, importance), name
            continue
        wanted = ggml_bytes(libggml_base, rows, tensor_type, importance)
        assert [level for level, (out, _) in got.items() if not np.array_equal(out, wanted)] == [], name


@pytest.mark.llama_cpp
@named
@pytest.mark.parametrize("level", available_levels()[:-1])
def test_many_weights_of_each_spread_give_the_bytes_of_ggml(
    level: str, tensor_type: Type, libggml_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
    rng = np.random.default_rng(13)
    spreads = (rng.normal(0, 0.02, 1 << 15), rng.standard_t(2, 1 << 15), rng.laplace(0, 1e-3, 1 << 15))
    rows = np.concatenate([*spreads, rng.integers(-40, 41, 1 << 15) / 64]).astype(np.float16).astype(np.float32)
    rows, importance = rows.reshape(-1, 4096), draw_importance("sums of squares", 1, 4096)
    got, n_refused = encode(rows, tensor_type, importance)
    assert n_refused == 0
    assert np.array_equal(got, ggml_bytes(libggml_base, rows, tensor_type, importance))


@pytest.mark.parametrize("tensor_type", ABORTING, ids=lambda kind: kind.name)
@pytest.mark.parametrize("level", available_levels())
def test_blocks_that_are_refused_are_counted(level: str, tensor_type: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
    rows, importance = draw("weights", 1, 1024), np.ones((1, 1024), np.float32)
    assert encode(rows, tensor_type, importance)[1] == 0
    importance[0, 256:512] = -1  # an error's root is taken
    assert encode(rows, tensor_type, importance)[1] > 0


@named
@pytest.mark.parametrize("level", available_levels())
def test_nonfinite_weights_crash_nothing(level: str, tensor_type: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
    patterns = np.random.default_rng(3).integers(0, 1 << 32, 1 << 12, dtype=np.uint32)
    patterns[::5] |= 0x7F800000
    encode(patterns.view(np.float32).reshape(1, -1), tensor_type, np.ones((1, 1 << 12), np.float32))


@pytest.mark.parametrize("tensor_type", NEEDING, ids=lambda kind: kind.name)
@pytest.mark.parametrize("level", available_levels())
def test_what_ggml_makes_only_with_importance_is_an_error_without(
    level: str, tensor_type: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
    with pytest.raises(UnsupportedError, match=f"{tensor_type.name} cannot be made without an importance matrix"):
        encode(draw("weights", 1, 256), tensor_type, None)


@named
def test_every_point_off_the_grid_has_near_points(tensor_type: Type) -> None:
    grid = grid_of(tensor_type)
    n_levels, dims = int(grid.levels.max()) + 1, grid.levels.shape[1]
    n_near = np.diff(grid.starts)
    assert (n_near > 0).sum() == n_levels**dims - len(grid.levels)
    assert not n_near[grid.points].any()
