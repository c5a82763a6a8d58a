"""llama.cpp's programs, run for their figures: perplexity into a pipe, bench, one prompt with time and memory."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

from convert.errors import ConvertError, ToolchainError, UsageError, VerificationError
from convert.llama_cpp.environment import environment
from convert.process import Answer, ask, how_it_ended, run
from convert.report.data import Speed
from convert.shown import excerpt
from convert.verify.probabilities import read_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from convert.verify.probabilities import Windows

T = TypeVar("T")

N_ANSWERED: Final = 64  # tokens that a prompt is answered with
_DAY_S: Final = 24 * 3600.0
_BATCH: Final = 512
_FINAL: Final = re.compile(r"Final estimate: PPL = (\S+) \+/- (\S+)")
_TOO_SHORT: Final = re.compile(r"tokenizes to only (\d+) tokens")
# Runs a program and says what it took at most, of memory, on stderr. A process of its own: the system counts a child's
# peak from its parent's, which here would be ours.
_WEIGH: Final = (
    "import resource,subprocess,sys;"
    "code=subprocess.call(sys.argv[1:],stdin=subprocess.DEVNULL);"
    "sys.stderr.write('\\n%d\\n'%resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss);"
    "sys.exit(code)"
)
_KIB: Final = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss: getrusage(2)


@dataclass(frozen=True, slots=True)
class Programs:
    """The built programs that a report takes."""

    perplexity: Path
    bench: Path
    completion: Path


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Of a text, with its uncertainty, as llama-perplexity estimates it: from the logits, not from what it saves."""

    value: float
    uncertainty: float


@dataclass(frozen=True, slots=True)
class Text:
    """A text, and how it is cut: n_windows of n_ctx tokens."""

    path: Path
    n_ctx: int
    n_windows: int


def perplexity_of(
    programs: Programs,
    model: Path,
    text: Text,
    folder: Path,
    take: Callable[[Windows, BinaryIO], T],
    more: Sequence[str] = (),
) -> tuple[T, Perplexity]:
    """Run llama-perplexity over a text, and give its probabilities to `take` as they come; with its own estimate.

    more: options for it. Raises what `take` raises, UsageError for a text that is too short, ProgramError where the
    program fails.
    """
    command: list[str | Path] = [
        programs.perplexity,
        "-m",
        model,
        "-f",
        text.path,
        "-c",
        str(text.n_ctx),
        "-b",
        str(_BATCH),
    ]
    command += ["--chunks", str(text.n_windows), "--no-repack", *more]
    pipe = folder / "places"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    program = _Running([*command, "--kl-divergence-base", pipe], folder / "log", environment(programs.perplexity))
    try:
        with _opened(pipe, program) as file:
            taken = take(read_head(file), file)
    except (VerificationError, OSError) as error:
        program.thread.join()
        raise program.failure or error from None
    finally:
        program.thread.join()
    if program.estimate is None:
        raise program.failure or VerificationError("llama-perplexity ended without saying the perplexity")
    return taken, program.estimate


class _Running:
    """A program that runs beside us; closing the pipe that it writes to ends it."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: dict[str, str]) -> None:
        self.failure: ConvertError | None = None
        self.estimate: Perplexity | None = None
        self.thread = threading.Thread(target=self._run, args=(command, log, env), daemon=True)
        self.thread.start()

    def _run(self, command: Sequence[str | Path], log: Path, env: dict[str, str]) -> None:
        def hear(line: str) -> None:
            if (found := _TOO_SHORT.search(line)) is not None:
                self.failure = UsageError(f"the text is too short to measure: it gives {found[1]} tokens")
            if (found := _FINAL.search(line)) is not None:
                self.estimate = Perplexity(float(found[1]), float(found[2]))

        try:
            run(command, step="llama-perplexity", log=log, on_line=hear, env=env)
        except ConvertError as error:
            self.failure = self.failure or error


@contextmanager
def _opened(pipe: Path, program: _Running) -> Iterator[BinaryIO]:
    """Open a pipe's reading end; it ends at once where the program ends without having opened its own."""
    fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(fd, "rb", buffering=1 << 20) as file:
        while program.thread.is_alive() and not select.select([fd], [], [], 0.1)[0]:
            pass
        os.set_blocking(fd, True)
        yield file


def speed_of(programs: Programs, model: Path, prompt: str, *, jobs: int | None, n_runs: int) -> Speed:
    """Measure a file's speed: llama-bench's 512 and 128 tokens, and one prompt answered by `main`."""
    threads = ["-t", str(jobs)] if jobs else []
    bench = _bench([programs.bench, "-m", model, "-r", str(n_runs), "-o", "json", *threads], programs.bench)
    command: list[str | Path] = [
        programs.completion,
        "-m",
        model,
        "-p",
        prompt,
        "-n",
        str(N_ANSWERED),
        "--temp",
        "0",
        "-no-cnv",
        *threads,
    ]
    begun = time.monotonic()
    said = weighed([*command, *threads, "-c", "512", "--no-warmup"], environment(programs.completion))
    seconds = time.monotonic() - begun
    (n_prompt, prompt_speed, prompt_off), (n_generated, generation, generation_off) = bench
    return Speed(n_prompt, prompt_speed, prompt_off, n_generated, generation, generation_off, seconds, memory=said)


def _bench(command: Sequence[str | Path], program: Path) -> list[tuple[int, float, float]]:
    answer = ask(command, timeout_s=_DAY_S, env=environment(program))
    if answer.exit_code:
        raise _failed("llama-bench", answer)
    try:
        rows = json.loads(answer.stdout)
        tests = {bool(row["n_gen"]): row for row in rows}
        return [_figures(tests[is_generation]) for is_generation in (False, True)]
    except (ValueError, KeyError, TypeError) as error:
        raise ToolchainError(f"llama-bench said something else than its figures: {error}") from None


def _figures(row: dict[str, Any]) -> tuple[int, float, float]:
    return int(row["n_prompt"] or row["n_gen"]), float(row["avg_ts"]), float(row["stddev_ts"])


def weighed(command: Sequence[str | Path], env: dict[str, str] | None = None) -> int:
    """Run a program to its end; the bytes that it held in memory at most. ToolchainError if it fails."""
    return weighed_answer(command, env)[1]


def weighed_answer(command: Sequence[str | Path], env: dict[str, str] | None = None) -> tuple[str, int]:
    """Run a program to its end: what it said on stdout, and the bytes that it held in memory at most."""
    answer = ask([sys.executable, "-I", "-S", "-c", _WEIGH, *command], timeout_s=_DAY_S, env=env)
    if answer.exit_code:
        raise _failed(Path(command[0]).name, answer)
    return answer.stdout, int(answer.stderr.split()[-1]) * _KIB


def _failed(name: str, answer: Answer) -> ToolchainError:
    heard = excerpt(answer.text)
    why = heard.error or (heard.lines or ["it said nothing"])[-1].strip()
    return ToolchainError(f"{name} failed, {how_it_ended(answer.exit_code)}: {why}")
