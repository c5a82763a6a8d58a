"""`convert report`: figures of a real trained model, beside llama.cpp's own."""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import convert
from convert.errors import UsageError
from convert.llama_cpp.environment import environment
from convert.model import model_request
from convert.process import ask
from convert.report import Answers, Measuring, Report, ReportRequest, measure
from convert.report.cache import Cache
from convert.report.columns import COLUMNS
from convert.report.data import Size, Subject
from convert.report.markdown import as_markdown
from convert.report.running import Programs, weighed_answer
from convert.report.summary import headline, pareto

if TYPE_CHECKING:
    from reference import Reference

TYPES = ("f32", "f16", "q8_0", "q4_0")
TOLERANCE = 1e-4  # nats
Files = dict[str, Path]


@pytest.fixture(scope="module")
def files(shared_fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return the trained model in four types."""
    out = convert.OutputRequest(tmp_path_factory.mktemp("report"), types=TYPES)
    made = convert.convert_all(shared_fixtures / "stories260K", out)
    return dict(zip(TYPES, (output.path for output in made.outputs), strict=True))


@pytest.fixture(scope="module")
def text(shared_fixtures: Path) -> Path:
    """Return a text of the kind that the model was trained on."""
    return shared_fixtures / "corpora" / "tinystories_sample.txt"


@pytest.fixture(scope="module")
def programs(reference: Reference) -> Programs:
    """Return the reference's programs."""
    return Programs(reference.perplexity, reference.quantize.with_name("llama-bench"), reference.completion)


def _measured(files: Files, programs: Programs | None, cache: Path, **options: object) -> Report:
    request = ReportRequest(tuple(files.values()), n_runs=1, **options)  # type: ignore[arg-type]
    return measure(request, Measuring(programs, Cache(cache)))


@pytest.fixture(scope="module")
def report(files: Files, text: Path, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return a report of all four."""
    return _measured(files, programs, tmp_path_factory.mktemp("cache"), text=text)


def _answers(report: Report, kind: str) -> Answers:
    answers = next(subject.answers for subject in report.subjects if subject.type == kind)
    assert answers is not None
    return answers


@pytest.fixture(scope="module")
def theirs(files: Files, text: Path, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what llama-perplexity itself says of three types, with a file of all logits."""
    base = tmp_path_factory.mktemp("theirs") / "base"
    run = partial(ask, timeout_s=300, env=environment(programs.perplexity))
    cut: list[str | Path] = ["-c", "128", "-b", "512", "--no-repack"]
    run([programs.perplexity, "-m", files["f32"], "-f", text, *cut, "--kl-divergence-base", base])
    options = [*cut, "--kl-divergence-base", base, "--kl-divergence"]
    return {
        kind: run([programs.perplexity, "-m", files[kind.lower()], *options]).text for kind in ("Q4_0", "Q8_0", "F16")
    }


def _said(text: str, pattern: str) -> float:
    found = re.search(rf"{pattern}\s*:\s*(-?[\d.]+)", text)
    assert found is not None, text[-2000:]
    return float(found[1])


FIGURES = {
    "Mean PPL\\(Q\\)": ("perplexity", 5e-3),
    "Mean    KLD": ("kl_mean", TOLERANCE),
    "Median  KLD": ("kl_median", TOLERANCE),
    "99.0%   KLD": ("kl_99", 1e-3),
    "99.9%   KLD": ("kl_999", 1e-3),
    "Maximum KLD": ("kl_max", 1e-3),
}
SHARES = {"Same top p": "same_top", "Mean    Δp": "change_mean", "RMS Δp    ": "change_rms", " 1.0%   Δp": "change_1"}


@pytest.mark.shared
@pytest.mark.llama_cpp
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "F16"])
def test_answers_are_those_of_llama_perplexity_with_all_logits(
    report: Report, theirs: dict[str, str], kind: str
) -> None:
    ours = _answers(report, kind)
    for label, (name, tolerance) in FIGURES.items():
        assert getattr(ours, name) == pytest.approx(_said(theirs[kind], label), abs=tolerance), label
    for label, name in SHARES.items():
        assert 100 * getattr(ours, name) == pytest.approx(_said(theirs[kind], label), abs=2e-3), label


@pytest.mark.shared
@pytest.mark.llama_cpp
def test_a_budget_cuts_the_reference_and_says_what_that_takes(
    report: Report, files: Files, text: Path, programs: Programs, tmp_path: Path
) -> None:
    two = {kind: files[kind] for kind in ("f32", "q4_0")}
    cut = _answers(_measured(two, programs, tmp_path, text=text, budget=500_000), "Q4_0")
    whole = _answers(report, "Q4_0")
    assert (whole.kept, whole.tail, whole.lost) == (512, 0, 0)
    assert 0 < cut.kept < 100
    assert 0 < cut.tail < 0.05
    assert 0 <= whole.kl_mean - cut.kl_mean < 5 * cut.lost + 1e-6
    assert cut.perplexity == whole.perplexity
    assert cut.same_top == whole.same_top


