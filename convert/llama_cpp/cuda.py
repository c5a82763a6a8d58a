"""CUDA's parts: nvcc, cuBLAS and its headers, the driver, the GPUs; which are here, and how to get the others."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from convert.errors import ProgramError, Remedy, ToolchainError, UsageError
from convert.llama_cpp.pin import CUBLAS_WHEELS
from convert.llama_cpp.unpack import unpack_zip
from convert.llama_cpp.where import appearing
from convert.process import ask, how_it_ended, run
from convert.shown import excerpt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convert.llama_cpp.reporter import Reporter
    from convert.llama_cpp.where import Home

HOW_TO_GET: Final = {
    "nvcc": "the CUDA toolkit: https://developer.nvidia.com/cuda-downloads, or apt install nvidia-cuda-toolkit",
    "cuBLAS": "libcublas-dev of the CUDA toolkit's packages",
    "GPU": "an NVIDIA driver whose nvidia-smi sees it",
    "host compiler": "set CUDAHOSTCXX or NVCC_CCBIN to an older g++, or take a newer CUDA toolkit",
    "architecture": "name those that this toolkit knows, or take a newer one",
    "nvcc's run": "see what nvcc says",
    "driver": "a newer NVIDIA driver, or an older CUDA toolkit",
}

# What else helps, with no part to get.
REMEDIES: Final = {"cuBLAS": (Remedy.CUBLAS_FROM_PYPI,), "GPU": (Remedy.NAME_GPU,)}

# nvcc's and its headers' words (crt/host_config.h of CUDA 11 to 13) -> which part is wrong.
_NVCC_SAYS: Final = {
    "Unsupported gpu architecture": "architecture",
    "is not defined for option 'gpu-architecture'": "architecture",
    "is not defined for option 'gpu-code'": "architecture",
    "unsupported GNU version": "host compiler",
    "unsupported clang version": "host compiler",
    "Failed to preprocess host compiler properties": "host compiler",
    "No supported host compiler": "host compiler",
    "error trying to exec": "host compiler",
}
_ARCH: Final = re.compile(r"\d{2,3}[af]?(?:-real|-virtual)?")
_NVCC_VERSION: Final = re.compile(r"\bV(\d+)\.(\d+)")
_TOP: Final = re.compile(r"^#\$ TOP=(.+)$", re.MULTILINE)
_PROBE: Final = "__global__ void probe(float *x) { x[threadIdx.x] *= 2.0f; }\nint main() { return 0; }\n"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that the driver shows; `capability` as `9.0`."""

    name: str
    capability: str
    memory_mib: int
    driver: str

    @property
    def arch(self) -> str:
        """Return the capability as CMake wants it: `90`."""
        return self.capability.replace(".", "")


@dataclass(frozen=True, slots=True)
class Cublas:
    """The two cuBLAS libraries, and the folder of their headers; `from_wheel` where they do not lie in the toolkit."""

    library: Path
    library_lt: Path
    include: Path
    from_wheel: bool


@dataclass(frozen=True, slots=True)
class Cuda:
    """What of CUDA was found.

    driver: the CUDA version that the driver supports, None where there is no driver. driver_links: whether there is a
    library, the driver's own or the toolkit's stub of it, to link programs with. nvidia_smi: its words, if no GPU.
    """

    nvcc: Path | None
    root: Path | None
    version: tuple[int, int] | None
    cublas: Cublas | None
    driver: tuple[int, int] | None
    gpus: tuple[Gpu, ...]
    driver_links: bool = True
    nvidia_smi: str = ""

    @property
    def can_link_driver(self) -> bool:
        """Whether programs linked against the driver library can be linked here, and start here."""
        return self.driver is not None and self.driver_links


def find_cuda() -> Cuda:
    """Look for every part of CUDA; nothing missing is an error here."""
    nvcc = _find_nvcc()
    gpus, said = _ask_nvidia_smi()
    root = None if nvcc is None else _root(nvcc)
    return Cuda(
        nvcc=nvcc,
        root=root,
        version=None if nvcc is None else _nvcc_version(nvcc),
        cublas=None if root is None else _find_cublas(root),
        driver=_driver_version(),
        gpus=gpus,
        nvidia_smi=said,
        driver_links=root is not None and _first(_library_folders(root), "libcuda.so") is not None,
    )


