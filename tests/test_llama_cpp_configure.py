"""Every backend's exact CMake command line, as data."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from convert.errors import ToolchainError
from convert.llama_cpp import backend as backend_room
from convert.llama_cpp import build as build_room
from convert.llama_cpp import configure as configure_room
from convert.llama_cpp import source as source_room
from convert.llama_cpp.backend import Backend
from convert.llama_cpp.configure import Configured, Options, build_command, configure_command, read_file_api
from convert.llama_cpp.cuda import Cublas, Cuda, Gpu
from convert.llama_cpp.pin import COMMIT
from convert.llama_cpp.programs import PROGRAMS, choose_targets
from convert.llama_cpp.source import Tree
from convert.llama_cpp.toolchain import Compiler, Tool, Toolchain, _loses_tile_config

C = Compiler(("/usr/bin/cc",), "cc 14", loses_tile_config=False)
TOOLS = Toolchain(
    cmake=Tool("cmake", Path("/bin/cmake"), "3.31"),
    ninja=Tool("ninja", Path("/bin/ninja"), "1.12"),
    make=Tool("make", Path("/bin/make"), "4.3"),
    ccache=None,
    c=C,
    cxx=C,
)
TREE, BUILD = Path("/src"), Path("/out")
WHEEL = Cublas(Path("/w/lib/libcublas.so.13"), Path("/w/lib/libcublasLt.so.13"), Path("/w/include"), from_wheel=True)
TOOLKIT = Cublas(
    Path("/cuda/lib64/libcublas.so"), Path("/cuda/lib64/libcublasLt.so"), Path("/cuda/i"), from_wheel=False
)
H200 = Gpu("NVIDIA H200", "9.0", 143771, "580.1")
CUDA = Cuda(Path("/cuda/bin/nvcc"), Path("/cuda"), (13, 0), TOOLKIT, (13, 0), (H200,))

START = ["/bin/cmake", "-S", "/src", "-B", "/out", "-G", "Ninja", "-DCMAKE_MAKE_PROGRAM=/bin/ninja"]
COMMON = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=ON",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH_USE_LINK_PATH=ON",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_COMMIT=0c1e57098b",
    "-DLLAMA_BUILD_NUMBER=0",
]
OWN = "-DCMAKE_INSTALL_RPATH=$ORIGIN"
FIRST = [f"-DCMAKE_{kind}_LINKER_FLAGS_INIT=-Wl,--disable-new-dtags" for kind in ("EXE", "SHARED")]
END = ["-DGGML_CCACHE=OFF"]
NVCC = "-DCMAKE_CUDA_COMPILER=/cuda/bin/nvcc"
WHEEL_ARGUMENTS = [
    "-DCUDA_cublas_LIBRARY=/w/lib/libcublas.so.13",
    "-DCUDA_cublasLt_LIBRARY=/w/lib/libcublasLt.so.13",
    "-DCMAKE_CUDA_STANDARD_INCLUDE_DIRECTORIES=/w/include",
    "-DGGML_CUDA_NO_VMM=ON",
]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        pytest.param(Options(Backend.CPU, COMMIT), [OWN, *FIRST, "-DGGML_METAL=OFF", *END], id="cpu"),
        pytest.param(
            Options(Backend.CUDA, COMMIT, nvcc=CUDA.nvcc, cuda_arch="90"),
            [OWN, *FIRST, "-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90", NVCC, *END],
            id="cuda",
        ),
        pytest.param(
            Options(Backend.CUDA, COMMIT, nvcc=CUDA.nvcc, cuda_arch="86;90", link_driver=False),
            [OWN, *FIRST, "-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=86;90", NVCC, "-DGGML_CUDA_NO_VMM=ON", *END],
            id="cuda-without-a-driver",
        ),
        pytest.param(
            Options(Backend.CUDA, COMMIT, nvcc=CUDA.nvcc, cuda_arch="90", cublas=WHEEL, link_driver=False),
            [f"{OWN};/w/lib", *FIRST, "-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90", NVCC, *WHEEL_ARGUMENTS, *END],
            id="cuda-with-cublas-from-pypi",
        ),
        pytest.param(Options(Backend.METAL, COMMIT), [OWN, *FIRST, "-DGGML_METAL=ON", *END], id="metal"),
        pytest.param(
            Options(Backend.VULKAN, COMMIT), [OWN, *FIRST, "-DGGML_METAL=OFF", "-DGGML_VULKAN=ON", *END], id="vulkan"
        ),
        pytest.param(
            Options(Backend.HIP, COMMIT, hip_compiler=Path("/opt/rocm/llvm/bin/clang++")),
            [OWN, *FIRST, "-DGGML_HIP=ON", "-DCMAKE_HIP_COMPILER=/opt/rocm/llvm/bin/clang++", *END],
            id="hip",
        ),
        pytest.param(
            Options(Backend.CPU, COMMIT, without_amx=True, extra=("-DGGML_NATIVE=OFF",)),
            [
                OWN,
                *FIRST,
                "-DGGML_METAL=OFF",
                "-DCMAKE_C_FLAGS_INIT=-U__AMX_INT8__",
                "-DCMAKE_CXX_FLAGS_INIT=-U__AMX_INT8__",
                *END,
                "-DGGML_NATIVE=OFF",
            ],
            id="cpu-without-amx-and-an-argument-passed-through",
        ),
    ],
)
def test_the_command_line_of_each_backend(options: Options, arguments: list[str]) -> None:
    command = configure_command(TOOLS, TREE, BUILD, options, system="linux")
    assert command == [*START, *COMMON, *arguments]


def test_a_server_is_one_argument_more() -> None:
    command = configure_command(TOOLS, TREE, BUILD, Options(Backend.CPU, COMMIT, server=True), system="linux")
    assert [word for word in command if word not in COMMON + START + END] == [
        "-DLLAMA_BUILD_SERVER=ON",
        OWN,
        *FIRST,
        "-DGGML_METAL=OFF",
    ]


def test_macos_has_its_own_word_for_the_programs_folder() -> None:
    command = configure_command(TOOLS, TREE, BUILD, Options(Backend.METAL, COMMIT), system="darwin")
    assert "-DCMAKE_INSTALL_RPATH=@loader_path" in command


def test_make_and_ccache_are_used_where_they_are_what_there_is() -> None:
    tools = Toolchain(TOOLS.cmake, None, TOOLS.make, Tool("ccache", Path("/bin/ccache"), "4"), C, C)
    command = configure_command(tools, TREE, BUILD, Options(Backend.CUDA, COMMIT, cuda_arch="90"), system="linux")
    assert command[5:7] == ["-G", "Unix Makefiles"]
    assert command[-3:] == [f"-DCMAKE_{language}_COMPILER_LAUNCHER=/bin/ccache" for language in ("C", "CXX", "CUDA")]


def test_the_command_line_that_builds() -> None:
    command = build_command(Path("/bin/cmake"), BUILD, ["llama-quantize", "llama-completion"], 3)
    assert command == [
        "/bin/cmake",
        "--build",
        "/out",
        "--parallel",
        "3",
        "--target",
        "llama-quantize",
        "llama-completion",
    ]


@pytest.mark.parametrize("backend", Backend, ids=lambda backend: backend.value)
def test_a_build_runs_exactly_these_command_lines(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    targets = [program.names[0] for program in PROGRAMS if program.role != "server"]
    programs = {name: tmp_path / "bin" / name for name in targets}
    tree = Tree(tmp_path / "tree", COMMIT, "a test", changes=True)
    choice = backend_room.Choice(backend, "a test", CUDA if backend is Backend.CUDA else None, "90")
    monkeypatch.setattr(build_room, "find_toolchain", lambda: TOOLS)
    monkeypatch.setattr(build_room, "choose_backend", lambda *_, **__: choice)
    monkeypatch.setattr(build_room, "hip_compiler", lambda: None)
    monkeypatch.setattr(source_room, "fetch", lambda *_: tree)
    monkeypatch.setattr(build_room, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(configure_room, "read_file_api", lambda folder: Configured(folder, programs, {}))
    monkeypatch.setattr(build_room, "judge", lambda *_: 0)
    monkeypatch.setattr(build_room, "put_aliases", lambda *_: {})
    build = build_room.build_llamacpp(directory=tmp_path / "home", jobs=2)
    expected = Options(
        backend, COMMIT, nvcc=CUDA.nvcc if choice.cuda else None, cuda_arch="90", link_driver=backend is Backend.CUDA
    )
    assert commands == [
        configure_command(TOOLS, tree.path, build.directory, expected, system=sys.platform),
        build_command(TOOLS.cmake.path, build.directory, targets, 2),
    ]
    assert json.loads((build.directory / "build.json").read_text())["configure"] == commands[0]


def test_cmakes_answer_names_the_programs_and_the_compilers(tmp_path: Path) -> None:
    reply = tmp_path / ".cmake" / "api" / "v1" / "reply"
    reply.mkdir(parents=True)
    files: dict[str, Any] = {
        "index-1.json": {"reply": {"codemodel-v2": {"jsonFile": "old.json"}}},
        "index-2.json": {
            "reply": {"codemodel-v2": {"jsonFile": "model.json"}, "toolchains-v1": {"jsonFile": "tools.json"}}
        },
        "model.json": {"configurations": [{"targets": [{"jsonFile": "a.json"}, {"jsonFile": "b.json"}]}]},
        "a.json": {"name": "llama-quantize", "type": "EXECUTABLE", "artifacts": [{"path": "bin/llama-quantize"}]},
        "b.json": {"name": "llama", "type": "SHARED_LIBRARY", "artifacts": [{"path": "bin/libllama.so"}]},
        "tools.json": {
            "toolchains": [{"language": "C", "compiler": {"id": "GNU", "version": "14.2", "path": "/usr/bin/cc"}}]
        },
    }
    for name, content in files.items():
        (reply / name).write_text(json.dumps(content))
    configured = read_file_api(tmp_path)
    assert configured.programs == {"llama-quantize": tmp_path / "bin" / "llama-quantize"}
    assert configured.compilers == {"C": "GNU 14.2 /usr/bin/cc"}


def test_cmake_without_an_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="left no answer"):
        read_file_api(tmp_path)


def test_programs_are_found_under_whatever_name_the_tree_has() -> None:
    now = {name: Path(name) for name in ("llama-completion", "llama-cli", "llama-quantize", "llama-server")}
    old = {name: Path(name) for name in ("main", "quantize", "perplexity")}
    assert choose_targets(now, server=False) == {"completion": "llama-completion", "quantize": "llama-quantize"}
    assert choose_targets(now, server=True)["server"] == "llama-server"
    assert choose_targets(old, server=False) == {
        "completion": "main",
        "quantize": "quantize",
        "perplexity": "perplexity",
    }


def test_a_tree_without_a_needed_program_is_an_error() -> None:
    with pytest.raises(ToolchainError, match="no program for quantize: looked for `llama-quantize`, `quantize`"):
        choose_targets({"llama-cli": Path("x")}, server=False)


@pytest.mark.parametrize(
    ("version", "loses"),
    [
        ((11, 4), True),
        ((11, 5), False),
        ((12, 2), True),
        ((12, 4), False),
        ((13, 2), True),
        ((13, 3), False),
        ((14, 1), False),
    ],
)
def test_a_compiler_that_spoils_amx_is_known_by_its_version(version: tuple[int, int], loses: bool) -> None:
    macros = {"__GNUC__": str(version[0]), "__GNUC_MINOR__": str(version[1])}
    assert _loses_tile_config(macros | {"__AMX_INT8__": "1"}) is loses
    assert not _loses_tile_config(macros)
    assert not _loses_tile_config(macros | {"__AMX_INT8__": "1", "__clang__": "1"})


def test_the_options_tell_builds_apart_and_the_processor_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    name = build_room.build_name(COMMIT, Backend.CPU, {"a": 1})
    assert name.startswith("0c1e57098bba43a-cpu-")
    assert name != build_room.build_name(COMMIT, Backend.CPU, {"a": 2})
    assert build_room.processor().startswith(platform.machine())
    monkeypatch.setenv("CC", "clang")
    request = build_room.Request("auto", None, backend_room.Choice(Backend.CPU, ""), False, False, (), 1)  # noqa: FBT003
    assert request.options_json()["compilers"]["CC"] == "clang"
