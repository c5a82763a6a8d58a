"""The commands: `build-llamacpp`, `run`, `doctor`; llama.cpp itself is a script here."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner
from gguf import GGUFWriter

from convert import llama_cpp
from convert.cli import llama_cpp_commands
from convert.cli.llama_cpp_commands import build_llamacpp, doctor, run_gguf
from convert.errors import CheckpointError, ToolchainError
from convert.llama_cpp import cuda
from convert.llama_cpp import doctor as doctor_room
from convert.llama_cpp.build_json import Build, write_build
from convert.llama_cpp.cuda import Cuda
from convert.llama_cpp.pin import COMMIT
from convert.llama_cpp.run_model import completion_command, server_command

if TYPE_CHECKING:
    from click.testing import Result

    from convert.llama_cpp import Reporter

SAYS_ITS_WORDS = 'echo "$@"; echo loading >&2'


def _invoke(command: click.Command, *words: str) -> Result:
    return CliRunner().invoke(command, words, catch_exceptions=True)


def _build_in(home: Path, script: str, roles: tuple[str, ...] = ("completion", "quantize")) -> Build:
    folder = home / "builds" / "one"
    (folder / "bin").mkdir(parents=True)
    programs = {role: folder / "bin" / f"llama-{role}" for role in roles}
    for path in programs.values():
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    build = Build(
        directory=folder,
        commit=COMMIT,
        source="a test",
        tree=home,
        backend="cpu",
        reason="a test",
        options={},
        compilers={},
        cmake="",
        configure=(),
        programs=programs,
        aliases={"main": "llama-completion"},
        finished="2026-01-01T00:00:00Z",
        seconds=1.0,
    )
    write_build(build)
    return build


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_building_passes_every_option_on_and_shows_where_the_programs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def build(*, reporter: Reporter, **options: object) -> Build:
        given.update(options)
        reporter.say("backend: cpu")
        return _build_in(tmp_path, "")

    monkeypatch.setattr(llama_cpp, "build_llamacpp", build)
    words = ["--source", "pypi", "--backend", "cuda", "--cuda-arch", "90", "--cublas", "pypi", "--server", "-j", "3"]
    result = _invoke(build_llamacpp, *words, "--dir", str(tmp_path), "--", "-DGGML_NATIVE=OFF", "-DX=1")
    assert result.exit_code == 0, result.output
    assert given == {
        "source": "pypi",
        "ref": None,
        "backend": "cuda",
        "cuda_arch": "90",
        "cublas": "pypi",
        "server": True,
        "directory": tmp_path,
        "jobs": 3,
        "cmake_args": ("-DGGML_NATIVE=OFF", "-DX=1"),
    }
    assert result.stdout == ""
    assert "backend: cpu" in result.stderr
    assert f"{tmp_path}/main" in result.stderr


def test_building_can_print_build_json_alone_on_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "build_llamacpp", lambda **_: _build_in(tmp_path, ""))
    result = _invoke(build_llamacpp, "--json")
    assert json.loads(result.stdout)["commit"] == COMMIT


def test_the_command_line_that_continues_a_text() -> None:
    command = completion_command(
        Path("/b/llama-completion"), Path("m.gguf"), prompt="Once", n_tokens=8, temperature=0.0, flags=["-t", "1"]
    )
    assert command == [
        "/b/llama-completion",
        "-m",
        "m.gguf",
        "-p",
        "Once",
        "-n",
        "8",
        "--temp",
        "0.0",
        "-no-cnv",
        "-t",
        "1",
    ]
    talking = completion_command(Path("/b/llama-completion"), Path("m.gguf"), prompt="Hi", flags=["-cnv"])
    assert talking == ["/b/llama-completion", "-m", "m.gguf", "-p", "Hi", "-cnv"]


def test_the_command_line_that_serves_to_this_machine_alone() -> None:
    command = server_command(Path("/b/llama-server"), Path("m.gguf"), port=8081, flags=["-c", "64"])
    assert command == ["/b/llama-server", "-m", "m.gguf", "--host", "127.0.0.1", "--port", "8081", "-c", "64"]


def test_running_streams_the_text_and_nothing_else_to_stdout(
    tmp_path: Path, gguf: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _build_in(tmp_path, SAYS_ITS_WORDS)
    words = [str(gguf), "-p", "Once upon", "-n", "4", "--temp", "0", "--dir", str(tmp_path), "--", "--top-k", "1"]
    result = _invoke(run_gguf, *words)
    assert result.exit_code == 0, result.output
    assert capfd.readouterr() == (f"-m {gguf} -p Once upon -n 4 --temp 0.0 -no-cnv --top-k 1\n", "")


def test_running_can_show_what_llama_cpp_says(tmp_path: Path, gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _build_in(tmp_path, SAYS_ITS_WORDS)
    _invoke(run_gguf, str(gguf), "-p", "x", "--dir", str(tmp_path), "--verbose")
    assert capfd.readouterr().err == "loading\n"


def test_a_run_that_fails_says_how_and_why(tmp_path: Path, gguf: Path) -> None:
    _build_in(tmp_path, "echo no such tensor >&2; exit 1")
    error = _invoke(run_gguf, str(gguf), "-p", "x", "--dir", str(tmp_path)).exception
    assert isinstance(error, ToolchainError)
    assert error.message == "`llama-completion` failed, exit code 1"
    assert error.hint == "no such tensor"


def test_a_run_that_fails_shows_its_first_error(tmp_path: Path, gguf: Path) -> None:
    said = ["I loading", "E load: error loading model: no such tensor", "E main: failed to load model"]
    _build_in(tmp_path, f"printf '%s\\n' {shlex.join(said)} >&2; exit 1")
    error = _invoke(run_gguf, str(gguf), "-p", "x", "--dir", str(tmp_path)).exception
    assert isinstance(error, ToolchainError)
    assert error.message == f"`llama-completion` failed, exit code 1: {said[1]}"
    assert error.hint == said[2]


def test_a_file_that_is_no_gguf_is_told_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"<!DOCTYPE html>")
    _build_in(tmp_path, f"touch '{tmp_path}/started'")
    error = _invoke(run_gguf, str(tmp_path / "model.gguf"), "-p", "x", "--dir", str(tmp_path)).exception
    assert isinstance(error, CheckpointError)
    assert not (tmp_path / "started").exists()


def test_a_run_that_the_user_interrupts_is_no_failure_of_llama_cpp(tmp_path: Path, gguf: Path) -> None:
    _build_in(tmp_path, "exit 130")
    result = _invoke(run_gguf, str(gguf), "-p", "x", "--dir", str(tmp_path))
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1  # Click's own word for KeyboardInterrupt; `convert.cli.main` ends with 130
    assert "Aborted" in result.output


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("-p", "x"), "run `convert build-llamacpp --dir '{home}'`"),
        (("--server",), "run `convert build-llamacpp --server --dir '{home}'`"),
    ],
)
def test_without_a_build_the_error_says_the_command(
    words: tuple[str, ...], hint: str, gguf: Path, tmp_path: Path
) -> None:
    error = _invoke(run_gguf, str(gguf), *words, "--dir", str(tmp_path)).exception
    assert isinstance(error, ToolchainError)
    assert error.hint == hint.format(home=tmp_path)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_a_build_is_offered(answer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    build = _build_in(tmp_path / "built", "")

    def confirm(question: str, *, err: bool, abort: bool) -> None:
        assert err
        assert abort
        asked.append(question)
        if not answer:
            raise click.Abort

    monkeypatch.setattr(click, "confirm", confirm)
    monkeypatch.setattr(llama_cpp, "build_llamacpp", lambda **_: build)
    for name in ("stdin", "stderr"):
        monkeypatch.setattr(sys, name, _Terminal())
    with nullcontext() if answer else pytest.raises(click.Abort):
        assert llama_cpp_commands.find_or_build("completion", tmp_path) == build.programs["completion"]
    assert "`convert build-llamacpp --dir" in asked[0]


def test_a_build_without_the_server_is_no_build_for_the_server(tmp_path: Path, gguf: Path) -> None:
    _build_in(tmp_path, "")
    error = _invoke(run_gguf, str(gguf), "--server", "--dir", str(tmp_path)).exception
    assert isinstance(error, ToolchainError)
    assert "server" in error.message


def test_a_run_that_makes_no_sense_is_a_usage_error() -> None:
    assert _invoke(run_gguf, __file__).exit_code == 2


KEYS = {
    "system",
    "cores",
    "memory_nbytes",
    "disk",
    "compilers",
    "tools",
    "cuda",
    "gpus",
    "python",
    "kernel_level",
    "llama_cpp_builds",
    "network",
    "commands",
}


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask addresses that refuse at once."""
    monkeypatch.setattr(doctor_room, "GIT_URL", "http://127.0.0.1:9/git")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple/")


