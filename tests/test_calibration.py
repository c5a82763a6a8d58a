"""An importance matrix made in portions is the one that llama-imatrix makes in one go; an interruption costs little."""

from __future__ import annotations

import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import convert
from convert import calibration
from convert.calibration import Calibration, CalibrationPrograms, make_importance
from convert.errors import CheckpointError, OutputError, ProgramError, UsageError
from convert.llama_cpp.environment import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference import Reference

CONTEXT: Final = 64
BATCH: Final = 2 * CONTEXT
PORTION: Final = 4


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[tuple[float, float]] = []

    def say(self, text: str, remedies: Sequence[object] = ()) -> None:
        """Take a line."""
        del remedies
        self.said.append(text)

    def advance(self, what: str, done: float, total: float) -> None:
        """Take a step."""
        del what
        self.steps.append((done, total))


@pytest.fixture(autouse=True)
def _short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_CONTEXT": CONTEXT, "_BATCH": BATCH, "_PORTION": PORTION}.items():
        monkeypatch.setattr(calibration, name, value)


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the F16 file of the small trained model."""
    out = tmp_path_factory.mktemp("model") / "tiny-F16.gguf"
    convert.convert_one(tiny_llama, out)
    return out


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text of two portions."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("Once there was a cat that ran to the house and saw a red ball. " * 42)
    return path


@pytest.fixture
def programs(reference: Reference) -> CalibrationPrograms:
    """Return the reference's programs."""
    return CalibrationPrograms(reference.imatrix, reference.tokenize)


@pytest.fixture(scope="module")
def in_one_go(model: Path, text: Path, reference: Reference) -> Callable[..., str]:
    """Return how to run llama-imatrix in one go: the hash of its file."""

    def run(out: Path, *flags: str) -> str:
        command = [
            str(reference.imatrix),
            "-m",
            str(model),
            "-f",
            str(text),
            "-o",
            str(out),
            "-c",
            str(CONTEXT),
            "-b",
            str(BATCH),
        ]
        env = environment(reference.imatrix)
        subprocess.run([*command, "--no-ppl", "--no-repack", *flags], check=True, capture_output=True, env=env)
        return hash_of(out)

    return run


