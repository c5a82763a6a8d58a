"""Codecs against ggml itself: the bytes of `quantize_row_*_ref` in the reference's libggml-base."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
import pytest
from codec_cases import CASES, QUANTIZED_TYPES, draw
from gguf import GGMLQuantizationType

from convert.codec import CODECS, available_levels, compiled, encode_rows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.llama_cpp


def ggml_bytes(
    libggml_base: Path, weights: NDArray[np.float32], tensor_type: GGMLQuantizationType
) -> NDArray[np.uint8]:
    name = tensor_type.name.lower().replace("_k", "_K")
    function = getattr(ctypes.CDLL(str(libggml_base)), f"quantize_row_{name}_ref")
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64), None
    out = np.full(CODECS[tensor_type].row_nbytes(weights.size), 0xAA, np.uint8)
    function(weights.ctypes.data, out.ctypes.data, weights.size)
    return out


@pytest.mark.parametrize("tensor_type", QUANTIZED_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("level", available_levels())
def test_every_level_gives_the_bytes_of_ggml(
    level: str,
    case: str,
    tensor_type: GGMLQuantizationType,
    libggml_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
    rows = draw(case, 16, 4096 + 256)
    out = np.full(16 * CODECS[tensor_type].row_nbytes(4096 + 256), 0x55, np.uint8)
    encode_rows(
        rows.reshape(-1).view(np.uint8),
        GGMLQuantizationType.F32,
        n_cols=4096 + 256,
        through_f16=False,
        targets=[(tensor_type, out)],
    )
    assert np.array_equal(out, ggml_bytes(libggml_base, rows, tensor_type))


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
    assert np.array_equal(out, ggml_bytes(libggml_base, half.astype(np.float32), tensor_type))
