"""The definition of right: every output has the sha256 of what llama.cpp's converter and llama-quantize make.

Live, against the built reference, for every row of `checkpoints.py`; and against goldens, which are the
reference's hashes as a live run found them (`--update-golden` writes them; a missing one fails).
"""

from __future__ import annotations

import json
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import pytest
import reference as llama_cpp
from checkpoints import CHECKPOINTS, write_checkpoint

import convert
from convert.errors import ConvertError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from reference import Reference

QUANTIZED: Final = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
ALL: Final = ("F16", *QUANTIZED)
CONVERTED: Final = [row.name for row in CHECKPOINTS.values() if not row.refused_by_convert]
# What the reference refuses and has no twin cannot be compared; `convert` has to manage alone.
COMPARED: Final = [name for name in CONVERTED if not CHECKPOINTS[name].refused_by_reference or CHECKPOINTS[name].twin]
REFUSED: Final = [row.name for row in CHECKPOINTS.values() if row.refused_by_convert]

Hashes = dict[str, str]


def _rows(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.shared] if CHECKPOINTS[name].shared else []) for name in names]


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Hashes]:
    """Return the hashes of what `convert all` makes of a row, by type; made once a row."""
    models, out = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("ours")
    known: dict[str, Hashes] = {}

    def hashes(name: str) -> Hashes:
        if name not in known:
            report = convert.convert_all(write_checkpoint(name, models), out / name)
            known[name] = dict(zip(ALL, (_hash(output.path) for output in report.outputs), strict=True))
        return known[name]

    return hashes


@pytest.fixture(scope="session")
def theirs(
    reference: Reference, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Hashes]:
    """Return the hashes of what the reference makes of every row that is tested in this run."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = {str(item.callspec.params["name"]) for item in items if "ours" in item.fixturenames} & set(COMPARED)
    models, out = tmp_path_factory.mktemp("twins"), tmp_path_factory.mktemp("theirs")
    jobs = {
        name: (write_checkpoint(name, models, layout=CHECKPOINTS[name].twin), out / f"{name}-F16.gguf")
        for name in sorted(wanted)
    }
    converted = llama_cpp.convert(reference.source, list(jobs.values()))
    return {
        name: {"F16": _hash(result.outfile)} | _quantized(reference, result.outfile)
        for name, result in zip(jobs, converted, strict=True)
        if result.error is None
    }


def _quantized(reference: Reference, f16: Path) -> Hashes:
    hashes = {}
    for kind in QUANTIZED:
        out = f16.with_suffix(f".{kind}")
        llama_cpp.quantize(reference, f16, out, kind)
        hashes[kind] = _hash(out)
        out.unlink()
    return hashes


def _read_goldens(folder: Path) -> dict[str, Hashes]:
    path = folder / "goldens.json"
    content: dict[str, Hashes] = json.loads(path.read_text())["sha256"] if path.exists() else {}
    return content


def _write_golden(folder: Path, name: str, hashes: Hashes) -> None:
    content = {
        "made by": "pytest tests/test_identity.py --update-golden",
        "reference": f"llama.cpp @ {llama_cpp.COMMIT}: convert_hf_to_gguf.py --outtype f16, then llama-quantize",
        "sha256": dict(sorted({**_read_goldens(folder), name: hashes}.items())),
    }
    (folder / "goldens.json").write_text(json.dumps(content, indent=1) + "\n")


@pytest.mark.parametrize("name", _rows(COMPARED))
def test_live_every_type_has_the_references_bytes(
    name: str, ours: Callable[[str], Hashes], theirs: Mapping[str, Hashes]
) -> None:
    assert ours(name) == theirs[name]


@pytest.mark.parametrize("name", _rows(COMPARED))
def test_every_type_has_the_golden_bytes(
    name: str, ours: Callable[[str], Hashes], tiny_llama: Path, update_golden: bool, request: pytest.FixtureRequest
) -> None:
    if update_golden:
        _write_golden(tiny_llama.parent, name, request.getfixturevalue("theirs")[name])
    assert ours(name) == _read_goldens(tiny_llama.parent).get(name, "no golden: run with --update-golden")


def test_goldens_are_for_the_rows_there_are(tiny_llama: Path) -> None:
    assert sorted(_read_goldens(tiny_llama.parent)) == sorted(COMPARED)


@pytest.mark.parametrize("name", _rows([name for name in CONVERTED if name not in COMPARED]))
def test_what_the_reference_refuses_is_converted_all_the_same(name: str, ours: Callable[[str], Hashes]) -> None:
    assert set(ours(name)) == set(ALL)


@pytest.mark.parametrize("name", _rows(REFUSED))
def test_what_cannot_run_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConvertError):
        convert.convert_all(write_checkpoint(name, tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


SOME: Final = ("rows-of-256", "rows-of-48", "Mixtral-8x7B-v0.1", "float32-weights", "SmolLM2-135M-Instruct")


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_live_f32_and_bf16_files_have_the_references_bytes(kind: str, reference: Reference, tmp_path: Path) -> None:
    models = [write_checkpoint(name, tmp_path / "models") for name in SOME]
    jobs = [(model, tmp_path / f"{model.name}.gguf") for model in models]
    for model, result in zip(models, llama_cpp.convert(reference.source, jobs, outtype=kind), strict=True):
        assert result.error is None
        mine = tmp_path / f"mine-{model.name}.gguf"
        convert.convert_one(model, mine, type=kind)
        assert _hash(mine) == _hash(result.outfile), model.name


@pytest.mark.parametrize("start", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", SOME)
def test_live_quantize_makes_of_any_float_file_what_llama_quantize_makes(
    start: str, name: str, reference: Reference, tmp_path: Path
) -> None:
    source = tmp_path / f"model-{start}.gguf"
    convert.convert_one(write_checkpoint(name, tmp_path), source, type=start)
    kinds = (*ALL, "BF16", "F32", "Q4_K_M", "Q2_K", "IQ4_XS")
    report = convert.quantize(source, convert.OutputRequest(tmp_path / "out", types=kinds))
    quantize = partial(llama_cpp.quantize, reference, source)
    for kind, output in zip(kinds, report.outputs, strict=True):
        quantize(tmp_path / kind, kind)
        assert _hash(output.path) == _hash(tmp_path / kind), kind


@pytest.mark.shared
def test_live_the_shared_model_has_the_references_bytes(
    shared_fixtures: Path, reference: Reference, tmp_path: Path
) -> None:
    model = shared_fixtures / "stories260K"
    (result,) = llama_cpp.convert(reference.source, [(model, tmp_path / "F16.gguf")])
    report = convert.convert_all(model, tmp_path / "out")
    mine = dict(zip(ALL, (_hash(output.path) for output in report.outputs), strict=True))
    assert mine == {"F16": _hash(result.outfile)} | _quantized(reference, result.outfile)


def test_live_the_tiny_model_has_the_references_bytes(tiny_llama: Path, reference: Reference, tmp_path: Path) -> None:
    (result,) = llama_cpp.convert(reference.source, [(tiny_llama, tmp_path / "F16.gguf")])
    report = convert.convert_all(tiny_llama, tmp_path / "out")
    mine = dict(zip(ALL, (_hash(output.path) for output in report.outputs), strict=True))
    assert mine == {"F16": _hash(result.outfile)} | _quantized(reference, result.outfile)
