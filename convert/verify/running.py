"""What llama.cpp makes of the files: it loads them; perplexity; how far its probabilities are from a base model's.

No process is started here: the caller says how (`LlamaCpp.ask`), so that this room stays below the one that does.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from gguf import Keys

from convert.errors import UnsupportedError, UsageError, VerificationError
from convert.gguf_file import read_gguf
from convert.shown import excerpt
from convert.verify.data import Finding, Measured, note, problem
from convert.verify.probabilities import Probabilities, divergence, read_probabilities
from convert.verify.with_transformers import checkpoint_probabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convert.gguf_file import GGUFFile
    from convert.model import ModelRequest

CHECK = "llama.cpp"

_MAX_CONTEXT: Final = 512
_MIN_CONTEXT: Final = 8
_NBYTES_PER_TOKEN: Final = 8  # more than tokenizers take for prose, so that the text is long enough
_MAX_NBYTES: Final = 1 << 30
_FINAL: Final = re.compile(r"Final estimate: PPL = (\S+) \+/- (\S+)")
_TOO_SHORT: Final = re.compile(r"you need at least (\d+) tokens.*?tokenizes to only (\d+) tokens", re.DOTALL)
_N_TRIES: Final = 8
_FLOAT_FILES: Final = frozenset({0, 1, 32})  # LlamaFileType ALL_F32, MOSTLY_F16, MOSTLY_BF16


class Answered(Protocol):
    """How a program ended, and what it said."""

    @property
    def exit_code(self) -> int: ...

    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """Built programs, and the way to run one to its end."""

    completion: Path
    perplexity: Path | None
    ask: Callable[[Sequence[str]], Answered]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What to measure: loading always; with a text its perplexity, and the divergence from a base model.

    checkpoint: the base, computed by transformers; without it, or where it cannot be, the first F32, F16 or BF16 file.
    """

    llama_cpp: LlamaCpp
    text: Path | None = None
    checkpoint: ModelRequest | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of one file, and what to say about it."""

    measured: Measured
    findings: tuple[Finding, ...] = ()

    def saying(self, finding: Finding) -> Result:
        """Add a finding."""
        return replace(self, findings=(*self.findings, finding))


def measure_all(paths: Sequence[Path], measuring: Measuring) -> dict[Path, Result]:
    """Load every file, then measure those that load, on the same windows of the text."""
    results = {path: _load(path, measuring.llama_cpp) for path in paths}
    loaded = [path for path in paths if results[path].measured.loads]
    if measuring.text is None or measuring.llama_cpp.perplexity is None or not loaded:
        return results
    if not measuring.text.stat().st_size:
        raise too_short(measuring.text, needed=2 * _MIN_CONTEXT, found=0)
    with tempfile.TemporaryDirectory(prefix="convert-verify-") as folder:
        measurement = _Measurement(measuring, measuring.text, loaded, Path(folder))
        return results | {path: measurement.measure(path, results[path]) for path in loaded}


def _load(path: Path, llama_cpp: LlamaCpp) -> Result:
    """Load a file and take one step. -no-cnv: a chat template would start a conversation instead."""
    command = [str(llama_cpp.completion), "-m", str(path), "-p", "Once", "-n", "1", "--temp", "0", "-c", "64"]
    answer = llama_cpp.ask([*command, "-no-cnv", "--no-warmup", "--no-repack"])
    if answer.exit_code == 0:
        return Result(Measured(loads=True))
    found = problem(CHECK, f"llama.cpp does not run it (exit code {answer.exit_code}): {_first_error(answer.text)}")
    return Result(Measured(loads=False), (found,))


def too_short(text: Path, *, needed: int, found: int) -> UsageError:
    """Make the error for a text that gives too few tokens: what is wrong is not the files."""
    return UsageError(
        f"`{text}` is too short to measure: it gives {found} tokens, {needed} are needed",
        hint=f"take a longer text: some {needed * _NBYTES_PER_TOKEN} characters are enough, a page is better",
    )


class _Measurement:
    """One text, cut for all files alike; the base's probabilities stay on disk, the others' only while they are read.

    At most _MAX_NBYTES each: of a large vocabulary, only the text's beginning is measured.
    """

    def __init__(self, measuring: Measuring, text: Path, paths: Sequence[Path], folder: Path) -> None:
        headers = {path: read_gguf(path) for path in paths}
        self._measuring = measuring
        self._text = text
        self._folder = folder
        self._n_ctx = min(_context(header, text) for header in headers.values())
        self._n_windows = min(_n_windows(header, self._n_ctx) for header in headers.values())
        self._notes: list[Finding] = []
        self._base_name, self._base = self._find_base(headers)

    def _find_base(self, headers: dict[Path, GGUFFile]) -> tuple[str | None, Probabilities | None]:
        first = next(iter(headers))
        if self._measuring.checkpoint is not None:
            try:
                return "transformers", self._ask_transformers(self._measuring.checkpoint, first, headers[first])
            except (UnsupportedError, VerificationError) as error:
                self._notes.append(note(CHECK, f"not compared with transformers: {error.message}"))
        floats = [
            path for path, header in headers.items() if header.metadata.get(Keys.General.FILE_TYPE) in _FLOAT_FILES
        ]
        if floats:
            try:
                return str(floats[0]), self._run(floats[0], "base")[0]
            except VerificationError:
                pass  # said when the file itself is measured
        return None, None

    def _ask_transformers(self, model: ModelRequest, path: Path, header: GGUFFile) -> Probabilities:
        like = self._run(path, "first")[0]
        bos = header.metadata.get(Keys.Tokenizer.BOS_ID)
        bos = bos if like.tokens[0, 0] == bos else None
        try:
            return checkpoint_probabilities(model, like, self._folder / "base", bos=bos)
        finally:
            like.path.unlink()

    def measure(self, path: Path, result: Result) -> Result:
        """Measure one file."""
        for finding in self._notes:
            result = result.saying(finding)
        try:
            ours, estimate = self._run_until_heard(path)
        except VerificationError as error:
            return result.saying(problem(CHECK, error.message))
        if len(ours.tokens) == self._n_windows:
            said = f"measured on the first {ours.tokens.size} tokens of the text, as far as the probabilities have room"
            result = result.saying(note(CHECK, said))
        if estimate is None:
            result = result.saying(note(CHECK, "llama-perplexity ended well without saying the perplexity"))
        value, uncertainty = estimate or (None, None)
        if value is not None and not isfinite(value):
            return result.saying(problem(CHECK, f"its perplexity is {value}"))
        measured = replace(result.measured, perplexity=value, uncertainty=uncertainty)
        if self._base is None or self._base_name == str(path):
            return replace(result, measured=measured)
        try:
            nats, same_top = divergence(ours, self._base)
        except VerificationError as error:
            return replace(result, measured=measured).saying(problem(CHECK, error.message))
        measured = replace(measured, kl_divergence=nats, same_top=same_top, base=self._base_name)
        return replace(result, measured=measured)

    def _run_until_heard(self, path: Path) -> tuple[Probabilities, tuple[float, float] | None]:
        """Return a file's probabilities and llama-perplexity's own estimate.

        The program prints through a thread that it does not wait for at its end (common/log.cpp @ 0c1e570): now and
        then, of a small model often, the last lines are lost, with exit code 0. Then again.
        """
        for _ in range(_N_TRIES):
            ours, said = self._run(path, "file")
            found = _FINAL.search(said)
            if found is not None:
                return ours, (float(found[1]), float(found[2]))
        return ours, None

    def _run(self, path: Path, name: str) -> tuple[Probabilities, str]:
        out = self._folder / name
        out.unlink(missing_ok=True)
        command = [str(self._measuring.llama_cpp.perplexity), "-m", str(path), "-f", str(self._text)]
        command += ["-c", str(self._n_ctx), "-b", str(_MAX_CONTEXT), "--chunks", str(self._n_windows), "--no-repack"]
        answer = self._measuring.llama_cpp.ask([*command, "--kl-divergence-base", str(out)])
        if (short := _TOO_SHORT.search(answer.text)) is not None:
            raise too_short(self._text, needed=int(short[1]), found=int(short[2]))
        if answer.exit_code or not out.is_file():
            raise VerificationError(
                f"llama-perplexity failed (exit code {answer.exit_code}): {_first_error(answer.text)}"
            )
        return read_probabilities(out), answer.text


def _context(header: GGUFFile, text: Path) -> int:
    """Choose a window: a power of two that the model knows and of which the text has at least two."""
    arch = header.metadata.get(Keys.General.ARCHITECTURE)
    known = header.metadata.get(Keys.LLM.CONTEXT_LENGTH.format(arch=arch), _MAX_CONTEXT)
    most = min(int(known), text.stat().st_size // _NBYTES_PER_TOKEN // 2, _MAX_CONTEXT)
    return max(1 << max(most.bit_length() - 1, 0), _MIN_CONTEXT)


def _n_windows(header: GGUFFile, n_ctx: int) -> int:
    """Bound the file of probabilities: two bytes a token of the vocabulary, for half of each window's places."""
    n_vocab = len(header.metadata.get(Keys.Tokenizer.LIST, ())) or 1
    return max(_MAX_NBYTES // (n_ctx // 2 * n_vocab * 2), 1)


def _first_error(text: str) -> str:
    heard = excerpt(text)
    return heard.error or (heard.lines or ["it said nothing"])[-1].strip()