@pytest.mark.shared
@pytest.mark.llama_cpp
def test_a_second_report_measures_nothing_again(files: Files, text: Path, programs: Programs, tmp_path: Path) -> None:
    two = {kind: files[kind] for kind in ("f32", "q8_0")}
    first = _measured(two, programs, tmp_path, text=text)
    gone = Programs(*(Path(f"{path}") for path in (programs.perplexity, Path("no/bench"), Path("no/completion"))))
    assert _measured(two, gone, tmp_path, text=text) == first


@pytest.mark.shared
@pytest.mark.llama_cpp
def test_speed_and_memory_come_from_the_programs(report: Report) -> None:
    for subject in report.subjects:
        assert subject.missing == ()
        assert subject.speed is not None
        assert (subject.speed.n_prompt, subject.speed.n_generated) == (512, 128)
        assert subject.speed.prompt > subject.speed.generation > 0
        assert subject.size is not None
        assert subject.size.nbytes < subject.speed.memory < 200 << 20
    assert report.floor is not None
    assert report.floor.kl_mean < 1e-5


@pytest.mark.shared
def test_without_llama_cpp_size_and_weights_are_measured_and_the_rest_is_said_to_be_missing(
    files: Files, shared_fixtures: Path, tmp_path: Path
) -> None:
    checkpoint = model_request(shared_fixtures / "stories260K")
    found = _measured(files, None, tmp_path, against=checkpoint)
    assert [missing.why for missing in found.missing] == ["no llama.cpp build was found"]
    off = {subject.type: subject.weights.relative_rmse for subject in found.subjects if subject.weights}
    assert off["F32"] == 0 < off["F16"] < off["Q8_0"] < off["Q4_0"] < 0.1
    assert all(
        subject.size and subject.size.nbytes == Path(subject.path or "").stat().st_size for subject in found.subjects
    )
    assert "not measured, answers and speed" in as_markdown(found)
    json.dumps(found.as_json(), allow_nan=False)


def test_files_of_two_models_are_not_compared(tiny_llama: Path, tmp_path: Path, shared_fixtures: Path) -> None:
    pair = {
        name: convert.convert_one(model, tmp_path / f"{name}.gguf").outputs[0].path
        for name, model in (("one", tiny_llama), ("other", shared_fixtures / "stories260K"))
    }
    with pytest.raises(UsageError, match="different vocabularies"):
        _measured(pair, None, tmp_path)


def _subject(kind: str, nbytes: int, loss: float) -> Subject:
    answers = Answers(100, 6, 0.1, 1, 0.1, loss, 0, loss, loss, loss, loss, 0.9, 0, 0, 0, 0, 512, 0, 0)
    return Subject(kind, kind, size=Size(nbytes, 10**9, nbytes / 1.25e8, {}), answers=answers)


def test_the_first_sentence_says_which_file_to_take() -> None:
    subjects = (
        _subject("Q8_0", 8_500_000_000, 0.001),
        _subject("Q4_K_M", 4_900_000_000, 0.021),
        _subject("Q2_K", 3_000_000_000, 0.4),
    )
    report = Report("M", "M-F16", subjects, None, "", None, None, {}, {}, "")
    assert headline(report) == ("Q4_K_M: 4.9 GB, loses 0.021 nats a token; below it quality falls fast (Q2_K: 0.400).")
    worse = _subject("Q4_0", 5_000_000_000, 0.05)
    assert [each.type for each in pareto((*subjects, worse))] == ["Q2_K", "Q4_K_M", "Q8_0"]


def test_the_memory_of_a_program_is_its_own_peak() -> None:
    program = (
        "import resource; x = bytearray(300 << 20); x[::4096] = bytes(len(x[::4096]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    said, memory = weighed_answer([sys.executable, "-I", "-S", "-c", program])
    assert memory == pytest.approx(int(said) * 1024, abs=8 << 20)
    assert 300 << 20 < memory < 400 << 20


@pytest.mark.shared
@pytest.mark.llama_cpp
def test_transformers_reads_the_same_tokens_and_takes_the_memory_that_it_says(
    files: Files, text: Path, programs: Programs, shared_fixtures: Path, tmp_path: Path
) -> None:
    model = shared_fixtures / "stories260K"
    one, options = {"f32": files["f32"]}, {"precisions": ("f32", "int8"), "against": model_request(model)}
    found = _measured(one, programs, tmp_path, text=text, n_windows=4, **options)
    reference, plain, packed = found.subjects
    assert plain.missing == packed.missing == ()
    assert reference.perplexity == pytest.approx(plain.perplexity, rel=1e-3)
    assert packed.perplexity == pytest.approx(plain.perplexity, rel=0.02)
    memory = convert.inspect(model).memory
    assert memory is not None
    wanted = {row.precision: row.parameters_nbytes for row in memory.rows}
    assert plain.size is not None
    assert packed.size is not None
    buffers = plain.size.nbytes - (wanted["f32"] or 0)  # the rotary tables
    assert 0 < buffers < 1024
    assert packed.size.nbytes < plain.size.nbytes / 3


def test_every_column_tells_what_it_means() -> None:
    assert len({column.head for column in COLUMNS}) == len(COLUMNS)
    assert all(column.meaning for column in COLUMNS)
