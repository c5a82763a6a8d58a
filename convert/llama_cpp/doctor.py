"""What this machine has, what each command would do with it, and what to install for the rest."""

from __future__ import annotations

import configparser
import importlib.util
import os
import platform
import shutil
import sys
import threading
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.errors import ConvertError
from convert.llama_cpp import cuda as cuda_parts
from convert.llama_cpp import where
from convert.llama_cpp.backend import choose_backend
from convert.llama_cpp.build_json import read_builds
from convert.llama_cpp.pin import GIT_URL
from convert.llama_cpp.programs import judge
from convert.llama_cpp.toolchain import HOW_TO_GET, find_compiler, find_tool, find_toolchain
from convert.process import usable_processors

if TYPE_CHECKING:
    from collections.abc import Callable

    from convert.llama_cpp.cuda import Cuda

REACH_TIMEOUT_S: Final = 4.0
PACKAGES: Final = (
    "numpy",
    "gguf",
    "torch",
    "transformers",
    "sentencepiece",
    "huggingface_hub",
    "click",
    "rich",
    "gitpython",
    "pip",
)
_TOOLS: Final = ("cmake", "ninja", "make", "ccache", "git")


def examine(directory: Path | None = None) -> dict[str, Any]:
    """Look at everything, as plain values. directory: where llama.cpp would be built, in the default place if None."""
    # The network is slow to say no: ask it first, look at the answers last.
    reach = {"git_host": _Reach(GIT_URL), "package_index": _Reach(_package_index())}
    cuda = cuda_parts.find_cuda()
    builds = [build.as_json() for build in read_builds(where.homes(directory))]
    machine: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": usable_processors(),
        "memory_nbytes": _memory_nbytes(),
        "disk": _disk(where.home(directory).path),
        "compilers": {name: _json_or_none(find_compiler(name)) for name in ("c", "c++")},
        "tools": {name: _json_or_none(find_tool(name)) for name in _TOOLS},
        "cuda": _cuda_json(cuda),
        "gpus": [_gpu_json(gpu) for gpu in cuda.gpus],
        "python": {"version": platform.python_version(), "path": sys.executable, "packages": _packages()},
        "kernel_level": _kernel_level(),
        "llama_cpp_builds": builds,
    }
    machine["network"] = {name: question.answer() for name, question in reach.items()}
    machine["commands"] = _commands(machine, lambda: cuda)
    return machine


def _json_or_none(found: Any) -> dict[str, str] | None:  # noqa: ANN401 - a tool or a compiler
    return None if found is None else dict(found.as_json())


