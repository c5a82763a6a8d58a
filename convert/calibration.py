"""Make an importance matrix: llama-imatrix reads a text with the model, a portion at a time.

    a model's directory ── F16, or Q8_0 where memory is small ──▶ GGUF ──▶ portions of the text ──▶ OUT.gguf

After each portion the sums so far lie in a hidden directory beside the output: a run that was interrupted goes on after
the last whole portion. The file is, byte for byte, the one that llama-imatrix makes in one go: its sums are float32 and
added in the text's order. Source: tools/imatrix/imatrix.cpp @ 0c1e570.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gguf import Keys

from convert.conversion import convert_one
from convert.errors import CheckpointError, OutputError, Remedy, ToolchainError, UsageError
from convert.gguf_file import encoded_entry, layout, read_gguf, read_parts
from convert.importance import is_importance
from convert.llama_cpp.environment import environment
from convert.llama_cpp.reporter import Reporter, Silent
from convert.model import as_request
from convert.process import ask, run
from convert.remote import require_here
from convert.stream import Writing

if TYPE_CHECKING:
    from pathlib import Path

    from convert.model import ModelRequest, PathLike

_CONTEXT: Final = 512  # llama-imatrix's own window
_BATCH: Final = 2048  # llama.cpp's: so many tokens go through the model at once
_PORTION: Final = 16  # windows, at least
_FEWEST_LEFT: Final = 3  # llama-imatrix begins no later before the end
_COUNTING: Final = ("--ids", "--show-count", "--no-parse-special", "--log-disable")
_N_TOKENS: Final = re.compile(r"Total number of tokens: (\d+)")
_TOKENIZING_TIMEOUT_S: Final = 3600.0
_SHARE_OF_MEMORY: Final = 0.6
_DATASETS: Final = "imatrix.datasets"


@dataclass(frozen=True, slots=True)
class CalibrationPrograms:
    """The built programs that it takes."""

    imatrix: Path
    tokenize: Path


@dataclass(frozen=True, slots=True)
class Calibration:
    """What an importance matrix is made from.

    model: a checkpoint, or a GGUF file. text: its file. n_windows: of the text, at most; by default all.
    added: matrices whose sums are added. jobs: threads; by default llama.cpp's own choice.
    """

    model: PathLike | ModelRequest
    text: Path
    n_windows: int | None = None
    added: tuple[Path, ...] = ()
    jobs: int | None = None


def make_importance(
    programs: CalibrationPrograms,
    calibration: Calibration,
    out: Path,
    *,
    force: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Make the importance matrix `out`, or go on with it where an earlier run was interrupted; returns its path.

    force: replace what is there.
    Raises UsageError for a text that is too short, OutputError for a file that is there, CheckpointError for a model or
    a matrix that is broken, ToolchainError where a program fails; then the work so far is kept.
    """
    _check(calibration, out, force=force)
    folder = _open_folder(out.with_name(f".{out.name}.partial"), calibration)
    model = _model_file(calibration, folder, reporter or Silent())
    work = _Work(programs, calibration, model, folder, reporter or Silent())
    _write_once(work.run(), out)
    shutil.rmtree(folder)
    return out


def _check(calibration: Calibration, out: Path, *, force: bool) -> None:
    if not calibration.text.is_file():
        raise UsageError(f"`{calibration.text}` is not a file")
    if calibration.n_windows is not None and calibration.n_windows < 1:
        raise UsageError(f"{calibration.n_windows} windows of text were asked for")
    if out.suffix != ".gguf":
        raise UsageError(f"`{out}` does not end with .gguf")
    for matrix in calibration.added:
        if not is_importance(read_gguf(matrix)):
            raise CheckpointError(f"`{matrix}` is not an importance matrix")
    if out.exists() and not force:
        raise OutputError(f"`{out}` is already there", remedies=(Remedy.FORCE, Remedy.OTHER_PLACE))


def _open_folder(folder: Path, calibration: Calibration) -> Path:
    """Give the directory of the work so far; of other work, nothing stays in it."""
    described = folder / "work"
    identity = _identity(calibration)
    try:
        if not described.is_file() or described.read_text() != identity:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            described.write_text(identity)
    except OSError as error:
        raise OutputError(f"`{folder}` cannot be written: {error.strerror}") from error
    return folder


def _identity(calibration: Calibration) -> str:
    """Describe the work: the model's and the matrices' files by size and time, the text by its bytes."""
    request = as_request(calibration.model)
    model = [request.path] if request.path.is_file() else sorted(request.path.glob("*"))
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (*model, *calibration.added)]
    text = hashlib.sha256(calibration.text.read_bytes()).hexdigest()
    return repr((files, request.adapters, text, str(calibration.text), calibration.n_windows))


