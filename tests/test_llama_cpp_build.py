"""Fetch, configure, build, start, find again: the whole way, on a small CMake project that stands in for llama.cpp.

The real tree takes minutes; this one has the same programs' names, a library, and nothing else. It is a git repository
made here, reached by a file URL. The real tree is built by the session's `reference` fixture.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

import git
import pytest

from convert.errors import ProgramError, ToolchainError
from convert.llama_cpp import build_llamacpp, find_build, find_program
from convert.llama_cpp.build_json import Build, read_build
from convert.llama_cpp.programs import PROGRAMS, judge, put_aliases
from convert.process import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from convert.errors import Remedy
    from convert.llama_cpp import Reporter

NAMES: Final = "llama-completion llama-quantize llama-perplexity llama-imatrix llama-bench llama-tokenize llama-server"
CMAKE_LISTS: Final = f"""
cmake_minimum_required(VERSION 3.14)
project(standin C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${{CMAKE_BINARY_DIR}}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${{CMAKE_BINARY_DIR}}/bin)
add_library(llama SHARED llama.c)
foreach(name {NAMES.replace("llama-server", "")})
  add_executable(${{name}} main.c)
  target_link_libraries(${{name}} llama)
  target_compile_definitions(${{name}} PRIVATE NAME="${{name}}")
endforeach()
if (LLAMA_BUILD_SERVER)
  add_executable(llama-server main.c)
  target_link_libraries(llama-server llama)
  target_compile_definitions(llama-server PRIVATE NAME="llama-server")
endif()
"""
LLAMA_C: Final = "int started(void) { return 0; }\n"
MAIN_C: Final = r"""
#include <stdio.h>
#include <string.h>
int started(void);
int main(int count, char **words) {
    (void)count, (void)words;
    printf("%s here\n", NAME);
    return strcmp(NAME, "llama-quantize") == 0 ? 1 : started();
}
"""


class Listening:
    """Keeps what a build tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[str, float, float]] = []

    def say(self, text: str, remedies: Sequence[Remedy] = ()) -> None:
        """Keep a line."""
        del remedies
        self.lines.append(text)

    def advance(self, what: str, done: float, total: float) -> None:
        """Keep a step."""
        self.steps.append((what, done, total))


def _write_tree(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, text in (("CMakeLists.txt", CMAKE_LISTS), ("llama.c", LLAMA_C), ("main.c", MAIN_C)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = _write_tree(tmp_path_factory.mktemp("git") / "llama.cpp")
    with git.Repo.init(folder, initial_branch="master") as repository:
        repository.index.add(["CMakeLists.txt", "llama.c", "main.c"])
        author = git.Actor("someone", "someone@example.org")
        repository.index.commit("a stand-in", author=author, committer=author)
        repository.create_tag("b1")
    return folder


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Path, Listening]:
    """Build once from git; the tests look at what came of it."""
    home, listening = tmp_path_factory.mktemp("home"), Listening()
    build = build_llamacpp(
        source=repository.as_uri(), ref="b1", backend="cpu", directory=home, jobs=2, reporter=listening
    )
    return build, home, listening


def _build(
    tree: Path, home: Path, *, cmake_args: Sequence[str] = (), server: bool = False, reporter: Reporter | None = None
) -> Build:
    return build_llamacpp(
        source=str(tree), backend="cpu", directory=home, jobs=1, cmake_args=cmake_args, server=server, reporter=reporter
    )


def _n_configured(build: Build) -> int:
    return build.log.read_text().count(" -S ")


def test_every_program_but_the_server_is_built_and_starts(built: tuple[Build, Path, Listening]) -> None:
    build = built[0]
    assert {role: path.name for role, path in build.programs.items()} == {
        program.role: program.names[0] for program in PROGRAMS if program.names[0] in NAMES and program.role != "server"
    }
    for path in build.programs.values():
        assert ask([path]).stdout == f"{path.name} here\n"


def test_the_names_everybody_knows_lead_to_the_programs(built: tuple[Build, Path, Listening]) -> None:
    build, home, _ = built
    for folder in (home, build.bin):
        assert ask([folder / "main"]).stdout == "llama-completion here\n"
        assert ask([folder / "quantize"]).stdout == "llama-quantize here\n"
        assert ask([folder / "perplexity"]).stdout == "llama-perplexity here\n"
    assert ask([home / "llama-completion"]).stdout == "llama-completion here\n"


def test_a_library_of_the_build_is_found_by_its_name(built: tuple[Build, Path, Listening]) -> None:
    assert built[0].library("llama").parent == built[0].bin
    with pytest.raises(ToolchainError, match="has no library `ggml-base`"):
        built[0].library("ggml-base")


def test_programs_find_their_libraries_beside_themselves_and_nowhere_else(built: tuple[Build, Path, Listening]) -> None:
    if sys.platform != "linux":
        pytest.fail("readelf reads ELF files: this test needs another tool here")
    said = ask(["readelf", "-d", built[0].programs["completion"]]).stdout
    assert "[$ORIGIN]" in next(line for line in said.splitlines() if "RUNPATH" in line or "RPATH" in line)


def test_build_json_says_what_was_built_and_how(built: tuple[Build, Path, Listening], repository: Path) -> None:
    build = built[0]
    facts = json.loads((build.directory / "build.json").read_text())
    with git.Repo(repository) as origin:
        assert facts["commit"] == origin.head.commit.hexsha
    assert facts["backend"] == "cpu"
    assert facts["source"] == f"git {repository.as_uri()}"
    assert facts["configure"][1:3] == ["-S", str(build.tree)]
    assert list(facts["compilers"]) == ["C"]
    assert facts["programs"]["completion"] == "bin/llama-completion"
    assert facts["aliases"]["main"] == "llama-completion"
    assert facts["seconds"] > 0
    assert read_build(build.directory) == build


def test_a_build_tells_its_decisions_its_log_and_its_steps(built: tuple[Build, Path, Listening]) -> None:
    build, _, listening = built
    told = "\n".join(listening.lines)
    for fact in ("backend: cpu (asked for)", "source: git file://", "configuring and building", str(build.log)):
        assert fact in told
    assert "-DCMAKE" not in told  # command lines are in the log
    assert build.log.read_text().count("-DCMAKE_BUILD_TYPE=Release") >= 1
    steps = [step for step in listening.steps if step[0] == "building"]
    assert steps[-1][1] == steps[-1][2] > 1
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)


