"""Tools that are named and not there, tools that do not work, and places that CMake cannot build in."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from test_llama_cpp_build import Listening, _build, _write_tree

from convert.errors import ToolchainError, UsageError
from convert.llama_cpp import find_program
from convert.llama_cpp.toolchain import find_compiler, find_toolchain
from convert.process import ask

if TYPE_CHECKING:
    from pathlib import Path


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("variable", "value", "missing"),
    [
        ("CC", "gcc-99", "gcc-99"),
        ("CXX", "clang++-99 -stdlib=libc++", "clang++-99"),
        ("CC", "ccache gcc-99", "gcc-99"),
        ("CXX", "/opt/nothing/bin/c++", "/opt/nothing/bin/c++"),
    ],
)
def test_a_variable_that_names_no_compiler_is_named(
    variable: str, value: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ToolchainError) as caught:
        find_toolchain()
    assert caught.value.message == f"${variable} is `{value}`, and `{missing}` was not found"
    assert f"unset it for the usual ones ({'cc' if variable == 'CC' else 'c++'}" in (caught.value.hint or "")


def test_a_compiler_that_dies_in_silence_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(_script(tmp_path / "cc", "kill -11 $$")))
    with pytest.raises(ToolchainError, match="does not work: killed by SIGSEGV"):
        find_toolchain()


def test_a_launcher_before_the_compiler_is_left_to_cmake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _script(tmp_path / "bin" / "ccache", 'exec "$@"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("CC", "ccache cc -O1")
    compiler = find_compiler("c")
    assert compiler is not None
    assert compiler.command == (shutil.which("cc"), "-O1")
    build = _build(_write_tree(tmp_path / "tree"), tmp_path / "home")
    assert build.programs["quantize"].is_file()


@pytest.mark.parametrize("script", ["echo no python here >&2; exit 1", "exit 0", "echo cmake"])
def test_a_cmake_that_does_not_tell_its_version_does_not_work(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cmake = _script(tmp_path / "bin" / "cmake", script)
    monkeypatch.setenv("PATH", str(cmake.parent), prepend=":")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(ToolchainError, match=f"`{cmake}` does not work") as caught:
        find_toolchain()
    assert "pip install cmake" in (caught.value.hint or "")


@pytest.mark.parametrize("letter", ['"', ";", "\\", ":", "\n"])
def test_a_place_that_cmake_cannot_build_in_is_refused_first(letter: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be built in") as caught:
        _build(_write_tree(tmp_path / "tree"), tmp_path / f"a{letter}b")
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    assert "another" in (caught.value.hint or "")


def test_other_letters_are_no_matter(tmp_path: Path) -> None:
    home = tmp_path / "it's a $HOME, (50%) #1 & äöü [x] {y} @z!"
    _build(_write_tree(tmp_path / "tree"), home)
    program = find_program("quantize", home)
    assert program is not None
    assert ask([program]).stdout == "llama-quantize here\n"


def test_cmake_args_of_the_environment_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    listening = Listening()
    _build(_write_tree(tmp_path / "tree"), tmp_path / "home", reporter=listening)
    assert "CMAKE_ARGS is not read: -DGGML_CUDA=ON" in listening.lines
