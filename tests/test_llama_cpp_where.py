"""Where builds lie, which of them is taken, and arguments that make no sense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert.cli import cli
from convert.errors import Remedy, ToolchainError, UsageError
from convert.llama_cpp import Build, Silent, build_llamacpp, find_build, read_builds, where
from convert.llama_cpp.build import processor
from convert.llama_cpp.build_json import write_build
from convert.llama_cpp.pin import COMMIT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "nowhere"}, "is not a folder"),
        ({"source": "pypi", "ref": "b1"}, "PyPI carries the pinned commit only"),
        ({"ref": "--upload-pack=x"}, "is not the name of"),
        ({"cublas": "mine"}, "`cublas` is `mine`"),
        ({"jobs": 0}, "`jobs` is 0"),
        ({"cmake_args": ["GGML_NATIVE=OFF"]}, "begin with `-`"),
    ],
)
def test_arguments_that_make_no_sense_are_usage_errors(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        build_llamacpp(directory=tmp_path / "home", **arguments)
    assert not (tmp_path / "home").exists()


def test_the_checkout_comes_before_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "gguf-convert" / "llama.cpp"
    checkout = Path(__file__).resolve().parent.parent
    assert [home.path for home in where.homes()] == [checkout / "vendor" / "llama.cpp", cache]
    assert [home.path for home in where.homes(tmp_path / "mine")] == [tmp_path / "mine"]
    monkeypatch.setattr(where, "checkout_directory", lambda: None)
    assert [home.path for home in where.homes()] == [cache]


def test_only_the_current_directory_makes_a_checkout_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "clone"
    (clone / "convert").mkdir(parents=True)
    (clone / "deep" / "down").mkdir(parents=True)
    (clone / "convert" / "__init__.py").touch()
    (clone / "pyproject.toml").write_text('name = "gguf-convert"\n')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = tmp_path / "cache" / "gguf-convert" / "llama.cpp"
    for here, place in ((clone / "deep" / "down", clone / "vendor" / "llama.cpp"), (tmp_path, cache)):
        monkeypatch.chdir(here)
        monkeypatch.setattr("sys.prefix", str(clone / ".venv"))
        assert where.home().path == place
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert where.home().path == tmp_path / "user" / ".cache" / "gguf-convert" / "llama.cpp"


@pytest.mark.parametrize("command", ["build-llamacpp", "run", "verify", "doctor", "quantize", "all"])
def test_every_command_that_needs_llama_cpp_takes_the_same_option(command: str) -> None:
    (option,) = (option for option in cli.commands[command].params if "--dir" in option.opts)
    assert option.name == "directory"
    assert "checkout around here" in (getattr(option, "help", "") or "")


def _build_of(commit: str, finished: str, folder: Path) -> Build:
    program = folder / "llama-quantize"
    folder.mkdir(parents=True)
    program.touch(0o755)
    facts = {"source": "", "tree": folder, "backend": "cpu", "reason": "", "options": {}, "compilers": {}, "cmake": ""}
    more = {"configure": (), "programs": {"quantize": program}, "aliases": {}, "finished": finished, "seconds": 1.0}
    build = Build(directory=folder, commit=commit, **facts, **more)  # type: ignore[arg-type]
    write_build(build)
    return build


def test_the_pinned_build_is_preferred_to_a_newer_one(tmp_path: Path) -> None:
    pinned = _build_of(COMMIT, "2026-01-01", tmp_path / "builds" / "a")
    newer = _build_of("f" * 40, "2026-02-02", tmp_path / "builds" / "b")
    assert read_builds([where.Home(tmp_path)]) == [newer, pinned]
    assert find_build("quantize", tmp_path) == pinned
    assert find_build("completion", tmp_path) is None


def test_a_build_for_another_kind_of_processor_is_not_found(tmp_path: Path) -> None:
    build = _build_of(COMMIT, "2026-01-01", tmp_path / "builds" / "a")
    write_build(replace(build, options={"processor": processor()}))
    assert find_build("quantize", tmp_path) is not None
    write_build(replace(build, options={"processor": "m68k-00000000"}))
    assert find_build("quantize", tmp_path) is None


@pytest.mark.parametrize("spoil", ["program", "json", "unfinished"])
def test_a_build_that_is_not_whole_is_not_found(spoil: str, tmp_path: Path) -> None:
    build = _build_of(COMMIT, "2026-01-01", tmp_path / "builds" / "a")
    assert find_build("quantize", tmp_path) == build
    if spoil == "program":
        build.programs["quantize"].unlink()
    else:
        path = build.directory / ("build.json" if spoil == "json" else "unfinished")
        path.write_text('{"commit":')
    assert find_build("quantize", tmp_path) is None


def test_a_folder_that_cannot_be_written_is_an_error_that_names_dir(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ToolchainError, match="cannot build in") as caught,
        where.locked(where.Home(tmp_path / "file" / "home"), Silent()),
    ):
        pass
    assert caught.value.remedies == (Remedy.BUILD_ELSEWHERE,)
