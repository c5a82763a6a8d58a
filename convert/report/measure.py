"""Measure: stage by stage, each kept in the user's cache, so that a report that was interrupted goes on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gguf import GGML_QUANT_SIZES, Keys

from convert.errors import ConvertError, UsageError
from convert.gguf_file import as_one, read_parts
from convert.llama_cpp.pin import COMMIT
from convert.llama_cpp.reporter import Reporter, Silent
from convert.memory.running import CONTEXTS, cache_nbytes
from convert.model import ModelRequest
from convert.process import usable_processors
from convert.quant_mix import FILE_TYPES
from convert.report.answers import compare, keep
from convert.report.cache import Cache, file_sha256, user_cache
from convert.report.data import Answers, Missing, Report, Size, Speed, Subject, TensorCost, Weights
from convert.report.others import PRECISIONS, other_subject
from convert.report.running import Perplexity, Programs, Text, perplexity_of, speed_of
from convert.verify.against import wanted_model
from convert.verify.compared import compared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convert.gguf_file import GGUFFile
    from convert.report.answers import Kept

PROMPT: Final = "Hello, my name is"  # LitGPT's, whose page a report is after
BUDGET: Final = 2 << 30
_CONTEXT: Final = 512
_DECLARED: Final = {row.declared: row.name for row in FILE_TYPES.values() if row.declared is not None}
_FLOATS: Final = ("F32", "BF16", "F16")  # the best reference first
_SECOND_WAY: Final = ("-fa", "off", "-ub", "64")


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What is to be measured.

    files: GGUF files of one model. against: the checkpoint, or float GGUF file, whose weights are the measure.
    text: what answers are measured on; None: they are not. n_windows: of the text, at most. budget: bytes for the
    reference's probabilities. precisions: of `against`, by transformers. command: how it was asked for, to be printed.
    """

    files: tuple[Path, ...]
    against: ModelRequest | None = None
    text: Path | None = None
    n_windows: int | None = None
    budget: int = BUDGET
    prompt: str = PROMPT
    precisions: tuple[str, ...] = ()
    jobs: int | None = None
    n_runs: int = 3
    command: str = ""


@dataclass(frozen=True, slots=True)
class Measuring:
    """With what: llama.cpp's programs, None where none are built; where results are kept; who listens."""

    programs: Programs | None
    cache: Cache = field(default_factory=user_cache)
    reporter: Reporter = field(default_factory=Silent)


def measure(request: ReportRequest, measuring: Measuring) -> Report:
    """Measure files side by side.

    What cannot be measured is said in the report, with why. Raises CheckpointError for a file that is broken,
    UsageError for files of different models or an unknown precision.
    """
    _check(request)
    headers = {path: as_one(read_parts(path)) for path in request.files}
    work = _Work(request, measuring, headers)
    files = [work.subject(path) for path in request.files]
    with tempfile.TemporaryDirectory(prefix="convert-report-") as folder:
        answers = work.answers(Path(folder))
        files, floor = ([*files], None) if answers is None else work.with_answers(files, answers)
        others = [work.other(precision, answers) for precision in request.precisions]
    reference = work.reference
    return Report(
        model=_name(headers[request.files[0]], request.files[0]),
        reference=None if reference is None else reference.name,
        subjects=(*files, *others),
        floor=floor,
        prompt=request.prompt,
        text=None if request.text is None else request.text.name,
        text_sha256=None if request.text is None else file_sha256(request.text),
        machine=_machine(),
        versions=_versions(),
        command=request.command,
        missing=tuple(work.missing),
    )


def _check(request: ReportRequest) -> None:
    if not request.files:
        raise UsageError("there is no GGUF file to measure")
    for precision in request.precisions:
        if precision not in PRECISIONS:
            raise UsageError(f"`{precision}` is no precision; there are {', '.join(PRECISIONS)}")
    if request.precisions and (request.against is None or request.against.path.suffix == ".gguf"):
        raise UsageError("precisions are measured of a checkpoint: name it with `against`")
    if request.text is not None and not request.text.is_file():
        raise UsageError(f"`{request.text}` is not a file")


def _name(header: GGUFFile, path: Path) -> str:
    return str(header.metadata.get(Keys.General.NAME) or path.stem)