@pytest.mark.usefixtures("_no_network")
def test_the_doctor_tells_what_is_here(tmp_path: Path) -> None:
    _build_in(tmp_path, "")
    result = _invoke(doctor, "--json", "--dir", str(tmp_path))
    machine = json.loads(result.stdout)
    assert set(machine) == KEYS
    assert machine["cores"] >= 1
    assert machine["memory_nbytes"]["total"] > 0
    assert machine["disk"]["path"] == str(tmp_path)
    assert machine["python"]["packages"]["numpy"]
    assert [build["commit"] for build in machine["llama_cpp_builds"]] == [COMMIT]
    assert not machine["network"]["git_host"]["reachable"]
    assert machine["network"]["package_index"]["url"] == "http://127.0.0.1:9/simple/"
    by_name = {command["command"]: command for command in machine["commands"]}
    assert by_name["convert run"]["ready"]
    assert not by_name["convert build-llamacpp"]["ready"]
    assert "source tree of yours" in by_name["convert build-llamacpp"]["does"]


@pytest.mark.usefixtures("_no_network")
def test_the_doctor_survives_a_machine_without_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for name in ("CC", "CXX", "CUDACXX", "CUDA_PATH", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    machine = doctor_room.examine(tmp_path / "home")
    assert set(machine) == KEYS
    assert set(machine["tools"].values()) == {None}
    assert set(machine["compilers"].values()) == {None}
    assert machine["llama_cpp_builds"] == []
    building = next(command for command in machine["commands"] if command["command"] == "convert build-llamacpp")
    assert not building["ready"]
    assert "pip install cmake" in building["install"]["tools"]
    run = next(command for command in machine["commands"] if command["command"] == "convert run")
    assert run["install"] == {"llama.cpp": "convert build-llamacpp"}


@pytest.mark.usefixtures("_no_network")
def test_the_doctor_speaks_to_people_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "find_cuda", lambda: Cuda(None, None, None, None, None, ()))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/gguf-convert", "doctor"])
    result = _invoke(doctor, "--dir", str(tmp_path))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "ready: gguf-convert all, gguf, quantize · not ready, see below: gguf-convert build-llamacpp; gguf-convert run"
    )
    for word in ("machine", "memory", "disk", "c++", "cmake", "GPU", "git host", "package index"):
        assert f"\n{word} " in f"\n{result.stdout}"
    assert "CUDA" not in result.stdout.replace("no CUDA: nvcc was not found", "")
    assert "  llama.cpp: gguf-convert build-llamacpp" in lines
    packages = lines[lines.index("packages") + 1 :]
    assert [line.split()[0] for line in packages][:2] == ["gguf-convert", "numpy"]
    assert all(len(line.split()) == 2 for line in packages)
    assert max(map(len, lines)) > 80  # lines are not broken where nobody looks at a terminal