def hash_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def test_portions_together_are_what_one_go_makes(
    model: Path, text: Path, programs: CalibrationPrograms, in_one_go: Callable[..., str], tmp_path: Path
) -> None:
    heard = Heard()
    make_importance(programs, Calibration(model, text), tmp_path / "ours.gguf", reporter=heard)
    assert hash_of(tmp_path / "ours.gguf") == in_one_go(tmp_path / "theirs.gguf")
    n_windows = heard.steps[-1][1]
    assert heard.steps == [(0, n_windows), (4, n_windows), (8, n_windows), (n_windows, n_windows)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.gguf", "theirs.gguf"]


def test_a_run_that_was_interrupted_goes_on_after_the_last_whole_portion(
    model: Path, text: Path, programs: CalibrationPrograms, in_one_go: Callable[..., str], tmp_path: Path
) -> None:
    breaking = tmp_path / "llama-imatrix"
    breaking.write_text(f'#!/bin/sh\ncase "$*" in *--chunk\\ *) exit 3;; esac\nexec {programs.imatrix} "$@"\n')
    breaking.chmod(breaking.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(ProgramError, match="making the importance matrix failed"):
        make_importance(CalibrationPrograms(breaking, programs.tokenize), Calibration(model, text), tmp_path / "o.gguf")
    assert not (tmp_path / "o.gguf").exists()
    heard = Heard()
    make_importance(programs, Calibration(model, text), tmp_path / "o.gguf", reporter=heard)
    assert heard.said[0].startswith("going on after 4 of ")
    assert hash_of(tmp_path / "o.gguf") == in_one_go(tmp_path / "theirs.gguf")


def test_other_work_does_not_go_on_from_it(
    model: Path, text: Path, programs: CalibrationPrograms, in_one_go: Callable[..., str], tmp_path: Path
) -> None:
    left = tmp_path / ".o.gguf.partial"
    left.mkdir()
    (left / "work").write_text("other work")
    (left / "sums-3.gguf").write_bytes(b"other sums")
    make_importance(programs, Calibration(model, text, n_windows=3), tmp_path / "o.gguf")
    assert hash_of(tmp_path / "o.gguf") == in_one_go(tmp_path / "theirs.gguf", "--chunks", "3")


def test_what_other_matrices_have_seen_is_added(
    model: Path, text: Path, programs: CalibrationPrograms, in_one_go: Callable[..., str], tmp_path: Path
) -> None:
    in_one_go(tmp_path / "first.gguf", "--chunks", "4")
    added = (tmp_path / "first.gguf",)
    make_importance(programs, Calibration(model, text, n_windows=3, added=added), tmp_path / "o.gguf")
    in_one_go(tmp_path / "theirs.gguf", "--chunks", "3", "--in-file", str(tmp_path / "first.gguf"))
    ours, theirs = (convert.inspect(tmp_path / name).importance for name in ("o.gguf", "theirs.gguf"))
    assert ours == theirs
    assert {row.count for row in ours} == {7 * CONTEXT}


@pytest.mark.parametrize("memory", [0.6, 0.0])
def test_a_checkpoint_is_read_as_f16_or_as_q8_0_where_memory_is_small(
    memory: float,
    tiny_llama: Path,
    text: Path,
    programs: CalibrationPrograms,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "_SHARE_OF_MEMORY", memory)
    kind = "f16" if memory else "q8_0"
    make_importance(programs, Calibration(tiny_llama, text, n_windows=2), tmp_path / "o.gguf")
    convert.convert_one(tiny_llama, tmp_path / "model.gguf", type=kind)
    make_importance(programs, Calibration(tmp_path / "model.gguf", text, n_windows=2), tmp_path / "again.gguf")
    assert hash_of(tmp_path / "o.gguf") == hash_of(tmp_path / "again.gguf")


def test_what_cannot_be_is_refused(model: Path, text: Path, programs: CalibrationPrograms, tmp_path: Path) -> None:
    (tmp_path / "there.gguf").write_bytes(b"mine")
    (tmp_path / "short.txt").write_text("Once.")
    with pytest.raises(OutputError, match="already there"):
        make_importance(programs, Calibration(model, text), tmp_path / "there.gguf")
    with pytest.raises(UsageError, match=r"does not end with \.gguf"):
        make_importance(programs, Calibration(model, text), tmp_path / "o.dat")
    with pytest.raises(UsageError, match="is not a file"):
        make_importance(programs, Calibration(model, tmp_path / "absent.txt"), tmp_path / "o.gguf")
    with pytest.raises(UsageError, match="128 are the least"):
        make_importance(programs, Calibration(model, tmp_path / "short.txt"), tmp_path / "o.gguf")
    with pytest.raises(CheckpointError, match="is not an importance matrix"):
        make_importance(programs, Calibration(model, text, added=(model,)), tmp_path / "o.gguf")
    assert (tmp_path / "there.gguf").read_bytes() == b"mine"


def test_all_makes_the_matrix_and_then_every_type(
    tiny_llama: Path, text: Path, reference: Reference, tmp_path: Path
) -> None:
    del reference
    (tmp_path / "text.txt").write_text(text.read_text() * 2)  # windows are of 512 tokens here
    command = ["convert", "all", str(tiny_llama), str(tmp_path / "out"), "--types", "f16,q2_k_s,q4_0", "--name", "m"]
    auto = [sys.executable, "-m", *command, "--imatrix", "auto", "--text", str(tmp_path / "text.txt")]
    subprocess.run(auto, check=True, cwd=Path(__file__).parent.parent)
    made = {path.name: convert.inspect(path) for path in (tmp_path / "out").iterdir()}
    assert sorted(made) == ["m-F16.gguf", "m-Q2_K_S.gguf", "m-Q4_0.gguf", "m-imatrix.gguf"]
    assert made["m-Q4_0.gguf"].metadata["quantize.imatrix.file"] == str(tmp_path / "out" / "m-imatrix.gguf")[:127]
