"""The tools that building needs: which are here, and how to get those that are not.

A `Toolchain` says that tools were found, nothing more; that a project could be configured with them is another fact,
and another type (`configure.Configured`).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.errors import ProgramError, ToolchainError
from convert.process import ask, how_it_ended

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CMAKE_MIN: Final = (3, 14)  # CMakeLists.txt @ 0c1e570

HOW_TO_GET: Final = {
    "cmake": "pip install cmake, or apt install cmake, dnf install cmake, brew install cmake",
    "ninja": "pip install ninja, or apt install ninja-build, dnf install ninja-build, brew install ninja",
    "make": "apt install make, dnf install make, xcode-select --install (macOS)",
    "c++": "apt install g++, dnf install gcc-c++, xcode-select --install (macOS)",
    "cc": "apt install gcc, dnf install gcc, xcode-select --install (macOS)",
    "ccache": "apt install ccache, dnf install ccache, brew install ccache",
    "git": "apt install git, dnf install git, xcode-select --install (macOS)",
    "pip": "python -m ensurepip, or apt install python3-pip",
    "glslc": "apt install glslc libvulkan-dev, dnf install glslc vulkan-loader-devel, brew install shaderc",
    "hipcc": "the ROCm packages: https://rocm.docs.amd.com/projects/install-on-linux",
}

_COMPILERS: Final = {"c": ("CC", ("cc", "gcc", "clang")), "c++": ("CXX", ("c++", "g++", "clang++"))}
_LAUNCHERS: Final = frozenset({"ccache", "sccache", "distcc", "icecc"})
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that was found; `version` is empty where it does not tell."""

    name: str
    path: Path
    version: str

    def as_json(self) -> dict[str, str]:
        """Return plain values."""
        return {"path": str(self.path), "version": self.version}


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler that was found. `loses_tile_config`: see `_loses_tile_config`."""

    command: tuple[str, ...]
    description: str
    loses_tile_config: bool

    def as_json(self) -> dict[str, str]:
        """Return plain values."""
        return {"command": shlex.join(self.command), "version": self.description}


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What it takes to configure and build a CMake project in C and C++."""

    cmake: Tool
    ninja: Tool | None
    make: Tool | None
    ccache: Tool | None
    c: Compiler
    cxx: Compiler


def find_toolchain() -> Toolchain:
    """Find the tools. Raises ToolchainError naming every missing one and how to get it, or a variable's."""
    for language in ("c", "c++"):
        _check_named(language)
    cmake, ninja, make = find_tool("cmake"), find_tool("ninja"), find_tool("make")
    c, cxx = find_compiler("c"), find_compiler("c++")
    missing = [name for name, found in (("cmake", cmake), ("cc", c), ("c++", cxx)) if found is None]
    if ninja is None and make is None:
        missing.append("ninja")
    if missing or cmake is None or c is None or cxx is None:
        raise missing_tools("building llama.cpp needs", missing)
    if not (version := _numbers(cmake.version)):
        said = _describe([str(cmake.path)]) or "nothing"
        raise ToolchainError(
            f"`{cmake.path}` does not work: asked for its version, it says {said}", hint=HOW_TO_GET["cmake"]
        )
    if version < CMAKE_MIN:
        wanted = ".".join(map(str, CMAKE_MIN))
        raise ToolchainError(
            f"`{cmake.path}` is CMake {cmake.version}, llama.cpp needs {wanted}", hint=HOW_TO_GET["cmake"]
        )
    return Toolchain(cmake=cmake, ninja=ninja, make=make, ccache=find_tool("ccache"), c=c, cxx=cxx)


def missing_tools(what: str, names: Sequence[str]) -> ToolchainError:
    """Make the error for tools that were not found."""
    listed = ", ".join(f"`{name}`" for name in names)
    here = "which was not found" if len(names) == 1 else "which were not found"
    return ToolchainError(f"{what} {listed}, {here}", hint="; ".join(f"{name}: {HOW_TO_GET[name]}" for name in names))