def test_a_finished_build_is_found_and_not_made_again(built: tuple[Build, Path, Listening], repository: Path) -> None:
    build, home, _ = built
    listening = Listening()
    with git.Repo(repository) as origin:
        commit = origin.head.commit.hexsha
    # The whole commit is known without asking the host, so a host that is gone is no matter.
    again = build_llamacpp(source="file:///gone", ref=commit, backend="cpu", directory=home, reporter=listening)
    assert again == build
    assert listening.lines == ["backend: cpu (asked for)", f"place: {home}"]
    assert find_build(directory=home) == build
    assert find_program("quantize", directory=home) == build.programs["quantize"]
    assert find_program("server", directory=home) is None


def test_other_options_are_another_build(tmp_path: Path) -> None:
    tree = _write_tree(tmp_path / "tree")
    first = _build(tree, tmp_path / "home")
    second = _build(tree, tmp_path / "home", cmake_args=("-DGGML_NATIVE=OFF",))
    assert first.directory != second.directory
    assert ask([tmp_path / "home" / "main"]).exit_code == 0
    assert (tmp_path / "home" / "main").resolve() == second.programs["completion"].resolve()
    assert first.directory.is_dir()


def test_the_server_is_added_to_the_build_that_is_there(tmp_path: Path) -> None:
    tree = _write_tree(tmp_path / "tree")
    with git.Repo.init(tree):  # no commit yet: the tree is told apart by its path
        pass
    without = _build(tree, tmp_path / "home")
    with_server = _build(tree, tmp_path / "home", server=True)
    assert "server" not in without.programs
    assert ask([with_server.programs["server"]]).stdout == "llama-server here\n"
    assert with_server.directory == without.directory
    assert "server" in _build(tree, tmp_path / "home").programs  # and it stays


def test_a_folder_that_is_edited_is_built_again(tmp_path: Path) -> None:
    tree = _write_tree(tmp_path / "tree")
    _build(tree, tmp_path / "home")
    (tree / "main.c").write_text(MAIN_C.replace(" here", " there"))
    build = _build(tree, tmp_path / "home")
    assert ask([build.programs["completion"]]).stdout == "llama-completion there\n"


def test_without_ninja_make_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convert.llama_cpp import toolchain

    found = toolchain.find_tool
    monkeypatch.setattr(toolchain, "find_tool", lambda name: None if name == "ninja" else found(name))
    listening = Listening()
    build = _build(_write_tree(tmp_path / "tree"), tmp_path / "home", reporter=listening)
    assert ask([build.bin / "main"]).stdout == "llama-completion here\n"
    assert listening.steps[-1] == ("building", 100.0, 100.0)


