"""Programs that are started: with their own build's libraries, heard to their last word; causes that are named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import convert
from convert.errors import ToolchainError
from convert.llama_cpp.environment import environment
from convert.llama_cpp.programs import cause, judge
from convert.process import ask

if TYPE_CHECKING:
    from pathlib import Path

    from reference import Reference

N_RUNS = 15


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file to run."""
    out = tmp_path_factory.mktemp("model") / "tiny-Q8_0.gguf"
    convert.convert_one(tiny_llama, out, type="q8_0")
    return out


def _run(model: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "convert", "run", str(model), "-p", "Once upon", "--temp", "0", "-n", "5"]
    # The checkout's own build is in the user's cache, as the `reference` fixture made it.
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return subprocess.run(
        [*words, "--", "--no-repack", *flags], capture_output=True, text=True, check=False, env=environ
    )


@pytest.mark.usefixtures("reference")
def test_the_whole_text_comes_every_time(model: Path) -> None:
    texts = {_run(model).stdout for _ in range(N_RUNS)}
    assert len(texts) == 1, texts
    assert len(texts.pop().split()) > 3


def test_the_reason_of_a_failure_comes_every_time(reference: Reference, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "cut.gguf"
    broken.write_bytes(model.read_bytes()[:-4096])
    command = [str(reference.completion), "-m", str(broken), "-p", "x", "-n", "1", "-no-cnv"]
    for _ in range(N_RUNS):
        answer = ask(command, env=environment(reference.completion))
        assert "is not within the file bounds" in answer.text


def test_a_library_of_another_build_is_not_taken(reference: Reference, model: Path, tmp_path: Path) -> None:
    source = tmp_path / "other.c"
    source.write_text("int another_llama_cpp;")
    for name in ("libggml-base.so.0", "libllama.so.0"):
        subprocess.run(["cc", "-shared", "-o", tmp_path / name, source], check=True)
    finished = _run(model, LD_LIBRARY_PATH=str(tmp_path))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert judge(reference.completion, "completion") == 0


def test_a_path_with_spaces_takes_its_libraries_too(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    program = folder / "program"
    shutil.copy(shutil.which("env") or "/usr/bin/env", program)
    said = ask([program], env=environment(program)).stdout
    assert f"LD_LIBRARY_PATH={folder}" in said
    assert ask([program], env=environment(program)).stderr == ""


@pytest.mark.parametrize(
    ("exit_code", "said", "wanted"),
    [
        (127, "symbol lookup error: libllama.so: undefined symbol: ggml_x", "LD_LIBRARY_PATH"),
        (127, "libc.so.6: version `GLIBC_2.38' not found (required by llama)", "build again on this machine"),
        (127, "error while loading shared libraries: libcublas.so.13: cannot open shared object file", "install it"),
        (127, "libx.so: failed to map segment from shared object", "noexec"),
        (-4, "", "GGML_NATIVE=OFF"),
        (132, "", "GGML_NATIVE=OFF"),
    ],
)
def test_the_cause_is_named_where_the_end_tells_it(exit_code: int, said: str, wanted: str) -> None:
    assert wanted in (cause(exit_code, said) or "")
    assert cause(1, "no such tensor") is None


def test_a_build_that_lost_a_library_says_which(tmp_path: Path) -> None:
    (tmp_path / "gone.c").write_text("int gone(void) { return 0; }")
    (tmp_path / "main.c").write_text("int gone(void);\nint main(void) { return gone(); }")
    library, program = tmp_path / "libgone.so", tmp_path / "llama-completion"
    subprocess.run(["cc", "-shared", "-o", library, tmp_path / "gone.c"], check=True)
    subprocess.run(["cc", "-o", program, tmp_path / "main.c", library], check=True)
    assert judge(program, "completion") == 0
    library.unlink()
    with pytest.raises(ToolchainError, match=r"does not run: .*libgone\.so") as caught:
        judge(program, "completion")
    assert "install it again" in (caught.value.hint or "")


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("command", ["run {} -p Once -n 60", "inspect {}", "--help", "inspect --json {}"])
def test_a_reader_that_leaves_early_is_no_failure(command: str, model: Path) -> None:
    line = f"'{sys.executable}' -m convert {command.format(model)} | head -c 5 >/dev/null; echo ${{PIPESTATUS[0]}}"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=environ)
    assert (finished.stdout, finished.stderr) == ("0\n", "")