class _Work:
    """The stages, and what is known of the files."""

    def __init__(self, request: ReportRequest, measuring: Measuring, headers: Mapping[Path, GGUFFile]) -> None:
        self._request = request
        self._measuring = measuring
        self.headers = headers
        self._say = measuring.reporter.advance
        self._hashes: dict[Path, str] = {}
        self.missing: list[Missing] = []
        self.reference = _reference(headers)
        if len({_vocabulary(header) for header in headers.values()}) > 1:
            raise UsageError("the files have different vocabularies: they are not of one model")
        if measuring.programs is None:
            self.missing.append(Missing("answers and speed", "no llama.cpp build was found"))
        elif request.text is None:
            self.missing.append(Missing("answers", "no text was given"))

    def sha256(self, path: Path) -> str:
        if path not in self._hashes:
            self._say(f"hashing {path.name}", 0, 0)
            self._hashes[path] = file_sha256(*(part.path for part in read_parts(path)))
        return self._hashes[path]

    def subject(self, path: Path) -> Subject:
        """Measure what a file can be asked alone."""
        header = self.headers[path]
        kind = _type(header)
        subject = Subject(path.name, kind, str(path), self.sha256(path), _size(header))
        subject = self._tried(subject, "weights", self._weights, path)
        if self._measuring.programs is not None:
            subject = self._tried(subject, "speed", self._speed, path)
        return subject

    def _tried(self, subject: Subject, name: str, stage: Callable[[Path], object], path: Path) -> Subject:
        """Add a stage's result, or why there is none."""
        try:
            found: dict[str, Any] = {name: stage(path)}
            return replace(subject, **found)
        except ConvertError as error:
            return replace(subject, missing=(*subject.missing, Missing(name, error.message)))

    def _weights(self, path: Path) -> Weights | None:
        against = self._request.against
        if against is None and (self.reference is None or self.reference == path):
            return None
        request = against or ModelRequest(self.reference or path)
        self._say(f"comparing {path.name}'s weights", 0, 0)
        key = ("weights", self.sha256(path), _identity(request))
        if (known := self._measuring.cache.get(*key)) is not None:
            return Weights(known["relative_rmse"], tuple(TensorCost(**each) for each in known["tensors"]))
        found = _weights(path, request)
        self._measuring.cache.put(asdict(found), *key)
        return found

    def _speed(self, path: Path) -> Speed:
        request, programs = self._request, self._measuring.programs
        assert programs is not None  # noqa: S101 - asked by the caller
        key = ("speed", self.sha256(path), _build(programs), request.prompt, request.jobs, request.n_runs, _machine())
        if (known := self._measuring.cache.get(*key)) is not None:
            return Speed(**known)
        self._say(f"measuring {path.name}'s speed", 0, 0)
        found = speed_of(programs, path, request.prompt, jobs=request.jobs, n_runs=request.n_runs)
        self._measuring.cache.put(asdict(found), *key)
        return found

    def answers(self, folder: Path) -> _Answers | None:
        """Give what compares answers; None where something for it is missing."""
        if self._measuring.programs is None or self._request.text is None:
            return None
        if self.reference is None:
            self.missing.append(Missing("answers", "there is no F32, BF16 or F16 file to compare the others with"))
            return None
        return _Answers(self, self._measuring, _text(self._request, self.headers), self.reference, folder)

    def with_answers(self, subjects: Sequence[Subject], answers: _Answers) -> tuple[list[Subject], Answers | None]:
        """Add what each file answers, beside the reference; and the reference beside itself."""
        found = []
        for number, subject in enumerate(subjects):
            self._say("measuring answers", number, len(subjects) + 1)
            path = Path(subject.path or "")
            if path == self.reference:
                found.append(self._tried(subject, "perplexity", lambda _: answers.own_perplexity(), path))
            else:
                found.append(self._tried(subject, "answers", answers.of, path))
        self._say("measuring answers", len(subjects), len(subjects) + 1)
        try:
            return found, answers.of(answers.reference, _SECOND_WAY)
        except ConvertError as error:
            self.missing.append(Missing("the reference's own noise", error.message))
            return found, None

    def other(self, precision: str, answers: _Answers | None) -> Subject:
        """Measure the checkpoint elsewhere."""
        request = self._request
        assert request.against is not None  # noqa: S101 - `_check`
        self._say(f"measuring {precision} by transformers", 0, 0)
        try:
            windows = None if answers is None else answers.windows_file()
        except ConvertError:  # said of the files already
            windows = None
        return other_subject(request.against.path, precision, request.prompt, windows)