def _compiler_that(folder: Path, does: str) -> str:
    """Make a `cc` that is the real one but for the file llama.c, where `does` comes first."""
    path = folder / "odd-cc"
    path.write_text(f'#!/bin/sh\ncase "$*" in *llama.c*) {does};; esac\nexec cc "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_a_compiler_that_never_works_is_an_error_of_the_configuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho no licence >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(ProgramError, match=r"configuring llama\.cpp failed") as caught:
        _build(_write_tree(tmp_path / "tree"), tmp_path / "home")
    assert caught.value.exit_code == 7
    assert caught.value.log is not None
    assert (caught.value.hint or "").endswith(f"the whole log is `{caught.value.log}`")
    assert "no licence" in caught.value.log.read_text()


def test_a_compiler_that_fails_half_way_is_an_error_of_the_building_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, flag = _write_tree(tmp_path / "tree"), tmp_path / "broken"
    flag.touch()
    monkeypatch.setenv("CC", _compiler_that(tmp_path, f"test -e {flag} && {{ echo out of memory >&2; exit 1; }}"))
    with pytest.raises(ProgramError, match=r"building llama\.cpp failed, exit code") as caught:
        _build(tree, tmp_path / "home")
    assert caught.value.exit_code == 7
    assert "out of memory" in (caught.value.hint or "")
    assert find_build(directory=tmp_path / "home") is None
    flag.unlink()
    build = _build(tree, tmp_path / "home")
    assert _n_configured(build) == 2  # gone on with: the log was kept, CMake merely looked again
    assert not (build.directory / "unfinished").exists()


_CALL: Final = """
import sys
from pathlib import Path
from convert.llama_cpp import build_llamacpp
build_llamacpp(source=sys.argv[1], backend="cpu", directory=Path(sys.argv[2]), jobs=1)
"""


def _started(tree: Path, home: Path, compiler: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _CALL, str(tree), str(home)],
        env={**os.environ, "CC": compiler, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )


def _wait_for(happens: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not happens() and time.monotonic() < end:
        time.sleep(0.02)
    assert happens()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_killed_build_leaves_nothing_at_work_and_is_finished_by_the_next_run(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, home, at_work = _write_tree(tmp_path / "tree"), tmp_path / "home", tmp_path / "at-work"
    # The first compilation hangs, and tells who hangs; the second one goes through.
    compiler = _compiler_that(tmp_path, f"test -e {at_work} || {{ echo $$ > {at_work}; exec sleep 60; }}")
    with _started(tree, home, compiler) as build:
        _wait_for(lambda: at_work.exists() and at_work.read_text().strip())
        hanging = int(at_work.read_text())
        build.send_signal(number)
        assert build.wait(timeout=10) != 0
    assert find_build(directory=home) is None
    monkeypatch.setenv("CC", compiler)
    finished = _build(tree, home)
    assert ask([finished.bin / "main"]).stdout == "llama-completion here\n"
    _wait_for(lambda: ask(["ps", "-o", "stat=", "-p", str(hanging)]).stdout.strip()[:1] in {"", "Z"})


def test_two_builds_at_once_are_one_after_the_other(repository: Path, tmp_path: Path) -> None:
    listening, results = [Listening(), Listening()], {}

    def work(index: int) -> None:
        results[index] = build_llamacpp(
            source=repository.as_uri(), ref="b1", backend="cpu", directory=tmp_path, jobs=1, reporter=listening[index]
        )

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert _n_configured(results[0]) == 1
    assert sum(f"another process works in {tmp_path}; waiting for it" in each.lines for each in listening) == 1


def test_a_clone_that_was_cut_off_is_done_again(repository: Path, tmp_path: Path) -> None:
    with git.Repo(repository) as origin:
        commit = origin.head.commit.hexsha
    rest = tmp_path / "sources" / f".partial-{commit}" / "tree"
    rest.mkdir(parents=True)
    (rest / "half").touch()
    build = build_llamacpp(source=repository.as_uri(), ref="master", backend="cpu", directory=tmp_path, jobs=1)
    assert not (build.tree / "half").exists()
    assert sorted(path.name for path in (tmp_path / "sources").iterdir()) == [commit]


def test_a_tree_whose_programs_do_not_start_is_an_error_that_names_the_program(tmp_path: Path) -> None:
    tree = _write_tree(tmp_path / "tree")
    (tree / "llama.c").write_text("int started(void) { return 3; }\n")
    with pytest.raises(ToolchainError, match=r"bin/llama-completion` was built but does not run: exit code 3, "):
        _build(tree, tmp_path / "home")
    assert find_build(directory=tmp_path / "home") is None


def test_a_program_that_a_signal_kills_does_not_run(tmp_path: Path) -> None:
    program = tmp_path / "llama-quantize"
    program.write_text("#!/bin/sh\nkill -SEGV $$\n")
    program.chmod(0o755)
    with pytest.raises(ToolchainError, match="killed by SIGSEGV"):
        judge(program, "quantize")


def test_a_file_in_the_way_of_an_alias_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "main").write_text("mine")
    with pytest.raises(ToolchainError, match="is in the way"):
        put_aliases({"completion": tmp_path / "bin" / "llama-completion"}, [tmp_path])
    assert (tmp_path / "main").read_text() == "mine"


def test_missing_tools_are_named_all_at_once_with_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ToolchainError, match=r"`cmake`, `cc`, `c\+\+`, `ninja`, which were not found") as caught:
        build_llamacpp(directory=tmp_path)
    assert "pip install cmake" in (caught.value.hint or "")
    assert caught.value.exit_code == 7
