"""`verify`, with llama.cpp and transformers: loading, perplexity, divergence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from damage import with_metadata

import convert
from convert.errors import VerificationError
from convert.model import ModelRequest
from convert.process import ask
from convert.verify import LlamaCpp, Measuring, Verification, verify_files
from convert.verify.probabilities import divergence, read_probabilities, write_probabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference import Reference


@pytest.fixture(scope="module")
def outputs(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return sound files of three types."""
    types = ("f32", "f16", "q4_0")
    report = convert.convert_all(tiny_llama, convert.OutputRequest(tmp_path_factory.mktemp("sound"), types=types))
    return dict(zip(types, (written.path for written in report.outputs), strict=True))


@dataclass
class _Said:
    exit_code: int
    text: str


def _programs(answer: Callable[[Sequence[str]], _Said]) -> LlamaCpp:
    return LlamaCpp(Path("completion"), Path("perplexity"), answer)


def test_a_file_that_llama_cpp_does_not_load_is_a_problem(outputs: dict[str, Path]) -> None:
    programs = _programs(lambda _: _Said(1, "loading\nerror: unknown model architecture: 'lama'\nbye"))
    (file,) = verify_files([outputs["f16"]], measuring=Measuring(programs)).files
    assert [finding.message for finding in file.problems] == [
        "llama.cpp does not run it (exit code 1): error: unknown model architecture: 'lama'"
    ]


def test_a_file_that_is_broken_on_paper_is_not_given_to_llama_cpp(outputs: dict[str, Path], tmp_path: Path) -> None:
    damaged = with_metadata(outputs["f16"], tmp_path / "m.gguf", llama__block_count=7)

    def answer(command: Sequence[str]) -> _Said:
        raise AssertionError(command)

    assert verify_files([damaged], measuring=Measuring(_programs(answer))).files[0].measured is None


def test_the_program_is_asked_again_when_its_last_lines_are_lost(outputs: dict[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("Once upon a time. " * 100)
    calls: list[str] = []

    def answer(command: Sequence[str]) -> _Said:
        if "--kl-divergence-base" not in command:
            return _Said(0, "")
        head = b"_logits_" + np.array([8, 4, 1, *range(8)], "<i4").tobytes()
        Path(command[command.index("--kl-divergence-base") + 1]).write_bytes(head + bytes(3 * 16))
        calls.append(command[0])
        return _Said(0, "" if len(calls) < 4 else "Final estimate: PPL = 4.0000 +/- 0.5000")

    measuring = Measuring(_programs(answer), text=text)
    (file,) = verify_files([outputs["q4_0"]], measuring=measuring).files
    assert file.measured is not None
    assert (file.measured.perplexity, file.measured.uncertainty, len(calls)) == (4.0, 0.5, 4)


def test_probabilities_survive_a_file_and_diverge_as_they_should(tmp_path: Path) -> None:
    n_ctx, n_vocab = 16, 31
    tokens = np.arange(2 * n_ctx, dtype="<i4") % n_vocab
    head = b"_logits_" + np.array([n_ctx, n_vocab, 2], "<i4").tobytes() + tokens.tobytes()
    (tmp_path / "first").write_bytes(head)
    like = read_probabilities(tmp_path / "first")
    logits = np.random.default_rng(3).standard_normal((2, 2, like.n_places, n_vocab)).astype(np.float32) * 2
    first, second = (
        write_probabilities(tmp_path / name, like, n_windows=2, logits=values.__getitem__)
        for name, values in zip(("a", "b"), logits, strict=True)
    )
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True))
    wanted = float((np.exp(exact[1]) * (exact[1] - exact[0])).sum(axis=-1).mean())
    nats, same = divergence(first, second)
    assert nats == pytest.approx(wanted, rel=1e-3)
    assert same == (exact[0].argmax(axis=-1) == exact[1].argmax(axis=-1)).mean()
    assert divergence(first, first) == (0.0, 1.0)
    shifted = write_probabilities(
        tmp_path / "c", replace(like, tokens=like.tokens + 1), n_windows=2, logits=logits[0].__getitem__
    )
    with pytest.raises(VerificationError, match="different tokens"):
        divergence(first, shifted)


def _measured(reference: Reference, files: list[Path], text: Path, checkpoint: Path | None) -> Verification:
    programs = LlamaCpp(reference.completion, reference.perplexity, partial(ask, timeout_s=300))
    return verify_files(
        files,
        measuring=Measuring(programs, text=text, checkpoint=None if checkpoint is None else ModelRequest(checkpoint)),
    )


def test_llama_cpp_and_transformers_compute_the_same_of_the_float_file(
    reference: Reference, outputs: dict[str, Path], tiny_llama: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("Once upon a time there was a little dog who lived in a small house by the sea. " * 40)
    verification = _measured(reference, [outputs["f32"], outputs["q4_0"]], text, tiny_llama)
    verification.check()
    exact, coarse = (file.measured for file in verification.files)
    assert exact is not None
    assert coarse is not None
    assert (exact.base, coarse.base) == ("transformers", "transformers")
    assert exact.kl_divergence == pytest.approx(0, abs=1e-4)
    assert exact.same_top is not None
    assert exact.same_top > 0.98
    assert coarse.kl_divergence is not None
    assert coarse.kl_divergence > 0.0005


def test_of_a_long_text_only_as_much_is_measured_as_there_is_room_for(
    reference: Reference, outputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text"
    text.write_text("Once upon a time there was a little dog who lived in a small house by the sea. " * 40)
    monkeypatch.setattr("convert.verify.running._MAX_NBYTES", 300_000)
    (file,) = _measured(reference, [outputs["q4_0"]], text, None).files
    assert any("measured on the first" in finding.message for finding in file.notes)
    assert file.measured is not None
    assert file.measured.perplexity is not None
