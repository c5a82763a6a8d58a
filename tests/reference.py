"""The reference: llama.cpp's own converter and quantizer, fetched and built once, then kept in the user's cache.

    <cache>/gguf-convert/llama.cpp/<commit>/
        lock                one process at a time works here
        source/             llama.cpp's tree; it appears by a rename, so it is complete
        build-<processor>/  CMake's; a `<stage>.complete` file says what is built, `unfinished` that a build was cut off

<cache> is `$XDG_CACHE_HOME` or `~/.cache`. The pin, and how to move it, is in `vendor/README.md`.

    python tests/reference.py       fetch and build now, and print where everything is

In tests: the fixtures `reference`, `libggml_base` and `reference_source` of `conftest.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from convert.errors import ToolchainError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

COMMIT: Final = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
SDIST: Final = "llama-cpp-python==0.3.36"
SDIST_SHA256: Final = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
SDIST_TREE: Final = PurePosixPath("llama_cpp_python-0.3.36/vendor/llama.cpp")

PROGRAMS: Final = ("llama-quantize", "llama-completion", "llama-tokenize", "llama-perplexity")
CMAKE_OPTIONS: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_CURL=OFF",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
)
PROGRESS_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Reference:
    """Where llama.cpp's tree and its built programs lie."""

    source: Path
    converter: Path
    quantize: Path
    completion: Path
    tokenize: Path
    perplexity: Path
    libggml_base: Path


@dataclass(frozen=True, slots=True)
class Converted:
    """What the reference converter made of one checkpoint: a file, or the error that it ended with."""

    outfile: Path
    error: str | None


def prepare_reference() -> Reference:
    """Fetch and build the reference, or what is missing of it. About 4 minutes on 2 cores, once; then milliseconds.

    Raises ToolchainError where a tool is missing, the download is not the pinned file, or the build fails.
    """
    libggml_base = prepare_libggml_base()
    source = _ensure_source()
    programs = _ensure_built(source, "programs", PROGRAMS) / "bin"
    return Reference(
        source=source,
        converter=source / "convert_hf_to_gguf.py",
        quantize=programs / "llama-quantize",
        completion=programs / "llama-completion",
        tokenize=programs / "llama-tokenize",
        perplexity=programs / "llama-perplexity",
        libggml_base=libggml_base,
    )


def prepare_libggml_base() -> Path:
    """Fetch llama.cpp and build only libggml-base (under a minute): the shared library's path, for ctypes."""
    build = _ensure_built(_ensure_source(), "ggml-base", ("ggml-base",))
    return build / "bin" / ("libggml-base.dylib" if sys.platform == "darwin" else "libggml-base.so")


def prepare_source() -> Path:
    """Fetch llama.cpp without building it, which is enough to run its converter: the tree's path."""
    return _ensure_source()


def convert(source: Path, jobs: Sequence[tuple[Path, Path]], *, outtype: str = "f16") -> list[Converted]:
    """Run the reference converter on (model directory, output file) pairs, in one process, one after the other.

    Importing torch and transformers costs seconds and is so paid once. A checkpoint that the converter refuses is not
    an exception here: its `error` holds the last line of the traceback.
    """
    request = {"source": str(source), "outtype": outtype, "jobs": [[str(model), str(out)] for model, out in jobs]}
    finished = subprocess.run(
        [sys.executable, "-c", _CONVERT_JOBS],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    answers = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith('{"reference_error"')]
    if finished.returncode or len(answers) != len(jobs):
        raise ToolchainError(f"the reference converter died: {finished.stderr[-2000:]}")
    return [Converted(out, answer["reference_error"]) for (_, out), answer in zip(jobs, answers, strict=True)]


def quantize(reference: Reference, source: Path, outfile: Path, quant_type: str) -> None:
    """Run llama-quantize: `source` and `outfile` are GGUF files, `quant_type` a name such as `Q4_0`."""
    command = [str(reference.quantize), str(source), str(outfile), quant_type]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise ToolchainError(f"llama-quantize ended with {finished.returncode}: {finished.stderr[-2000:]}")


def complete(reference: Reference, model: Path, prompt: str, *, n_tokens: int) -> str:
    """Let llama-completion continue `prompt` greedily: the text, the prompt in front."""
    command = [str(reference.completion), "-m", str(model), "-p", prompt, "-n", str(n_tokens), "--temp", "0"]
    # Repacking would use AMX wherever CPUID shows it, and crash where the system has not enabled it.
    command += ["--no-repack", "-no-cnv", "-t", "1"]
    finished = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL
    )
    if finished.returncode:
        raise ToolchainError(f"llama-completion ended with {finished.returncode}: {finished.stderr[-2000:]}")
    return finished.stdout.removesuffix("\n").strip().removesuffix("[end of text]").strip()


