"""Nothing half done: a signal or a kill in the middle of the work leaves whole outputs or none."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def large_model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny model with its vocabulary's rows made many: large enough to be interrupted."""
    folder = tmp_path_factory.mktemp("large") / "large"
    shutil.copytree(tiny_llama, folder)
    weights = load_file(folder / "model.safetensors")
    n_rows = 200_000
    embedding = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = embedding.repeat(-(-n_rows // len(embedding)), 1)[:n_rows].contiguous()
    save_file(weights, folder / "model.safetensors")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace(f'"vocab_size": {len(embedding)}', f'"vocab_size": {n_rows}'))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "convert", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


@pytest.fixture
def _heeds_sighup() -> Iterator[None]:
    """Let programs heed SIGHUP, also where the tests run under nohup, which they would inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def running(_heeds_sighup: None, large_model: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Return `convert all` at work, its first bytes written."""
    process = subprocess.Popen(
        command("all", large_model, tmp_path / "out", "--jobs", "1"), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, "the model is too small to be interrupted"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
    ],
)
def test_a_signal_stops_the_work_and_leaves_nothing(
    sent: signal.Signals, code: int, says: str, running: subprocess.Popen[str], tmp_path: Path
) -> None:
    running.send_signal(sent)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == code
    assert stderr.splitlines()[-1] == f"{says}; no partial file is left"
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_told_to_ignore_a_hangup_goes_on(large_model: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; programs inherit it
    words = command("all", large_model, tmp_path / "out", "--types", "q4_0")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    signal.signal(signal.SIGHUP, before)
    while process.poll() is None:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    assert process.returncode == 0


def test_killed_at_any_moment_no_final_name_holds_a_partial_file(large_model: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert run("all", large_model, whole, "--types", "f16,q4_0").returncode == 0
    complete = hashes(whole)
    for delay in np.linspace(0.05, 1.0, 12):
        process = subprocess.Popen(
            command("all", large_model, out, "--types", "f16,q4_0"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.kill()
        process.wait()
        published = {path.name: path for path in out.glob("[!.]*")} if out.exists() else {}
        assert {name: complete[name] for name in published} == {
            name: sha256(path.read_bytes()).hexdigest() for name, path in published.items()
        }
    assert run("all", large_model, out, "--types", "f16,q4_0").returncode == 0
    assert hashes(out) == complete


def test_killed_at_any_moment_a_first_part_has_all_others_beside_it(large_model: Path, tmp_path: Path) -> None:
    words = ("--types", "f16,q4_0", "--split-max-tensors", "3")
    assert run("all", large_model, tmp_path / "whole", *words).returncode == 0
    complete = {folder.name: hashes(folder) for folder in (tmp_path / "whole").iterdir()}
    for number, delay in enumerate(np.linspace(0.3, 0.8, 6)):
        process = subprocess.Popen(
            command("all", large_model, tmp_path / f"{number}", *words),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.kill()
        process.wait()
        for first in (tmp_path / f"{number}").glob("*/[!.]*-00001-of-*.gguf"):
            assert complete[first.parent.name].items() <= hashes(first.parent).items()
    assert run("all", large_model, tmp_path / "0", *words).returncode == 0
    assert {folder.name: hashes(folder) for folder in (tmp_path / "0").iterdir()} == complete