@pytest.mark.usefixtures("_no_network")
def test_the_doctor_knows_a_build_that_does_not_run(tmp_path: Path) -> None:
    _build_in(tmp_path, "echo libx.so: cannot open shared object file >&2; exit 127")
    by_name = {command["command"]: command for command in doctor_room.examine(tmp_path)["commands"]}
    assert not by_name["convert run"]["ready"]
    assert "libx.so" in by_name["convert run"]["does"]
    assert "install it again" in by_name["convert run"]["install"]["llama.cpp"]


@pytest.mark.usefixtures("_no_network")
def test_the_doctor_can_tell_that_a_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy", "gguf", "rich", "convert.terminal", "convert.codec"):
        monkeypatch.setitem(sys.modules, name, None)
    real = metadata.version

    def version(name: str) -> str:
        if name == "gguf":
            raise metadata.PackageNotFoundError
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    result = _invoke(doctor, "--dir", str(tmp_path))
    assert result.exit_code == 0, result.exception
    assert f"  {'gguf':16} missing" in result.stdout
    assert "  gguf: pip install gguf" in result.stdout


def test_importing_the_commands_loads_nothing_heavy() -> None:
    program = "import sys, convert.cli.llama_cpp_commands; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert not {"rich", "git", "numpy", "torch", "convert.llama_cpp"} & set(said.stdout.split())