# Runs inside a process of its own, so that llama.cpp's gguf-py and the installed gguf never meet.
_CONVERT_JOBS: Final = """
import contextlib, json, pathlib, sys, traceback
request = json.load(sys.stdin)
answers = sys.stdout
sys.path.insert(0, request["source"])
import convert_hf_to_gguf
for model, out in request["jobs"]:
    sys.argv = ["convert_hf_to_gguf.py", model, "--outtype", request["outtype"], "--outfile", out]
    error = None
    with contextlib.redirect_stdout(sys.stderr):
        try:
            convert_hf_to_gguf.main()
        except SystemExit as stop:
            error = f"exit {stop.code}" if stop.code else None
        except Exception as refusal:
            traceback.print_exc()
            error = traceback.format_exception_only(refusal)[-1].strip()
    if error is None and not pathlib.Path(out).is_file():
        error = "no output file"
    print(json.dumps({"reference_error": error}), file=answers, flush=True)
"""


def _environment() -> Mapping[str, str]:
    # The converter must use its own gguf-py, and find nothing on the network.
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_LOCAL_GGUF", "PYTHONPATH"}}
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def _home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path.home() / ".cache") / "gguf-convert" / "llama.cpp" / COMMIT


def _say(text: str) -> None:
    sys.stderr.write(f"reference llama.cpp: {text}\n")
    sys.stderr.flush()


@contextmanager
def _locked() -> Iterator[None]:
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process is preparing it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ensure_source() -> Path:
    source = _home() / "source"
    if not source.is_dir():
        with _locked():
            _fetch(source)
    return source


def _fetch(source: Path) -> None:
    if source.is_dir():  # by another process, while this one waited for the lock
        return
    home = source.parent
    for leftover in home.glob("unpacking-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=home, prefix="unpacking-", ignore_cleanup_errors=True) as scratch:
        tree = _unpack(_download(Path(scratch)), Path(scratch))
        tree.rename(source)


def _download(folder: Path) -> Path:
    _say(f"downloading {SDIST} (77 MB)")
    # pip checks the hash too, before it runs anything of the archive to read its metadata.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "llama-cpp-python", "--dest", str(folder), "--requirement", str(requirements)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if finished.returncode or len(archives) != 1:
        raise ToolchainError(f"could not download `{SDIST}`: {finished.stderr.strip()[-2000:]}")
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise ToolchainError(f"`{archives[0].name}` has sha256 {digest}, pinned is {SDIST_SHA256}")
    return archives[0]


def _unpack(archive: Path, folder: Path) -> Path:
    _say("unpacking")

    def wanted(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        if not PurePosixPath(member.name).is_relative_to(SDIST_TREE):
            return None
        # The archive's times lie in a past that ninja takes for "out of date": leave the time of unpacking.
        safe = tarfile.data_filter(member, path)
        return safe.replace(mtime=None, deep=False)  # type: ignore[arg-type]  # None: "do not set", says tarfile

    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter=wanted)  # noqa: S202  # the filter above is tarfile's own, and stricter
    tree = folder / SDIST_TREE
    # A file that names a git directory which is not there: with it ninja finds its manifest "still dirty" for ever.
    (tree / ".git").unlink(missing_ok=True)
    return tree


def _ensure_built(source: Path, stage: str, targets: Sequence[str]) -> Path:
    build = _home() / f"build-{_processor()}"
    complete = build / f"{stage}.complete"
    if not complete.is_file():
        with _locked():
            _build(source, build, targets, complete)
    return build


def _build(source: Path, build: Path, targets: Sequence[str], complete: Path) -> None:
    unfinished = build / "unfinished"
    if complete.is_file():  # by another process, while this one waited for the lock
        return
    if unfinished.exists() or not (build / "configured.complete").is_file():
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(exist_ok=True)
        unfinished.touch()
        _configure(source, build)
        (build / "configured.complete").touch()
    unfinished.touch()
    _make(build, targets)
    complete.touch()
    unfinished.unlink()


def _configure(source: Path, build: Path) -> None:
    _say("configuring")
    command = [_tool("cmake"), "-S", str(source), "-B", str(build), *CMAKE_OPTIONS]
    if (ninja := _find_tool("ninja")) is not None:
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    _run_logged(command, build / "configure.log")


def _make(build: Path, targets: Sequence[str]) -> None:
    _say(f"building {', '.join(targets)} (once; minutes)")
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    command = [_tool("cmake"), "--build", str(build), "--parallel", str(jobs), "--target", *targets]
    _run_logged(command, build / f"make-{targets[0]}.log")


def _run_logged(command: Sequence[str], log: Path) -> None:
    """Run a program with all it says in `log`, and its newest line on stderr now and then."""
    shown = time.monotonic()
    with (
        log.open("w", encoding="utf-8") as written,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as program,
    ):
        assert program.stdout is not None
        for line in program.stdout:
            written.write(line)
            if time.monotonic() - shown > PROGRESS_EVERY_S:
                shown = time.monotonic()
                _say(line.strip()[:100])
    if program.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise ToolchainError(f"`{command[0]}` ended with {program.returncode}, see `{log}`:\n{tail}")


def _tool(name: str) -> str:
    found = _find_tool(name)
    if found is None:
        raise ToolchainError(f"`{name}` was not found", hint="pip install '.[test]' brings cmake and ninja")
    return found


def _find_tool(name: str) -> str | None:
    # The wheel of this Python's environment first, active or not; then the system's.
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _processor() -> str:
    """Name this kind of processor: GGML_NATIVE builds for it, and a cache may travel to another."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else [platform.processor()]
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    sys.stdout.write(f"{prepare_reference()}\n")
