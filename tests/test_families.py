"""Every family's outputs have the sha256 of what llama.cpp's converter and llama-quantize make, and compute the same.

Live for each row of `family_checkpoints.py`. The bytes show that both converters agree; the logits of the f16 file
under llama.cpp beside transformers' in float32 show that both are right.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import pytest
import reference as llama_cpp
from family_checkpoints import FAMILY_CHECKPOINTS, write_family_checkpoint

import convert
from convert.conversion import model_request
from convert.process import ask
from convert.verify import LlamaCpp, Measuring, verify_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reference import Reference

QUANTIZED: Final = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
MOST_NATS: Final = 1e-3
LEAST_SAME_TOP: Final = 0.99
TIMEOUT_S: Final = 600.0

pytestmark = pytest.mark.shared


@pytest.fixture(scope="session")
def family_models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Return the directories of all rows, written once."""
    root = tmp_path_factory.mktemp("families")
    return {name: write_family_checkpoint(name, root) for name in FAMILY_CHECKPOINTS}


@pytest.fixture(scope="session")
def family_f16(
    reference: Reference, family_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """Return the reference's F16 file of every row, made in one process."""
    out = tmp_path_factory.mktemp("families-f16")
    jobs = [(model, out / f"{name}.gguf") for name, model in family_models.items()]
    converted = llama_cpp.convert(reference.source, jobs)
    assert [result.error for result in converted if result.error] == []
    return dict(zip(family_models, (result.outfile for result in converted), strict=True))


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", [name for name, row in FAMILY_CHECKPOINTS.items() if not row.differs])
def test_live_every_type_of_a_family_has_the_references_bytes(
    name: str, family_models: Mapping[str, Path], family_f16: Mapping[str, Path], reference: Reference, tmp_path: Path
) -> None:
    kinds = QUANTIZED if FAMILY_CHECKPOINTS[name].quantizes else ()
    report = convert.convert_all(family_models[name], tmp_path / "ours", types=("F16", *kinds))
    ours = dict(zip(("F16", *kinds), (_hash(output.path) for output in report.outputs), strict=True))
    theirs = {"F16": _hash(family_f16[name])}
    for kind in kinds:
        llama_cpp.quantize(reference, family_f16[name], tmp_path / kind, kind)
        theirs[kind] = _hash(tmp_path / kind)
    assert ours == theirs


@pytest.mark.parametrize("name", [name for name, row in FAMILY_CHECKPOINTS.items() if row.loads])
def test_live_the_f16_file_computes_what_transformers_computes(
    name: str, family_models: Mapping[str, Path], reference: Reference, text: Path, tmp_path: Path
) -> None:
    ours = tmp_path / "ours.gguf"
    convert.convert_one(family_models[name], ours)
    programs = LlamaCpp(reference.completion, reference.perplexity, partial(ask, timeout_s=TIMEOUT_S))
    measuring = Measuring(programs, text=text, checkpoint=model_request(family_models[name]))
    (file,) = verify_files([ours], measuring=measuring).files
    assert file.problems == ()
    measured = file.measured
    assert measured is not None
    assert (measured.base, measured.loads) == ("transformers", True), file.notes
    assert measured.kl_divergence is not None
    assert measured.same_top is not None
    assert measured.kl_divergence < MOST_NATS
    assert measured.same_top > LEAST_SAME_TOP


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory, shared_fixtures: Path) -> Path:
    """Return a short text."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes((shared_fixtures / "corpora" / "tinystories_sample.txt").read_bytes()[:6000])
    return path
