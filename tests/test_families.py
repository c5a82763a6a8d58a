"""The definition of right for the families beside Llama: every output has the sha256 of what llama.cpp's programs make.

Live, against the built reference, for every row of `family_checkpoints.py`; and against goldens, which are the
reference's hashes as a live run found them (`--update-golden` writes them; a missing one fails).
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import pytest
import reference as llama_cpp
from family_checkpoints import FAMILY_CHECKPOINTS, write_family_checkpoint

import convert
from convert.errors import ConvertError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from reference import Reference

QUANTIZED: Final = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
MIXED: Final = ("Q4_K_M", "IQ3_M")  # compared live only: what the choice over a whole file makes of a family's names
ROWS: Final = FAMILY_CHECKPOINTS.values()
COMPARED: Final = [row.name for row in ROWS if not (row.refused_by_reference or row.only_ours or row.differs)]
REFUSED: Final = [row.name for row in ROWS if row.refused_by_reference]
ONLY_OURS: Final = [row.name for row in ROWS if row.only_ours]
GOLDENS: Final = "goldens-families.json"

Hashes = dict[str, str]


def _rows(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.shared] * FAMILY_CHECKPOINTS[name].shared) for name in names]


def _types(name: str) -> tuple[str, ...]:
    return ("F16",) if FAMILY_CHECKPOINTS[name].only_float else ("F16", *QUANTIZED, *MIXED)


def _golden(hashes: Hashes) -> Hashes:
    return {kind: value for kind, value in hashes.items() if kind not in MIXED}


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a row's directory; written once a row."""
    root = tmp_path_factory.mktemp("models")
    return lambda name: root / name if (root / name).is_dir() else write_family_checkpoint(name, root)


@pytest.fixture(scope="module")
def ours(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Hashes]:
    """Return the hashes of what `convert all` makes of a row, by type; made once a row."""
    out = tmp_path_factory.mktemp("ours")
    known: dict[str, Hashes] = {}

    def hashes(name: str) -> Hashes:
        if name not in known:
            types = _types(name)
            report = convert.convert_all(checkpoint(name), convert.OutputRequest(out / name, types=types))
            known[name] = dict(zip(types, (_hash(output.path) for output in report.outputs), strict=True))
            for output in report.outputs:
                output.path.unlink()
        return known[name]

    return hashes


@pytest.fixture(scope="module")
def their_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where `theirs` leaves the float files that llama-quantize does not take."""
    return tmp_path_factory.mktemp("theirs")


@pytest.fixture(scope="module")
def theirs(
    reference: Reference, checkpoint: Callable[[str], Path], their_folder: Path, request: pytest.FixtureRequest
) -> dict[str, Hashes]:
    """Return the hashes of what the reference makes of every row that is tested in this run, or its error."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    ours = [item for item in items if item.path == request.path and "name" in getattr(item, "fixturenames", ())]
    wanted = {str(item.callspec.params["name"]) for item in ours}
    # Rows without options first: what an option sets stays set in the reference's classes.
    ordered = sorted(wanted, key=lambda name: (FAMILY_CHECKPOINTS[name].options, name))
    jobs = {name: (checkpoint(name), their_folder / f"{name}.gguf") for name in ordered}
    options = [FAMILY_CHECKPOINTS[name].options for name in jobs]
    converted = llama_cpp.convert(reference.source, list(jobs.values()), options=options)
    return {
        name: {"error": result.error} if result.error else _quantized(reference, name, result.outfile)
        for name, result in zip(jobs, converted, strict=True)
    }


def _quantized(reference: Reference, name: str, f16: Path) -> Hashes:
    hashes = {"F16": _hash(f16)}
    for kind in _types(name)[1:]:
        out = f16.with_suffix(f".{kind}")
        llama_cpp.quantize(reference, f16, out, kind)
        hashes[kind] = _hash(out)
        out.unlink()
    if len(hashes) > 1:
        f16.unlink()
    return hashes


def _read_goldens(folder: Path) -> dict[str, Hashes]:
    path = folder / GOLDENS
    content: dict[str, Hashes] = json.loads(path.read_text())["sha256"] if path.exists() else {}
    return content


def _write_golden(folder: Path, name: str, hashes: Hashes) -> None:
    content = {
        "made by": "pytest tests/test_families.py --update-golden",
        "reference": f"llama.cpp @ {llama_cpp.COMMIT}: convert_hf_to_gguf.py --outtype f16, then llama-quantize",
        "sha256": dict(sorted({**_read_goldens(folder), name: hashes}.items())),
    }
    (folder / GOLDENS).write_text(json.dumps(content, indent=1) + "\n")


@pytest.mark.parametrize("name", _rows(COMPARED))
def test_live_every_type_of_a_family_has_the_references_bytes(
    name: str, ours: Callable[[str], Hashes], theirs: Mapping[str, Hashes]
) -> None:
    assert ours(name) == theirs[name]


@pytest.mark.parametrize("name", _rows(COMPARED))
def test_every_type_of_a_family_has_the_golden_bytes(
    name: str, ours: Callable[[str], Hashes], tiny_llama: Path, update_golden: bool, request: pytest.FixtureRequest
) -> None:
    if update_golden:
        _write_golden(tiny_llama.parent, name, _golden(request.getfixturevalue("theirs")[name]))
    assert _golden(ours(name)) == _read_goldens(tiny_llama.parent).get(name, "no golden: run with --update-golden")


def test_the_families_goldens_are_for_the_rows_there_are(tiny_llama: Path) -> None:
    goldens = _read_goldens(tiny_llama.parent)
    wanted = {name: [kind for kind in _types(name) if kind not in MIXED] for name in COMPARED}
    assert {name: list(hashes) for name, hashes in goldens.items()} == wanted


@pytest.mark.parametrize("name", _rows(REFUSED + ONLY_OURS))
def test_live_what_the_table_calls_refused_is_refused_by_the_reference(name: str, theirs: Mapping[str, Hashes]) -> None:
    row = FAMILY_CHECKPOINTS[name]
    assert theirs[name]["error"].startswith(row.refused_by_reference or row.only_ours or "said")


@pytest.mark.parametrize("name", _rows([name for name in COMPARED if FAMILY_CHECKPOINTS[name].only_float]))
def test_live_what_the_table_calls_only_float_is_not_quantized_by_the_reference(
    name: str, reference: Reference, theirs: Mapping[str, Hashes], their_folder: Path, tmp_path: Path
) -> None:
    assert list(theirs[name]) == ["F16"]
    with pytest.raises(ConvertError, match=r"q_lora_rank|requantizing"):
        llama_cpp.quantize(reference, their_folder / f"{name}.gguf", tmp_path / "Q8_0.gguf", "Q8_0")


@pytest.mark.parametrize("name", _rows(REFUSED))
def test_what_of_a_family_cannot_run_is_refused(name: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConvertError):
        convert.convert_all(checkpoint(name), tmp_path / "out")
    assert not (tmp_path / "out").exists()
