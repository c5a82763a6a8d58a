"""The backend's choice, with every part of CUDA faked."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from test_llama_cpp_configure import CUDA, H200

from convert.errors import Remedy, ToolchainError, UsageError
from convert.llama_cpp import cuda as cuda_room
from convert.llama_cpp.backend import Backend, choose_backend
from convert.llama_cpp.cuda import Cublas, Cuda, Gpu, arch_list, archs_of, find_cuda

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "archs"),
    [("90", "90"), ("8.6, 90", "86;90"), ("90a", "90a"), ("120-real;90-virtual", "120-real;90-virtual")],
)
def test_architectures_are_written_as_cmake_wants_them(text: str, archs: str) -> None:
    assert arch_list(text) == archs


@pytest.mark.parametrize("text", ["", "native", "9", "90;", "sm_90", "90 -DX=1"])
def test_an_architecture_that_makes_no_sense_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="CUDA architecture"):
        arch_list(text)


def test_each_architecture_of_the_gpus_is_taken_once() -> None:
    assert archs_of([H200, H200, Gpu("A100", "8.0", 0, ""), Gpu("B200", "10.0", 0, "")]) == "80;90;100"


@pytest.fixture
def _nvcc_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_room, "compile_trouble", lambda *_: None)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.usefixtures("_nvcc_compiles")
@pytest.mark.parametrize(
    ("cuda", "arch", "part", "hint"),
    [
        (replace(CUDA, nvcc=None), None, "nvcc was not found", "CUDA toolkit"),
        (replace(CUDA, version=None), None, "does not work", "CUDA toolkit"),
        (replace(CUDA, gpus=()), None, "no GPU is seen", "cuda_arch='90'"),
        (replace(CUDA, cublas=None), "90", "cuBLAS and its headers are not in the toolkit", "cublas='pypi'"),
        (replace(CUDA, driver=(12, 4)), None, "driver supports CUDA 12.4, the toolkit is 13.0", "newer NVIDIA driver"),
    ],
)
def test_what_cuda_lacks_is_named_and_auto_takes_the_cpu(cuda: Cuda, arch: str | None, part: str, hint: str) -> None:
    choice = choose_backend("auto", cuda_arch=arch, cublas_from_pypi=False, find_cuda=lambda: cuda)
    assert choice.backend is Backend.CPU
    assert part in choice.reason
    with pytest.raises(ToolchainError, match=part) as caught:
        choose_backend("cuda", cuda_arch=arch, cublas_from_pypi=False, find_cuda=lambda: cuda)
    assert hint in (caught.value.hint or "")


@pytest.mark.usefixtures("_nvcc_compiles")
def test_auto_takes_cuda_where_every_part_is_there() -> None:
    choice = choose_backend("auto", cuda_arch=None, cublas_from_pypi=False, find_cuda=lambda: CUDA)
    assert (choice.backend, choice.cuda_arch) == (Backend.CUDA, "90")
    assert choice.reason == "CUDA 13.0 at /cuda, architecture 90, NVIDIA H200"


@pytest.mark.usefixtures("_nvcc_compiles")
def test_a_machine_without_gpu_and_cublas_builds_for_a_gpu_elsewhere() -> None:
    alone = replace(CUDA, cublas=None, gpus=(), driver=None)
    choice = choose_backend("cuda", cuda_arch="90", cublas_from_pypi=True, find_cuda=lambda: alone)
    assert (choice.backend, choice.cuda_arch) == (Backend.CUDA, "90")


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("#error -- unsupported GNU version! gcc versions later than 14 are not supported!", "CUDAHOSTCXX"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_90'", "name those that this toolkit knows"),
        ("nvcc fatal   : Value 'sm_90' is not defined for option 'gpu-code'", "name those that this toolkit knows"),
        ("error: cannot open /tmp: No space left on device", "see what nvcc says"),
    ],
)
def test_an_nvcc_that_cannot_compile_is_named_with_what_it_said(
    said: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    cuda = replace(CUDA, nvcc=_script(tmp_path / "nvcc", f'echo warning >&2; echo "{said}" >&2; exit 1'))
    with pytest.raises(ToolchainError, match="cannot compile a kernel for `90`") as caught:
        choose_backend("cuda", cuda_arch=None, cublas_from_pypi=False, find_cuda=lambda: cuda)
    assert said in caught.value.message
    assert (caught.value.hint or "").startswith(hint) or hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'NVIDIA-SMI has failed: no driver'; exit 9", "NVIDIA-SMI has failed: no driver"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch' >&2; exit 18", "version mismatch"),
        ("echo 'No devices were found'", "No devices were found"),
        ("exit 1", "exit code 1"),
    ],
)
def test_nvidia_smis_own_words_are_kept(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(tmp_path / "nvidia-smi", script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "platform", "linux")
    found = find_cuda()
    assert (found.gpus, said in found.nvidia_smi) == ((), True)
    cuda = replace(CUDA, gpus=(), nvidia_smi=found.nvidia_smi)
    choice = choose_backend("auto", cuda_arch=None, cublas_from_pypi=False, find_cuda=lambda: cuda)
    assert said in choice.reason


@pytest.mark.usefixtures("_nvcc_compiles")
def test_a_gpu_that_is_left_unused_says_what_would_use_it() -> None:
    cuda = replace(CUDA, cublas=None)
    choice = choose_backend("auto", cuda_arch=None, cublas_from_pypi=False, find_cuda=lambda: cuda)
    assert (choice.unused, choice.remedies) == ("NVIDIA H200", (Remedy.CUBLAS_FROM_PYPI,))
    choice = choose_backend("auto", cuda_arch=None, cublas_from_pypi=False, find_cuda=lambda: replace(cuda, gpus=()))
    assert choice.unused == ""


def test_cudas_options_go_with_no_other_backend() -> None:
    with pytest.raises(UsageError, match="not with `cpu`"):
        choose_backend("cpu", cuda_arch="90", cublas_from_pypi=False)


@pytest.mark.parametrize(("backend", "part"), [("vulkan", "glslc"), ("hip", "hipcc"), ("metal", "macOS")])
def test_another_backend_names_what_it_lacks(backend: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ToolchainError, match=part):
        choose_backend(backend, cuda_arch=None, cublas_from_pypi=False)


def test_cudas_parts_are_found_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toolkit, programs = tmp_path / "cuda", tmp_path / "programs"
    for path in ("lib64/libcublas.so", "lib64/libcublasLt.so", "include/cublas_v2.h"):
        (toolkit / path).parent.mkdir(parents=True, exist_ok=True)
        (toolkit / path).touch()
    programs.mkdir()
    # Far from its toolkit, as a wrapper may be: `nvcc -v` tells where that is.
    release = "Cuda compilation tools, release 12.8, V12.8.61"
    script = f"case $1 in -v) echo '#$ TOP={toolkit}' >&2; exit 1;; *) echo '{release}';; esac"
    nvcc = _script(programs / "nvcc", script)
    _script(programs / "nvidia-smi", "echo 'NVIDIA A100, PCIe, 8.0, 40960, 550.54'; echo 'broken'")
    for name in ("CUDACXX", "CUDA_PATH", "CUDA_HOME", "CUDA_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    cuda = find_cuda()
    assert (cuda.nvcc, cuda.root, cuda.version) == (nvcc, toolkit, (12, 8))
    assert cuda.cublas == Cublas(
        toolkit / "lib64/libcublas.so", toolkit / "lib64/libcublasLt.so", toolkit / "include", from_wheel=False
    )
    assert not cuda.can_link_driver  # this toolkit has no stub
    assert cuda.gpus == (Gpu("NVIDIA A100, PCIe", "8.0", 40960, "550.54"),)


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