def _model_file(calibration: Calibration, folder: Path, reporter: Reporter) -> Path:
    """Give the GGUF file that the text is read with; made of a checkpoint where there is none."""
    request = as_request(calibration.model)
    if request.path.is_file() and request.path.suffix == ".gguf":
        require_here(request.path)
        return request.path
    for kind in ("f16", "q8_0"):
        made = folder / f"{kind}.gguf"
        reporter.say(f"making the {kind} file that the text is read with")
        convert_one(request, made, Writing(jobs=calibration.jobs), type=kind)
        if stays_in_memory(made.stat().st_size):
            break
        if kind == "f16":
            made.unlink()
    return made


def stays_in_memory(nbytes: int) -> bool:
    """Whether a model of this size stays in memory while a text goes through it."""
    return nbytes < _SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class _Work:
    """The portions of one text, and what is done of them: `sums-N.gguf` holds the first N windows."""

    def __init__(
        self,
        programs: CalibrationPrograms,
        calibration: Calibration,
        model: Path,
        folder: Path,
        reporter: Reporter,
    ) -> None:
        self._programs = programs
        self._calibration = calibration
        self._model = model
        self._folder = folder
        self._reporter = reporter
        metadata = read_parts(model)[0].metadata
        known = metadata.get(Keys.LLM.CONTEXT_LENGTH.format(arch=metadata.get(Keys.General.ARCHITECTURE)), _CONTEXT)
        self._n_ctx = min(_CONTEXT, int(known))

    def run(self) -> Path:
        """Do the portions that are missing; the file of all sums."""
        n_windows = self._n_windows()
        done = max((int(path.stem[5:]) for path in self._folder.glob("sums-*.gguf")), default=0)
        if done:
            self._reporter.say(f"going on after {done} of {n_windows} windows of the text")
        while done < n_windows:
            self._reporter.advance("reading the text", done, n_windows)
            end = self._end_of_portion(done, n_windows)
            self._read(done, end)
            done = end
        self._reporter.advance("reading the text", done, n_windows)
        return self._sums(done)

    def _sums(self, n_windows: int) -> Path:
        return self._folder / f"sums-{n_windows}.gguf"

    def _n_windows(self) -> int:
        said = ask(
            [self._programs.tokenize, "-m", self._model, "-f", self._calibration.text, *_COUNTING],
            timeout_s=_TOKENIZING_TIMEOUT_S,
            env=environment(self._programs.tokenize),
        )
        found = _N_TOKENS.search(said.text)
        if found is None:
            raise ToolchainError(f"llama-tokenize did not count the text's tokens (exit code {said.exit_code})")
        n_windows = int(found[1]) // self._n_ctx
        if n_windows < 2:  # noqa: PLR2004 - llama-imatrix's least
            raise UsageError(f"`{self._calibration.text}` has {found[1]} tokens, {2 * self._n_ctx} are the least")
        return min(n_windows, self._calibration.n_windows or n_windows)

    def _end_of_portion(self, first: int, n_windows: int) -> int:
        """End a portion where llama.cpp's batches of windows end, and leave no rest that is too short to begin."""
        at_once = max(_BATCH // self._n_ctx, 1)
        end = first + -(-_PORTION // at_once) * at_once
        return n_windows if n_windows - end < _FEWEST_LEFT else end

    def _read(self, first: int, end: int) -> None:
        partial = self._folder / "partial.gguf"
        before = [self._sums(first)] if first else self._calibration.added
        command: list[str | Path] = [
            self._programs.imatrix,
            "-m",
            self._model,
            "-f",
            self._calibration.text,
            "-o",
            partial,
        ]
        command += [word for path in before for word in ("--in-file", path)]
        command += ["-c", str(self._n_ctx), "-b", str(_BATCH), "--chunks", str(end - first), "--no-ppl", "--no-repack"]
        command += ["--chunk", str(first)] if first else []
        command += ["-t", str(self._calibration.jobs)] if self._calibration.jobs else []
        step = "making the importance matrix"
        run(command, step=step, log=self._folder / "log", env=environment(self._programs.imatrix))
        partial.replace(self._sums(end))
        if first:
            self._sums(first).unlink()


def _write_once(sums: Path, out: Path) -> None:
    """Write the sums under their name; llama-imatrix names a text once for each portion, here it stands once."""
    file = read_gguf(sums)
    entries = [
        encoded_entry(replace(entry, value=tuple(dict.fromkeys(entry.value))))
        if entry.key == _DATASETS
        else (entry, raw)
        for entry, raw in file.entries
    ]
    header, _, _ = layout([(info.name, info.shape, info.type) for info in file.tensors], entries, file.alignment)
    partial = sums.with_name("out.gguf")
    try:
        with sums.open("rb") as source, partial.open("wb") as target:
            target.write(header)
            source.seek(file.data_offset)
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        partial.replace(out)
    except OSError as error:
        raise OutputError(f"`{out}` cannot be written: {error.strerror}") from error