class _Answers:
    """One text and one reference, whose probabilities are computed once, when a file first needs them."""

    def __init__(self, work: _Work, measuring: Measuring, text: Text, reference: Path, folder: Path) -> None:
        assert measuring.programs is not None  # noqa: S101 - asked by the caller
        self._work, self._measuring, self._programs = work, measuring, measuring.programs
        self._text, self.reference, self._folder = text, reference, folder
        self._kept: tuple[Kept, Perplexity] | None = None

    def own_perplexity(self) -> float:
        """Give the reference's."""
        key = ("perplexity", self._work.sha256(self.reference), *self._cut(), _build(self._programs))
        if (known := self._measuring.cache.get(*key)) is not None:
            return float(known["value"])
        value = self._reference_places()[1].value
        self._measuring.cache.put({"value": value}, *key)
        return value

    def windows_file(self) -> Path:
        """Write the text's tokens as llama.cpp cut them, each window begun as it begins them; for other programs."""
        tokens = self._reference_places()[0].windows.tokens.copy()
        metadata = self._work.headers[self.reference].metadata
        bos = metadata.get(Keys.Tokenizer.BOS_ID)
        if tokens[0, 0] == bos:
            tokens[:, 0] = bos
        out = self._folder / "windows.json"
        out.write_text(json.dumps(tokens.tolist()), encoding="utf-8")
        return out

    def _cut(self) -> tuple[object, ...]:
        return file_sha256(self._text.path), self._text.n_ctx, self._text.n_windows

    def of(self, path: Path, more: Sequence[str] = ()) -> Answers:
        """Compare a file's answers with the reference's."""
        text = self._text
        hashes = (self._work.sha256(path), self._work.sha256(self.reference))
        key = ("answers", *hashes, *self._cut(), self._budget, _build(self._programs), tuple(more))
        if (known := self._measuring.cache.get(*key)) is not None:
            return Answers(**known)
        kept, base = self._reference_places()
        found, own = perplexity_of(
            self._programs, path, text, self._folder, lambda windows, file: compare(windows, file, kept), more
        )
        ratio = own.value / base.value
        found = replace(found, perplexity=own.value, uncertainty=own.uncertainty, ratio=ratio)
        self._measuring.cache.put(asdict(found), *key)
        return found

    @property
    def _budget(self) -> int:
        return self._work._request.budget  # noqa: SLF001 - of the same file

    def _reference_places(self) -> tuple[Kept, Perplexity]:
        if self._kept is None:
            out, budget = self._folder / "reference", self._budget
            self._kept = perplexity_of(
                self._programs,
                self.reference,
                self._text,
                self._folder,
                lambda windows, file: keep(windows, file, out, budget=budget),
            )
        return self._kept


def _reference(headers: Mapping[Path, GGUFFile]) -> Path | None:
    """Choose the best float file: F32 before BF16 before F16."""
    floats = {_type(header): path for path, header in reversed(list(headers.items()))}
    return next((floats[kind] for kind in _FLOATS if kind in floats), None)


def _type(header: GGUFFile) -> str:
    declared = header.metadata.get(Keys.General.FILE_TYPE)
    return _DECLARED.get(declared, f"file type {declared}")  # type: ignore[arg-type]


def _vocabulary(header: GGUFFile) -> int:
    return len(header.metadata.get(Keys.Tokenizer.LIST, ()))


def _size(header: GGUFFile) -> Size:
    n_weights = sum(prod(tensor.shape) for tensor in header.tensors)
    nbytes = header.nbytes
    cache = {str(n_tokens): cache_nbytes(header.metadata, n_tokens) for n_tokens in CONTEXTS}
    return Size(nbytes, n_weights, nbytes * 8 / n_weights, cache)


def _weights(path: Path, request: ModelRequest) -> Weights:
    parts = read_parts(path)
    errors = compared(parts, wanted_model(request))
    shapes = {tensor.name: tensor for part in parts for tensor in part.tensors}
    tensors = []
    for error in errors:
        block_size, type_size = GGML_QUANT_SIZES[shapes[error.name].type]
        nbytes = prod(shapes[error.name].shape) // block_size * type_size
        tensors.append(TensorCost(error.name, error.type, nbytes, error.relative_rmse))
    square_error, spread = (sum(getattr(each, name) for each in errors) for name in ("square_error", "square_spread"))
    return Weights((square_error / spread) ** 0.5 if spread else 0.0, tuple(tensors))


def _identity(request: ModelRequest) -> str:
    """Say what a checkpoint's files are, by size and time: reading them all to know would take as long as comparing."""
    files = [request.path] if request.path.is_file() else sorted(request.path.glob("*"))
    return repr([(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files] + [request.adapters])


def _text(request: ReportRequest, headers: Mapping[Path, GGUFFile]) -> Text:
    assert request.text is not None  # noqa: S101 - asked by the caller
    known = min(_context(header) for header in headers.values())
    most = min(known, _CONTEXT, request.text.stat().st_size // 16)
    n_ctx = max(1 << max(most.bit_length() - 1, 0), 8)
    return Text(request.text, n_ctx, request.n_windows or -1)


def _context(header: GGUFFile) -> int:
    arch = header.metadata.get(Keys.General.ARCHITECTURE)
    return int(header.metadata.get(Keys.LLM.CONTEXT_LENGTH.format(arch=arch), _CONTEXT))


def _build(programs: Programs) -> str:
    return hashlib.sha256(str(programs.perplexity.resolve()).encode()).hexdigest()


def _machine() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "processors": f"{usable_processors()} processors",
        "memory": f"{memory / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> dict[str, str]:
    own = {"convert": version("gguf-convert"), "Python": platform.python_version(), "llama.cpp": COMMIT[:12]}
    return own | {name: version(name) for name in ("torch", "transformers")}
