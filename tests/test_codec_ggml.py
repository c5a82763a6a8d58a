"""Codecs against ggml itself: `ggml_quantize_chunk` and `dequantize_row_*` of the reference's libggml-base."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
import pytest
from codec_cases import CASES, GRID_TYPES, IMPORTANCES, QUANTIZED_TYPES, WEIGHTED_TYPES, draw, draw_importance
from gguf import GGMLQuantizationType

from convert.codec import CODECS, Importance, available_levels, compiled, decode_rows, encode_rows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.llama_cpp

N_COLS = 1280  # five super-blocks: no number of lanes divides them
N_ROWS = 8


def ggml_bytes(
    libggml_base: Path,
    rows: NDArray[np.float32],
    tensor_type: GGMLQuantizationType,
    importance: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    function = ctypes.CDLL(str(libggml_base)).ggml_quantize_chunk
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p)
    function.restype = ctypes.c_size_t
    n_rows, n_cols = rows.shape
    out = np.full(n_rows * CODECS[tensor_type].row_nbytes(n_cols), 0xAA, np.uint8)
    weights = None if importance is None else importance.ctypes.data
    assert function(int(tensor_type), rows.ctypes.data, out.ctypes.data, 0, n_rows, n_cols, weights) == out.size
    return out


def our_bytes(
    rows: NDArray[np.float32], tensor_type: GGMLQuantizationType, importance: Importance | None = None
) -> NDArray[np.uint8]:
    n_rows, n_cols = rows.shape
    out = np.full(n_rows * CODECS[tensor_type].row_nbytes(n_cols), 0x55, np.uint8)
    bad = encode_rows(
        rows.reshape(-1).view(np.uint8),
        GGMLQuantizationType.F32,
        n_cols=n_cols,
        through_f16=False,
        targets=[(tensor_type, out)],
        importance=importance,
    )
    assert bad.n_refused == 0
    return out


@pytest.mark.parametrize("tensor_type", QUANTIZED_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", CASES)
def test_every_level_gives_the_bytes_of_ggml(
    case: str, tensor_type: GGMLQuantizationType, libggml_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = draw(case, N_ROWS, N_COLS)
    wanted = ggml_bytes(libggml_base, rows, tensor_type)
    for level in available_levels():
        monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
        assert np.array_equal(our_bytes(rows, tensor_type), wanted), level


@pytest.mark.parametrize("tensor_type", WEIGHTED_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", CASES)
def test_every_level_gives_the_bytes_of_ggml_with_importance(
    case: str, tensor_type: GGMLQuantizationType, libggml_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of importance is an expert's."""
    rows = draw(case, len(IMPORTANCES) * 3, N_COLS)
    columns = np.concatenate([draw_importance(name, 1, N_COLS) for name in IMPORTANCES])
    experts = zip(np.split(rows, len(IMPORTANCES)), columns, strict=True)
    wanted = np.stack([ggml_bytes(libggml_base, part, tensor_type, of_columns) for part, of_columns in experts])
    for level in available_levels():
        monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
        got = our_bytes(rows, tensor_type, Importance(columns, 3)).reshape(wanted.shape)
        wrong = [name for name, ours, theirs in zip(IMPORTANCES, got, wanted, strict=True) if (ours != theirs).any()]
        assert not wrong, level


@pytest.mark.parametrize("tensor_type", [*WEIGHTED_TYPES, *GRID_TYPES], ids=lambda kind: kind.name)
@pytest.mark.parametrize("level", available_levels())
def test_each_expert_has_its_own_importance_however_the_tensor_is_cut(
    level: str, tensor_type: GGMLQuantizationType, libggml_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
    rows, columns = draw("weights", 21, 256), draw_importance("sums of squares", 3, 256)
    wanted = [ggml_bytes(libggml_base, rows[7 * k : 7 * k + 7], tensor_type, columns[k]) for k in range(3)]
    out = np.zeros(21 * CODECS[tensor_type].row_nbytes(256), np.uint8)
    for first in range(0, 21, 5):
        part = rows[first : first + 5]
        encode_rows(
            part.reshape(-1).view(np.uint8),
            GGMLQuantizationType.F32,
            n_cols=256,
            through_f16=False,
            targets=[(tensor_type, out.reshape(21, -1)[first : first + 5].reshape(-1))],
            importance=Importance(columns, 7),
            first_row=first,
        )
    assert np.array_equal(out, np.concatenate(wanted))


@pytest.mark.parametrize("tensor_type", QUANTIZED_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("level", available_levels()[:-1])
def test_a_million_weights_of_each_spread_give_the_bytes_of_ggml(
    level: str, tensor_type: GGMLQuantizationType, libggml_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
    rng = np.random.default_rng(11)
    half = np.concatenate(
        [
            rng.normal(0, 0.02, 1 << 18),
            rng.standard_t(2, 1 << 18),
            rng.laplace(0, 1e-3, 1 << 18),
            rng.integers(-40, 41, 1 << 18) / 64,
        ]
    ).astype(np.float16)
    out = np.zeros(CODECS[tensor_type].row_nbytes(half.size), np.uint8)
    encode_rows(
        half.view(np.uint8), GGMLQuantizationType.F16, n_cols=4096, through_f16=True, targets=[(tensor_type, out)]
    )
    assert np.array_equal(out, ggml_bytes(libggml_base, half.astype(np.float32).reshape(-1, 4096), tensor_type))


@pytest.mark.parametrize("tensor_type", [*QUANTIZED_TYPES, *GRID_TYPES], ids=lambda kind: kind.name)
def test_every_level_decodes_as_ggml_does(
    tensor_type: GGMLQuantizationType, libggml_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any bytes are blocks: scales may be infinite, or not even numbers."""
    codec = CODECS[tensor_type]
    blocks = np.random.default_rng(5).integers(0, 256, (400, 3 * codec.type_size), np.uint8)
    function = getattr(ctypes.CDLL(str(libggml_base)), f"dequantize_row_{tensor_type.name.lower().replace('_k', '_K')}")
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64), None
    wanted = np.empty((400, 3 * codec.block_size), np.float32)
    function(blocks.ctypes.data, wanted.ctypes.data, wanted.size)
    for level in available_levels():
        monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
        got = decode_rows(blocks, tensor_type)
        numbers = ~np.isnan(wanted)
        assert np.array_equal(np.isnan(got), ~numbers), level
        assert np.array_equal(got.view(np.uint32)[numbers], wanted.view(np.uint32)[numbers]), level