def _ask_nvidia_smi() -> tuple[tuple[Gpu, ...], str]:
    """Ask nvidia-smi which GPUs there are; where it is there and names none, give its own words."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return (), ""
    fields = "name,compute_cap,memory.total,driver_version"
    try:
        answer = ask([smi, f"--query-gpu={fields}", "--format=csv,noheader,nounits"], timeout_s=20)
    except ProgramError as error:
        return (), error.message
    gpus = tuple(_gpus(answer.stdout)) if answer.exit_code == 0 else ()
    return gpus, "" if gpus else " ".join(answer.text.split()) or how_it_ended(answer.exit_code)


def _gpus(csv: str) -> Iterable[Gpu]:
    for line in csv.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 3)]
        if len(parts) == len(("name", "capability", "memory", "driver")) and re.fullmatch(r"\d+\.\d+", parts[1]):
            yield Gpu(parts[0], parts[1], int(parts[2]) if parts[2].isdigit() else 0, parts[3])


def arch_list(text: str) -> str:
    """Check compute capabilities, and write them as CMake wants them: `86,90` is `86;90`. Raises UsageError."""
    archs = [part.strip().replace(".", "") for part in re.split(r"[;,]", text)]
    if wrong := [arch for arch in archs if not _ARCH.fullmatch(arch)]:
        raise UsageError(
            f"`{wrong[0]}` is not a CUDA architecture, wanted is a compute capability such as `90`",
            hint="several are separated by commas",
            remedies=(Remedy.SEE_DOCTOR,),
        )
    return ";".join(archs)


def archs_of(gpus: Iterable[Gpu]) -> str:
    """Write the compute capabilities of these GPUs as CMake wants them, each once."""
    return ";".join(sorted({gpu.arch for gpu in gpus}, key=int))


def compile_trouble(nvcc: Path, arch: str) -> tuple[str, str] | None:
    """Compile one kernel: None if nvcc, its host compiler and this architecture go together.

    Else which of them is wrong, a key of HOW_TO_GET, and what nvcc said.
    """
    with tempfile.TemporaryDirectory(prefix="convert-cuda-") as folder:
        source = Path(folder) / "probe.cu"
        source.write_text(_PROBE, encoding="utf-8")
        host = ["-ccbin", os.environ["CUDAHOSTCXX"]] if os.environ.get("CUDAHOSTCXX") else []
        code = [_gencode(one) for one in arch.split(";")]
        try:
            answer = ask([nvcc, *host, *code, "-c", source, "-o", Path(folder) / "probe.o"], timeout_s=120)
        except ProgramError as error:
            return "nvcc's run", error.message
    if answer.exit_code == 0:
        return None
    heard = excerpt(answer.text)
    said = heard.error or (heard.lines or [how_it_ended(answer.exit_code)])[-1].strip()
    return next((part for words, part in _NVCC_SAYS.items() if words in answer.text), "nvcc's run"), said


def _gencode(arch: str) -> str:
    number = arch.partition("-")[0]
    return f"-gencode=arch=compute_{number},code={'compute' if arch.endswith('-virtual') else 'sm'}_{number}"


def _find_nvcc() -> Path | None:
    roots = [os.environ.get(name) for name in ("CUDA_PATH", "CUDA_HOME", "CUDA_ROOT")]
    candidates = [os.environ.get("CUDACXX"), *(f"{root}/bin/nvcc" for root in roots if root)]
    candidates += [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc"]
    found = (shutil.which(candidate) for candidate in candidates if candidate)
    return next((Path(path) for path in found if path), None)


def _root(nvcc: Path) -> Path | None:
    # What CMake's FindCUDAToolkit does: nvcc may be a script or a link far from its toolkit, but says where that is.
    try:
        answer = ask([nvcc, "-v", "__convert_probe"], timeout_s=20)
    except ProgramError:
        return None
    found = _TOP.search(answer.text)
    root = Path(found.group(1).strip()) if found else nvcc.resolve().parent.parent
    return root.resolve() if root.is_dir() else None


def _nvcc_version(nvcc: Path) -> tuple[int, int] | None:
    try:
        answer = ask([nvcc, "--version"], timeout_s=20)
    except ProgramError:
        return None
    found = _NVCC_VERSION.search(answer.text)
    return (int(found.group(1)), int(found.group(2))) if answer.exit_code == 0 and found else None


def _find_cublas(root: Path) -> Cublas | None:
    libraries = _library_folders(root)
    includes = [root / "include", *root.glob("targets/*/include"), Path("/usr/include")]
    library = _first(libraries, "libcublas.so")
    library_lt = _first(libraries, "libcublasLt.so")
    header = _first(includes, "cublas_v2.h")
    if library is None or library_lt is None or header is None:
        return None
    return Cublas(library, library_lt, header.parent, from_wheel=False)


def _library_folders(root: Path) -> list[Path]:
    own = [root / "lib64", root / "lib", *root.glob("targets/*/lib")]
    system = [Path(f"/usr/lib/{platform.machine()}-linux-gnu"), Path("/usr/lib64"), Path("/usr/lib")]
    return [*own, *(folder / "stubs" for folder in own), *system]


def _first(folders: Iterable[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _driver_version() -> tuple[int, int] | None:
    """Ask the driver library which CUDA it supports; it tells without a GPU and without starting anything."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return None
    number = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(number)):
        return None
    return number.value // 1000, number.value % 1000 // 10