def find_tool(name: str) -> Tool | None:
    """Find a program: what pip installed beside this Python first, active or not; then along the PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return None if found is None else Tool(name, Path(found), version_of([found]))


def version_of(command: Sequence[str]) -> str:
    """Ask a program for its version: the first thing in its answer that looks like one, or nothing."""
    try:
        answer = ask([*command, "--version"], timeout_s=20)
    except ProgramError:
        return ""
    found = _VERSION.search(answer.text)
    return found.group() if answer.exit_code == 0 and found else ""


def find_compiler(language: str) -> Compiler | None:
    """Find the compiler that CMake will take: $CC or $CXX, else the usual names. `language`: `c` or `c++`.

    A launcher before it (`ccache gcc`) is left out: CMake has its own place for one.
    """
    variable, names = _COMPILERS[language]
    named = _named(variable)
    candidates = [named] if named else [[name] for name in names]
    for words in candidates:
        if found := shutil.which(words[0]):
            command = (found, *words[1:])
            return Compiler(command, _describe(command), _loses_tile_config(_macros(command, language)))
    return None


def _named(variable: str) -> list[str]:
    words = shlex.split(os.environ.get(variable, ""))
    return words[1:] if len(words) > 1 and Path(words[0]).name in _LAUNCHERS else words


def _check_named(language: str) -> None:
    """Raise ToolchainError for a compiler that a variable names and that is not there, or does not work."""
    variable, names = _COMPILERS[language]
    if not (words := _named(variable)):
        return
    says = f"${variable} is `{os.environ[variable]}`, and `{words[0]}`"
    hint = f"name another in {variable}, or unset it for the usual ones ({', '.join(names)})"
    if (found := shutil.which(words[0])) is None:
        raise ToolchainError(f"{says} was not found", hint=hint)
    try:
        answer = ask([found, *words[1:], "--version"], timeout_s=20)
    except ProgramError as error:
        raise ToolchainError(f"{says} does not work: {error.message}", hint=hint) from error
    if answer.exit_code and not answer.text:
        raise ToolchainError(f"{says} does not work: {how_it_ended(answer.exit_code)}", hint=hint)


def compiler_variables(tools: Toolchain) -> dict[str, str]:
    """Give the variables by which CMake takes these compilers, for those that the user has named."""
    found = {"CC": tools.c, "CXX": tools.cxx}
    return {name: shlex.join(compiler.command) for name, compiler in found.items() if os.environ.get(name)}


def _describe(command: Sequence[str]) -> str:
    try:
        answer = ask([*command, "--version"], timeout_s=20)
    except ProgramError:
        return ""
    return answer.stdout.partition("\n")[0].strip() if answer.exit_code == 0 else ""


def _macros(command: Sequence[str], language: str) -> Mapping[str, str]:
    """Ask a compiler what it defines for this very processor; nothing where it does not say."""
    try:
        answer = ask([*command, "-march=native", "-dM", "-E", "-x", language, os.devnull], timeout_s=20)
    except ProgramError:
        return {}
    defined = (line.split(maxsplit=2) for line in answer.stdout.splitlines())
    return {words[1]: words[2] if words[2:] else "" for words in defined if words[:1] == ["#define"] and words[1:]}


def _loses_tile_config(macros: Mapping[str, str]) -> bool:
    """Whether the compiler would use AMX here and get it wrong.

    GCC before 11.5, 12.4 and 13.3 tells its optimiser that `_tile_loadconfig` reads 8 bytes of the 64, so the others
    are never stored: llama.cpp then dies of SIGILL or SIGSEGV at the first q4_0 or q8_0 tensor, on every processor
    with AMX. Source: GCC bug target/114098; amxtileintrin.h of GCC 12.2; llama.cpp pull request 26954.
    """
    if "__AMX_INT8__" not in macros or "__clang__" in macros:
        return False
    version = int(macros.get("__GNUC__", "0")), int(macros.get("__GNUC_MINOR__", "0"))
    return version < (11, 5) or (12, 0) <= version < (12, 4) or (13, 0) <= version < (13, 3)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2]) if version else ()
