"""The exact CMake command lines, as pure functions; and what CMake made of one, read from its File API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from convert.errors import ToolchainError
from convert.llama_cpp.backend import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from convert.llama_cpp.cuda import Cublas
    from convert.llama_cpp.toolchain import Toolchain

# What every build has. Some names are known only to newer or older trees than the pinned one: CMake says that they are
# unused, and goes on.
COMMON: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=ON",  # llama-gguf-hash is one
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # nothing is downloaded while building
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
    # The build's own rpath would end in an empty entry, by which programs look for libraries in the current directory.
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH_USE_LINK_PATH=ON",
)
_OFF_UNLESS_ASKED: Final = "-DGGML_METAL=OFF"  # on macOS it is on by default
# DT_RPATH, which the loader reads before LD_LIBRARY_PATH: another llama.cpp's libraries there are not taken.
_OWN_LIBRARIES_FIRST: Final = tuple(
    f"-DCMAKE_{kind}_LINKER_FLAGS_INIT=-Wl,--disable-new-dtags" for kind in ("EXE", "SHARED")
)
# GCC's broken `_tile_loadconfig`, see `toolchain`: without the macro llama.cpp takes its AVX-512 code instead of AMX.
_WITHOUT_AMX: Final = ("-DCMAKE_C_FLAGS_INIT=-U__AMX_INT8__", "-DCMAKE_CXX_FLAGS_INIT=-U__AMX_INT8__")


@dataclass(frozen=True, slots=True)
class Options:
    """What is built, as far as CMake must know.

    commit: what the programs tell as theirs. cublas: given only where it does not lie in the toolkit. link_driver:
    whether programs may need the CUDA driver's library to start. extra: the user's own arguments, last.
    """

    backend: Backend
    commit: str
    server: bool = False
    nvcc: Path | None = None
    cuda_arch: str = ""
    cublas: Cublas | None = None
    link_driver: bool = True
    hip_compiler: Path | None = None
    without_amx: bool = False
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Configured:
    """A build folder that CMake configured: its programs by target name, and its compilers by language."""

    build_dir: Path
    programs: Mapping[str, Path]
    compilers: Mapping[str, str]


def configure_command(tools: Toolchain, tree: Path, build_dir: Path, options: Options, *, system: str) -> list[str]:
    """Give the command line that configures `tree` in `build_dir`. system: `sys.platform`'s word."""
    command = [str(tools.cmake.path), "-S", str(tree), "-B", str(build_dir)]
    if tools.ninja is not None:
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja.path}"]
    else:
        command += ["-G", "Unix Makefiles"]
    command += COMMON
    command += [f"-DLLAMA_BUILD_SERVER={'ON' if options.server else 'OFF'}"]
    # Else upstream asks git, which may answer for the checkout around the tree, or count a shallow history.
    command += [f"-DLLAMA_BUILD_COMMIT={options.commit[:10]}", "-DLLAMA_BUILD_NUMBER=0"]
    command += [f"-DCMAKE_INSTALL_RPATH={_rpath(options, system)}"]
    if system == "linux":
        command += _OWN_LIBRARIES_FIRST
    command += _backend_arguments(options)
    if options.without_amx:
        command += _WITHOUT_AMX
    command += _launchers(tools, options)
    return [*command, *options.extra]


def build_command(cmake: Path, build_dir: Path, targets: Sequence[str], jobs: int) -> list[str]:
    """Give the command line that builds these targets."""
    return [str(cmake), "--build", str(build_dir), "--parallel", str(jobs), "--target", *targets]


def _rpath(options: Options, system: str) -> str:
    own = "@loader_path" if system == "darwin" else "$ORIGIN"
    return own if options.cublas is None else f"{own};{options.cublas.library.parent}"


def _backend_arguments(options: Options) -> list[str]:
    if options.backend is Backend.METAL:
        return ["-DGGML_METAL=ON"]
    if options.backend is Backend.VULKAN:
        return [_OFF_UNLESS_ASKED, "-DGGML_VULKAN=ON"]
    if options.backend is Backend.HIP:
        compiler = [f"-DCMAKE_HIP_COMPILER={options.hip_compiler}"] if options.hip_compiler else []
        return ["-DGGML_HIP=ON", *compiler]
    return _cuda_arguments(options) if options.backend is Backend.CUDA else [_OFF_UNLESS_ASKED]


def _cuda_arguments(options: Options) -> list[str]:
    arguments = ["-DGGML_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={options.cuda_arch}"]
    if options.nvcc is not None:
        arguments += [f"-DCMAKE_CUDA_COMPILER={options.nvcc}"]
    if options.cublas is not None:
        arguments += [
            f"-DCUDA_cublas_LIBRARY={options.cublas.library}",
            f"-DCUDA_cublasLt_LIBRARY={options.cublas.library_lt}",
            f"-DCMAKE_CUDA_STANDARD_INCLUDE_DIRECTORIES={options.cublas.include}",
        ]
    if not options.link_driver:
        arguments += ["-DGGML_CUDA_NO_VMM=ON"]
    return arguments


def _launchers(tools: Toolchain, options: Options) -> list[str]:
    if tools.ccache is None:
        return ["-DGGML_CCACHE=OFF"]
    languages = ["C", "CXX"]
    languages += {Backend.CUDA: ["CUDA"], Backend.HIP: ["HIP"]}.get(options.backend, [])
    return [f"-DCMAKE_{language}_COMPILER_LAUNCHER={tools.ccache.path}" for language in languages]


def ask_file_api(build_dir: Path) -> None:
    """Leave the question that CMake answers when it configures: which targets and compilers are there."""
    query = build_dir / ".cmake" / "api" / "v1" / "query"
    query.mkdir(parents=True, exist_ok=True)
    for kind in ("codemodel-v2", "toolchains-v1"):
        (query / kind).touch()


def read_file_api(build_dir: Path) -> Configured:
    """Read CMake's answer. Raises ToolchainError if there is none."""
    reply = build_dir / ".cmake" / "api" / "v1" / "reply"
    try:
        answers = _json(max(reply.glob("index-*.json")))["reply"]
        model = _json(reply / answers["codemodel-v2"]["jsonFile"])
        programs = dict(_programs(reply, model, build_dir))
        toolchains = answers.get("toolchains-v1", {}).get("jsonFile")  # CMake 3.20 and later
        compilers = {} if toolchains is None else dict(_compilers(_json(reply / toolchains)))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ToolchainError(f"CMake left no answer to our question in `{reply}`: {error}") from error
    return Configured(build_dir, programs, compilers)


def _programs(reply: Path, model: Mapping[str, Any], build_dir: Path) -> list[tuple[str, Path]]:
    targets = [_json(reply / target["jsonFile"]) for target in model["configurations"][0]["targets"]]
    programs = [target for target in targets if target["type"] == "EXECUTABLE" and target.get("artifacts")]
    return [(target["name"], build_dir / target["artifacts"][0]["path"]) for target in programs]


def _compilers(toolchains: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(entry["language"], entry["compiler"]) for entry in toolchains["toolchains"]]
    return [(name, " ".join(str(facts.get(key, "")) for key in ("id", "version", "path"))) for name, facts in found]


def _json(path: Path) -> Any:  # noqa: ANN401 - whatever CMake wrote
    return json.loads(path.read_text(encoding="utf-8"))
