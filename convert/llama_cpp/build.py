"""Building llama.cpp: one build per (commit, backend, options), found again, gone on with, or made.

    tools ── backend ── lock ── tree ── configure ── build ── start every program ── build.json ── links

Killed at any point, the next call goes on from there or begins afresh; see `_begin`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.errors import Remedy, ToolchainError, UsageError
from convert.llama_cpp import configure, source, where
from convert.llama_cpp.backend import Backend, Choice, choose_backend, hip_compiler
from convert.llama_cpp.build_json import NAME, Build, read_build, write_build
from convert.llama_cpp.cuda import fetch_cublas
from convert.llama_cpp.programs import choose_targets, judge, put_aliases
from convert.llama_cpp.reporter import Reporter, Silent
from convert.llama_cpp.toolchain import Toolchain, compiler_variables, find_toolchain
from convert.process import end_leftover, run, usable_processors
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convert.llama_cpp.source import Tree
    from convert.llama_cpp.where import Home

_STEP: Final = re.compile(r"^\[\s*(\d+)(?:/(\d+)|%)\]\s*(.*)")
_NOT_IN_A_PATH: Final = frozenset('";\\:')
_CONFIGURE_TIMEOUT_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; see `build_llamacpp`."""

    source: str
    ref: str | None
    choice: Choice
    cublas_from_pypi: bool
    server: bool
    cmake_args: tuple[str, ...]
    jobs: int

    def options_json(self) -> dict[str, Any]:
        """Give what tells two builds of one commit and backend apart. The server does not: it is one program more."""
        return {
            "cuda_arch": self.choice.cuda_arch,
            "cublas": "pypi" if self.cublas_from_pypi else "toolkit",
            "cmake_args": list(self.cmake_args),
            "compilers": {name: os.environ[name] for name in ("CC", "CXX", "CUDAHOSTCXX") if os.environ.get(name)},
            "flags": {name: os.environ[name] for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS") if os.environ.get(name)},
            "processor": processor(),
        }


def build_llamacpp(
    *,
    source: str = "auto",
    ref: str | None = None,
    backend: str = "auto",
    cuda_arch: str | None = None,
    cublas: str = "toolkit",
    server: bool = False,
    directory: Path | None = None,
    cmake_args: Sequence[str] = (),
    jobs: int | None = None,
    reporter: Reporter | None = None,
) -> Build:
    """Build llama.cpp, or find it built.

    source: `auto`, `git`, `pypi`, a git URL, or a source tree's path. ref: a tag, branch or commit instead of the pin.
    backend: `auto` or a `Backend`'s value. cuda_arch: compute capabilities, `90` or `86,90`. cublas: `toolkit` or
    `pypi`. server: also build llama-server. directory: where, instead of `where.home()`. cmake_args: passed through.
    Raises UsageError, or ToolchainError with what is missing or which step failed and where its log is.
    """
    telling = reporter or Silent()
    check_arguments(source, ref, cublas, cmake_args, jobs)
    place = where.home(directory)
    _check_path(place.path)
    tools = find_toolchain()
    from_pypi = cublas == "pypi"
    choice = choose_backend(backend, cuda_arch=cuda_arch, cublas_from_pypi=from_pypi)
    telling.say(f"backend: {choice.backend.value} ({choice.reason})")
    telling.say(f"place: {place.path}")
    if choice.unused:
        telling.say(f"the GPU {choice.unused} is not used: {choice.reason}", choice.remedies)
    if os.environ.get("CMAKE_ARGS"):
        telling.say(f"CMAKE_ARGS is not read: {os.environ['CMAKE_ARGS']}")
    request = Request(
        source,
        ref,
        choice,
        from_pypi and choice.backend is Backend.CUDA,
        server,
        tuple(cmake_args),
        jobs or usable_processors(),
    )
    try:
        found = _find(request, place)
        if found is None:
            with where.locked(place, telling):
                # Another process may have built it while we waited for the lock.
                found = _find(request, place) or _build(request, place, tools, telling)
        put_aliases(found.programs, (found.bin, place.path))
    except OSError as error:
        raise ToolchainError(f"cannot build in `{place.path}`: {error}", remedies=(Remedy.BUILD_ELSEWHERE,)) from error
    return found


def check_arguments(
    wanted_source: str, ref: str | None, cublas: str, cmake_args: Sequence[str], jobs: int | None
) -> None:
    """Raise UsageError for arguments that make no sense."""
    source.check(wanted_source, ref)
    if cublas not in {"toolkit", "pypi"}:
        raise UsageError(f"`cublas` is `{cublas}`, wanted `toolkit` or `pypi`")
    if jobs is not None and jobs < 1:
        raise UsageError(f"`jobs` is {jobs}, wanted at least 1")
    if wrong := [argument for argument in cmake_args if not argument.startswith("-")]:
        raise UsageError(f"`{wrong[0]}` is not an argument for CMake: these begin with `-`, as in `-DGGML_NATIVE=OFF`")


def _check_path(path: Path) -> None:
    """Raise UsageError for a place that CMake's lists, its generated files, or the loader's paths cannot name."""
    if wrong := [letter for letter in str(path) if letter in _NOT_IN_A_PATH or not letter.isprintable()]:
        raise UsageError(
            f"llama.cpp cannot be built in {shown(path)}: there is a {shown(wrong[0])} in its path",
            remedies=(Remedy.BUILD_ELSEWHERE,),
        )


def processor() -> str:
    """Name this kind of processor: a build is made for it, and a cache may travel to another."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else [platform.processor()]
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else "")
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def build_name(commit: str, backend: Backend, options: dict[str, Any]) -> str:
    """Name the build folder of a (commit, backend, options)."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
    return f"{commit[:15]}-{backend.value}-{digest[:8]}"


def _directory(request: Request, place: Home, commit: str) -> Path:
    return place.builds / build_name(commit, request.choice.backend, request.options_json())


def _find(request: Request, place: Home) -> Build | None:
    """Find the build, where the commit is known without asking anyone."""
    commit = source.known_commit(request.source, request.ref)
    return None if commit is None else _finished(request, _directory(request, place, commit))


def _finished(request: Request, directory: Path) -> Build | None:
    build = read_build(directory)
    return None if build is None or (request.server and "server" not in build.programs) else build


def _build(request: Request, place: Home, tools: Toolchain, telling: Reporter) -> Build:
    began = time.monotonic()
    tree = source.fetch(request.source, request.ref, place, telling)
    directory = _directory(request, place, tree.commit)
    if not tree.changes and (found := _finished(request, directory)) is not None:
        return found
    telling.say(f"source: {tree.origin}, {tree.commit}, in {tree.path}")
    options = _cmake_options(request, tree, place, tools, telling)
    command = configure.configure_command(tools, tree.path, directory, options, system=sys.platform)
    _begin(directory, command, tools)
    configured = _configure(command, directory, tree, compiler_variables(tools), telling)
    targets = choose_targets(configured.programs, server=options.server)
    making = configure.build_command(tools.cmake.path, directory, list(targets.values()), request.jobs)
    _make(making, directory, tree, telling)
    programs = {role: configured.programs[target] for role, target in targets.items()}
    for role, path in programs.items():
        judge(path, role)
    cmake = f"{tools.cmake.version} {tools.cmake.path}"
    build = _as_build(
        request, tree, configured, programs, command=command, cmake=cmake, seconds=time.monotonic() - began
    )
    write_build(build)
    (directory / "unfinished").unlink()
    return build


def _as_build(
    request: Request,
    tree: Tree,
    configured: configure.Configured,
    programs: dict[str, Path],
    *,
    command: Sequence[str],
    cmake: str,
    seconds: float,
) -> Build:
    return Build(
        directory=configured.build_dir,
        commit=tree.commit,
        source=tree.origin,
        tree=tree.path,
        backend=request.choice.backend.value,
        reason=request.choice.reason,
        options=request.options_json(),
        compilers=configured.compilers,
        cmake=cmake,
        configure=tuple(command),
        programs=programs,
        aliases=put_aliases(programs, ()),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seconds=round(seconds, 1),
    )


def _cmake_options(request: Request, tree: Tree, place: Home, tools: Toolchain, telling: Reporter) -> configure.Options:
    choice = request.choice
    cuda = choice.cuda
    wheel = fetch_cublas(place, cuda, telling) if cuda is not None and request.cublas_from_pypi else None
    without_amx = tools.c.loses_tile_config or tools.cxx.loses_tile_config
    if without_amx:
        telling.say(f"AMX: left out, {tools.cxx.description} would get it wrong (GCC bug 114098)")
    before = read_build(_directory(request, place, tree.commit))
    return configure.Options(
        backend=choice.backend,
        commit=tree.commit,
        # Once built, the server stays: configuring without it would only make it stale.
        server=request.server or (before is not None and "server" in before.programs),
        nvcc=None if cuda is None else cuda.nvcc,
        cuda_arch=choice.cuda_arch,
        cublas=wheel,
        link_driver=wheel is None and cuda is not None and cuda.can_link_driver,
        hip_compiler=hip_compiler() if choice.backend is Backend.HIP else None,
        without_amx=without_amx,
        extra=request.cmake_args,
    )


def _begin(directory: Path, command: Sequence[str], tools: Toolchain) -> None:
    """Prepare the build folder: go on with what an earlier attempt left where that is safe, else begin afresh.

    Ninja knows which of its outputs are whole, Make does not. A folder that was configured otherwise, or not to the
    end, is not gone on with.
    """
    unfinished = directory / "unfinished"
    _end_leftover(unfinished, directory)
    cut_off = unfinished.exists() and tools.ninja is None
    if cut_off or not _is_configured(directory, command):
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    (directory / NAME).unlink(missing_ok=True)
    configure.ask_file_api(directory)


def _end_leftover(unfinished: Path, directory: Path) -> None:
    """End what a build that was killed hard left at work in the folder: two at once would spoil each other's files."""
    try:
        pid = int(unfinished.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    end_leftover(pid, command_has=str(directory))


def _is_configured(directory: Path, command: Sequence[str]) -> bool:
    """Whether the folder was configured to the end, by this command line or by one that differs in the server only."""
    try:
        was = json.loads((directory / "configured.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(_but_for_server(was) == _but_for_server(command))


def _but_for_server(command: Sequence[str]) -> list[str]:
    return [word for word in command if not word.startswith("-DLLAMA_BUILD_SERVER=")]


def _configure(
    command: list[str], directory: Path, tree: Tree, compilers: dict[str, str], telling: Reporter
) -> configure.Configured:
    telling.say(f"configuring and building; every command line and what it says is in {directory / 'build.log'}")
    run(
        command,
        step="configuring llama.cpp",
        log=directory / "build.log",
        on_start=_note_pid(directory),
        timeout_s=_CONFIGURE_TIMEOUT_S,
        env=_environment(tree) | compilers,
    )
    (directory / "configured.json").write_text(json.dumps(command), encoding="utf-8")
    return configure.read_file_api(directory)


def _make(command: list[str], directory: Path, tree: Tree, telling: Reporter) -> None:
    run(
        command,
        step="building llama.cpp",
        log=directory / "build.log",
        on_line=_step_listener(telling),
        on_start=_note_pid(directory),
        env=_environment(tree),
    )


def _note_pid(directory: Path) -> Callable[[int], object]:
    return lambda pid: (directory / "unfinished").write_text(str(pid), encoding="utf-8")


def _step_listener(telling: Reporter) -> Callable[[str], None]:
    def listen(line: str) -> None:
        if found := _STEP.match(line):
            total = float(found.group(2) or 100)  # Make counts in percent
            telling.advance("building", float(found.group(1)), total)

    return listen


def _environment(tree: Tree) -> dict[str, str]:
    return {
        # Ninja's own form, whatever the user has set: the progress is read from it.
        "NINJA_STATUS": "[%f/%t] ",
        # Upstream asks git about the tree; a tree without one must not be answered by a checkout around it.
        "GIT_CEILING_DIRECTORIES": str(tree.path.parent),
    }