def _memory_nbytes() -> dict[str, int | None]:
    """Tell the memory in all and what is free to use; of the control group too, where that is less."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return {"total": None, "available": None}
    available = _meminfo("MemAvailable")
    limit = _first_number(Path("/sys/fs/cgroup/memory.max"))
    if limit is not None and limit < total:
        total, available = limit, min(available or limit, limit)
    return {"total": total, "available": available}


def _meminfo(key: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith(f"{key}:")), None)
    return int(words[1]) * 1024 if words else None


def _first_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):  # no such file, or `max`
        return None


def _disk(path: Path) -> dict[str, Any]:
    existing = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return {"path": str(path), "free_nbytes": shutil.disk_usage(existing).free}


def _cuda_json(cuda: Cuda) -> dict[str, Any]:
    missing = [name for name, part in (("nvcc", cuda.nvcc), ("cuBLAS", cuda.cublas), ("GPU", cuda.gpus)) if not part]
    return {
        "nvcc": str(cuda.nvcc) if cuda.nvcc else None,
        "root": str(cuda.root) if cuda.root else None,
        "version": _dotted(cuda.version),
        "cublas": str(cuda.cublas.library) if cuda.cublas else None,
        "driver_supports": _dotted(cuda.driver),
        "nvidia_smi": cuda.nvidia_smi,
        "missing": {name: cuda_parts.HOW_TO_GET[name] for name in missing},
    }


def _dotted(version: tuple[int, int] | None) -> str | None:
    return None if version is None else f"{version[0]}.{version[1]}"


def _gpu_json(gpu: cuda_parts.Gpu) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "compute_capability": gpu.capability,
        "memory_mib": gpu.memory_mib,
        "driver": gpu.driver,
    }


def _packages() -> dict[str, str | None]:
    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {name: version(name) for name in ("gguf-convert", *PACKAGES)}


def _kernel_level() -> str | None:
    """Tell which kernels encode here; None where this version cannot say."""
    try:
        from convert import codec  # noqa: PLC0415 - NumPy and the compiled library, only when asked

        level = getattr(codec, "kernel_level", None)
        return str(level() if callable(level) else level) if level is not None else None
    except ImportError:
        return None


def _package_index() -> str:
    """Tell the index that pip would ask, from its environment variable or its configuration files."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    home = Path.home()
    config = os.environ.get("XDG_CONFIG_HOME", "") or str(home / ".config")
    files = [
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        Path(config) / "pip/pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    files += [Path(name) for name in [os.environ.get("PIP_CONFIG_FILE")] if name]
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(files, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return _default_index()
    return parser.get("global", "index-url", fallback=None) or _default_index()


def _default_index() -> str:
    """Tell the index that pip asks where nothing is configured; only pip itself knows it."""
    try:
        from pip._internal.models.index import PyPI  # noqa: PLC0415 - pip may be missing
    except ImportError:
        return "pip is missing"
    return str(PyPI.simple_url)


class _Reach:
    """A question to a web server, asked in the background: resolving a name cannot be given a timeout."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._answer: dict[str, Any] = self._as_json(ok=False, said=f"no answer within {REACH_TIMEOUT_S:g} s")
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def answer(self) -> dict[str, Any]:
        """Wait for the answer, but not for ever."""
        self._thread.join(REACH_TIMEOUT_S + 1)
        return self._answer

    def _ask(self) -> None:
        try:
            request = urllib.request.Request(self._url, method="HEAD")  # noqa: S310 - our own or the user's own URL
            with urllib.request.urlopen(request, timeout=REACH_TIMEOUT_S):  # noqa: S310
                self._answer = self._as_json(ok=True, said="answers")
        except urllib.error.HTTPError as error:
            # It answered, if with a complaint: a server that refuses HEAD or wants a password is reached.
            self._answer = self._as_json(ok=True, said=f"answers, HTTP {error.code}")
        except (OSError, ValueError) as error:
            self._answer = self._as_json(ok=False, said=str(getattr(error, "reason", error)))

    def _as_json(self, *, ok: bool, said: str) -> dict[str, Any]:
        return {"url": _without_password(self._url), "reachable": ok, "said": said}


def _without_password(url: str) -> str:
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found and "@" in rest.partition("/")[0] else url


def _commands(machine: dict[str, Any], find_cuda: Callable[[], Cuda]) -> list[dict[str, Any]]:
    return [
        _conversion(machine),
        _building(machine, find_cuda),
        _running(machine),
    ]


def _command(name: str, *, ready: bool, does: str, install: dict[str, str] | None = None) -> dict[str, Any]:
    return {"command": name, "ready": ready, "does": does, "install": install or {}}


def _conversion(machine: dict[str, Any]) -> dict[str, Any]:
    packages = machine["python"]["packages"]
    missing = {name: f"pip install {name}" for name in ("numpy", "gguf") if packages[name] is None}
    level = machine["kernel_level"]
    how = f"encodes with {machine['cores']} workers" + (f", kernels: {level}" if level else "")
    return _command("convert all, gguf, quantize", ready=not missing, does=how, install=missing)


def _building(machine: dict[str, Any], find_cuda: Callable[[], Cuda]) -> dict[str, Any]:
    name = "convert build-llamacpp"
    install = {tool: HOW_TO_GET[tool] for tool in ("ninja", "ccache") if machine["tools"][tool] is None}
    try:
        find_toolchain()
        choice = choose_backend("auto", cuda_arch=None, cublas_from_pypi=False, find_cuda=find_cuda)
    except ConvertError as error:
        return _command(name, ready=False, does=error.message, install={"tools": error.hint or ""} | install)
    network = machine["network"]
    git = machine["tools"]["git"] is not None and network["git_host"]["reachable"]
    pypi = importlib.util.find_spec("pip") is not None and network["package_index"]["reachable"]
    origin = (
        "from git" if git else "from PyPI" if pypi else "only from a source tree of yours: nothing else is reachable"
    )
    if find_cuda().gpus and choice.cuda is None:  # no advice about GPUs to a machine without one
        install |= machine["cuda"]["missing"]
    does = f"builds for {choice.backend.value} ({choice.reason}), {origin}, in {machine['disk']['path']}"
    return _command(name, ready=bool(git or pypi), does=does, install=install)


def _running(machine: dict[str, Any]) -> dict[str, Any]:
    builds = machine["llama_cpp_builds"]
    name = "convert run"
    if not builds:
        return _command(name, ready=False, does="no llama.cpp build", install={"llama.cpp": "convert build-llamacpp"})
    program = builds[0]["programs"].get("completion", builds[0]["programs"]["quantize"])
    try:
        judge(Path(program), "completion" if "completion" in builds[0]["programs"] else "quantize")
    except ConvertError as error:
        return _command(name, ready=False, does=error.message, install={"llama.cpp": error.hint or "build it again"})
    return _command(name, ready=True, does=f"runs {program} ({builds[0]['backend']})")
