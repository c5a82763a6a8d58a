"""The compiled library: found, told from a stale one, and with the same table of types as the NumPy reference."""

from __future__ import annotations

import importlib.metadata
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from codec_cases import draw
from gguf import GGMLQuantizationType

from convert.codec import (
    CODECS,
    FLOAT_TYPES,
    KernelsMissingWarning,
    available_levels,
    compiled,
    encode_rows,
    kernel_level,
)
from convert.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

F32, Q4_0 = GGMLQuantizationType.F32, GGMLQuantizationType.Q4_0
COMPILED_LEVELS: Final = available_levels()[:-1]


def test_kernels_are_built_wherever_the_tests_run() -> None:
    assert COMPILED_LEVELS, "no compiled kernels: the battery below would compare NumPy with itself"


def test_the_library_has_the_table_of_the_reference() -> None:
    kernels = compiled.load_kernels()
    assert kernels is not None
    in_c = {(row.type, row.block, row.nbytes, row.takes_importance, row.needs_importance) for row in kernels.codecs()}
    in_numpy = {
        (int(kind), codec.block_size, codec.type_size, codec.takes_importance, codec.needs_importance)
        for kind, codec in CODECS.items()
        if kind not in FLOAT_TYPES
    }
    assert in_c == in_numpy


def test_the_best_level_is_used_unless_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiled.LEVEL_VARIABLE, raising=False)
    assert kernel_level() == available_levels()[0]
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, "numpy")
    assert kernel_level() == "numpy"


@pytest.mark.parametrize(("asked", "problem"), [("sse9", "is not known"), ("altivec", "is not known")])
def test_an_unknown_level_is_a_usage_error(asked: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, asked)
    with pytest.raises(UsageError, match=problem):
        kernel_level()


def test_a_level_of_another_machine_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = next(name for name in ("neon", "avx512") if name not in available_levels())
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, absent)
    with pytest.raises(UsageError, match="is not available here"):
        kernel_level()


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to be an installation without the compiled library, in which nothing was warned of yet."""
    monkeypatch.delenv(compiled.LEVEL_VARIABLE, raising=False)
    monkeypatch.setattr("convert.codec.compiled.load_kernels", lambda: None)
    monkeypatch.setattr("convert.codec.encoding.load_kernels", lambda: None)
    compiled._warn_of_missing_kernels.cache_clear()


def encode(rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    out = np.zeros(rows.size // 32 * 18, np.uint8)
    encode_rows(rows.reshape(-1).view(np.uint8), F32, n_cols=rows.shape[1], through_f16=False, targets=[(Q4_0, out)])
    return out


@pytest.mark.usefixtures("no_library")
def test_without_the_library_numpy_encodes_after_one_warning() -> None:
    rows = draw("normal", 2, 64)
    with pytest.warns(KernelsMissingWarning, match="pip install"):
        got = encode(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(rows)
    assert np.array_equal(got, CODECS[Q4_0].encode(rows).reshape(-1))


@pytest.mark.usefixtures("no_library")
def test_numpy_asked_for_is_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, "numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernel_level() == "numpy"


def test_a_library_older_than_the_sources_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernels = compiled.load_kernels()
    assert kernels is not None
    library = Path(kernels.library._name)
    assert compiled._open(library) is not None
    changed = tmp_path / "kernels"
    changed.mkdir()
    for source in (compiled._HERE / "kernels").iterdir():
        (changed / source.name).write_bytes(source.read_bytes() + b"\n")
    monkeypatch.setattr(compiled, "_HERE", tmp_path)
    assert compiled._open(library) is None


def test_a_file_that_is_no_library_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "_kernels.so").write_bytes(b"not ELF")
    assert compiled._open(tmp_path / "_kernels.so") is None
    assert compiled._open(tmp_path / "missing.so") is None


def test_the_library_is_looked_for_in_the_installed_distribution_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> object:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", not_installed)
    assert [path.name for path in compiled._candidates()] == ["_kernels.so"]
