"""Deciding the backend: `auto` takes CUDA only where it can work end to end, and says why in one line."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from convert.errors import ProgramError, Remedy, ToolchainError, UsageError
from convert.llama_cpp import cuda as cuda_parts
from convert.llama_cpp.toolchain import missing_tools
from convert.process import ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from convert.llama_cpp.cuda import Cuda


class Backend(Enum):
    """What llama.cpp computes with, besides the processor, which it always can."""

    CPU = "cpu"
    CUDA = "cuda"
    METAL = "metal"
    VULKAN = "vulkan"
    HIP = "hip"


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend that can be built here, and why this one; `cuda_arch` as CMake wants it, for CUDA only.

    unused: a GPU that is here and could be used, with what `remedies` say.
    """

    backend: Backend
    reason: str
    cuda: Cuda | None = None
    cuda_arch: str = ""
    unused: str = ""
    remedies: tuple[Remedy, ...] = ()


def choose_backend(
    asked: str,
    *,
    cuda_arch: str | None,
    cublas_from_pypi: bool,
    find_cuda: Callable[[], Cuda] = cuda_parts.find_cuda,
) -> Choice:
    """Decide the backend. asked: `auto` or a `Backend`'s value; cuda_arch: compute capabilities, if given.

    Raises ToolchainError, naming the missing part and how to get it, where the backend asked for cannot be built;
    UsageError where CUDA's options go with another backend.
    """
    if asked not in {"auto", "cuda"}:
        if cuda_arch or cublas_from_pypi:
            raise UsageError(f"a CUDA architecture and cuBLAS go with the backend `cuda`, not with `{asked}`")
        return _without_cuda(Backend(asked))
    if asked == "auto" and sys.platform == "darwin":
        return _without_cuda(Backend.METAL if platform.machine() == "arm64" else Backend.CPU, "auto on macOS")
    cuda = find_cuda()
    arch = cuda_parts.arch_list(cuda_arch) if cuda_arch else cuda_parts.archs_of(cuda.gpus)
    trouble = _cuda_trouble(cuda, arch, elsewhere=bool(cuda_arch), cublas_from_pypi=cublas_from_pypi)
    if trouble is None:
        return Choice(Backend.CUDA, _why_cuda(cuda, arch), cuda, arch)
    part, fact = trouble
    if asked == "cuda":
        raise ToolchainError(
            f"a CUDA build is not possible here: {fact}",
            hint=cuda_parts.HOW_TO_GET[part],
            remedies=cuda_parts.REMEDIES.get(part, ()),
        )
    unused = cuda.gpus[0].name if cuda.gpus else ""
    return Choice(Backend.CPU, f"no CUDA: {fact}", unused=unused, remedies=cuda_parts.REMEDIES.get(part, ()))


def _cuda_trouble(cuda: Cuda, arch: str, *, elsewhere: bool, cublas_from_pypi: bool) -> tuple[str, str] | None:
    """Name the first part that is missing, and the fact; None if CUDA can work end to end."""
    if cuda.nvcc is None:
        return "nvcc", "nvcc was not found"
    if cuda.version is None or cuda.root is None:
        return "nvcc", f"`{cuda.nvcc}` does not work, or does not say where its toolkit is"
    if not arch:
        said = f" ({cuda.nvidia_smi})" if cuda.nvidia_smi else ""
        return "GPU", f"no GPU is seen by nvidia-smi{said}, and none is named"
    if cuda.cublas is None and not cublas_from_pypi:
        return "cuBLAS", f"cuBLAS and its headers are not in the toolkit at `{cuda.root}`"
    if not elsewhere and cuda.driver and cuda.driver[0] < cuda.version[0]:
        driver, toolkit = (".".join(map(str, version)) for version in (cuda.driver, cuda.version))
        return "driver", f"the driver supports CUDA {driver}, the toolkit is {toolkit}"
    trouble = cuda_parts.compile_trouble(cuda.nvcc, arch)
    return trouble and (trouble[0], f"nvcc cannot compile a kernel for `{arch}` ({trouble[1]})")


def _why_cuda(cuda: Cuda, arch: str) -> str:
    version = ".".join(map(str, cuda.version or ()))
    seen = ", ".join(sorted({gpu.name for gpu in cuda.gpus}))
    return f"CUDA {version} at {cuda.root}, architecture {arch}" + (f", {seen}" if seen else "")


def _without_cuda(backend: Backend, reason: str = "asked for") -> Choice:
    if backend is Backend.METAL and sys.platform != "darwin":
        raise ToolchainError("a Metal build is possible on macOS only", remedies=(Remedy.BACKEND_CPU,))
    if backend is Backend.VULKAN and shutil.which("glslc") is None:
        raise missing_tools("a Vulkan build needs", ["glslc"])
    if backend is Backend.HIP and hip_compiler() is None:
        raise missing_tools("a HIP build needs", ["hipcc"])
    return Choice(backend, reason)


def hip_compiler() -> Path | None:
    """Find ROCm's clang++, which CMake needs to be told."""
    hipconfig = shutil.which("hipconfig", path="/opt/rocm/bin") or shutil.which("hipconfig")
    if hipconfig is None:
        return None
    try:
        answer = ask([hipconfig, "-l"], timeout_s=20)
    except ProgramError:
        return None
    compiler = Path(answer.stdout.strip()) / "clang++"
    return compiler if answer.exit_code == 0 and compiler.is_file() else None