def fetch_cublas(place: Home, cuda: Cuda, reporter: Reporter) -> Cublas:
    """Take cuBLAS from PyPI, once: libraries and headers in `HOME/cublas/VERSION`. The caller holds the lock.

    Raises ToolchainError where no wheel suits the toolkit, or it cannot be downloaded.
    """
    major = cuda.version[0] if cuda.version else 0
    if (wheel := CUBLAS_WHEELS.get(major)) is None:
        known = " and ".join(map(str, CUBLAS_WHEELS))
        raise ToolchainError(f"no cuBLAS wheel is known for CUDA {major}, only for {known}", hint=HOW_TO_GET["cuBLAS"])
    folder = place.cublas / wheel.partition("==")[2]
    if not folder.is_dir():
        _download_cublas(place, wheel, folder, reporter)
    return _cublas_in(folder)


def _download_cublas(place: Home, wheel: str, folder: Path, reporter: Reporter) -> None:
    reporter.say(f"cuBLAS: downloading {wheel} from the package index (some 500 MB)")
    place.cublas.mkdir(parents=True, exist_ok=True)
    for rest in place.cublas.glob(".download-*"):  # of a download that was killed
        shutil.rmtree(rest, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place.cublas, prefix=".download-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-input", "--no-deps", "--only-binary", ":all:"]
        command += ["--progress-bar", "off", "--dest", scratch, wheel]
        run(command, step="downloading cuBLAS", log=place.path / "cublas.log")
        (archive,) = Path(scratch).glob("*.whl")
        with appearing(folder) as partial:
            unpack_zip(archive, partial, wanted=_wanted)


def _wanted(name: PurePosixPath) -> bool:
    is_library = name.name.startswith(("libcublas.", "libcublasLt."))
    return is_library or name.suffix in {".h", ".hpp"} or "license" in name.name.lower()


def _cublas_in(folder: Path) -> Cublas:
    library, library_lt = next(folder.rglob("libcublas.so*"), None), next(folder.rglob("libcublasLt.so*"), None)
    header = next(folder.rglob("cublas_v2.h"), None)
    if library is None or library_lt is None or header is None:
        raise ToolchainError(f"`{folder}` does not hold cuBLAS whole", hint="remove it, and run this again")
    return Cublas(library, library_lt, header.parent, from_wheel=True)
