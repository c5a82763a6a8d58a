"""What a verification found: frozen data, and the same as JSON."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

from convert.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Severity(Enum):
    """A problem makes the file wrong; a note is worth knowing."""

    PROBLEM = "problem"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. check: which check found it, such as `blocks`; message: in one line, the thing named."""

    severity: Severity
    check: str
    message: str


def problem(check: str, message: str) -> Finding:
    """Say what is wrong."""
    return Finding(Severity.PROBLEM, check, message)


def note(check: str, message: str) -> Finding:
    """Say what is worth knowing."""
    return Finding(Severity.NOTE, check, message)


@dataclass(frozen=True, slots=True)
class TensorError:
    """How far a tensor's decoded values are from the checkpoint's.

    square_error, square_spread: sums over all values, of (decoded - wanted)^2 and (wanted - mean)^2.
    worst: the value that is furthest off, counted in units of what its type can explain; worst_ratio: those units.
    n_unexplained: how many values are further off than their type can explain.
    """

    name: str
    type: str
    n_values: int
    square_error: float
    square_spread: float
    worst_index: tuple[int, ...]
    worst_wanted: float
    worst_decoded: float
    worst_ratio: float
    n_unexplained: int

    @property
    def rmse(self) -> float:
        """Root of the mean square error."""
        return sqrt(self.square_error / self.n_values)

    @property
    def relative_rmse(self) -> float:
        """RMSE in standard deviations of the tensor's values; of a constant tensor, 0 or infinite."""
        return _relative(self.square_error, self.square_spread)


def _relative(square_error: float, square_spread: float) -> float:
    if square_spread == 0:
        return 0.0 if square_error == 0 else float("inf")
    return sqrt(square_error / square_spread)


@dataclass(frozen=True, slots=True)
class Measured:
    """What llama.cpp made of a file; None where it was not asked.

    perplexity, with its uncertainty, of the text. kl_divergence: mean, in nats, from the base model's probabilities.
    same_top: the part of all places, 0 to 1, where the likeliest token is the base's. base: which model that is.
    """

    loads: bool
    perplexity: float | None = None
    uncertainty: float | None = None
    kl_divergence: float | None = None
    same_top: float | None = None
    base: str | None = None


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """One file: findings, and the measurements that were asked for."""

    path: Path
    nbytes: int
    findings: tuple[Finding, ...]
    errors: tuple[TensorError, ...] = ()
    measured: Measured | None = None

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is wrong."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.PROBLEM)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What is worth knowing."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.NOTE)

    @property
    def relative_rmse_by_type(self) -> dict[str, float]:
        """RMSE over the spread, all tensors of a type together."""
        sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for error in self.errors:
            square_error, square_spread = sums[error.type]
            sums[error.type] = square_error + error.square_error, square_spread + error.square_spread
        return {kind: _relative(*pair) for kind, pair in sums.items()}


@dataclass(frozen=True, slots=True)
class Verification:
    """All files."""

    files: tuple[VerifiedFile, ...]

    @property
    def is_sound(self) -> bool:
        """Whether no file has a problem."""
        return not any(file.problems for file in self.files)

    def check(self) -> None:
        """Raise VerificationError if a file has a problem."""
        wrong = [file for file in self.files if file.problems]
        if wrong:
            first, *others = wrong[0].problems
            where = f"`{wrong[0].path}`"
            if len(self.files) > 1:
                files = f"{len(wrong)} of {len(self.files)} files are not sound"
                raise VerificationError(f"{files}; the first problem, in {where}: {first.message}")
            more = f" (the first of {len(others) + 1} problems)" if others else ""
            raise VerificationError(f"{where} is not sound{more}: {first.message}")

    def as_json(self) -> Mapping[str, Any]:
        """Give everything as plain data; what JSON has no number for is None."""
        return {"sound": self.is_sound, "files": [_file_as_json(file) for file in self.files]}


def _file_as_json(file: VerifiedFile) -> dict[str, Any]:
    return {
        "path": str(file.path),
        "nbytes": file.nbytes,
        "sound": not file.problems,
        "problems": [{"check": finding.check, "message": finding.message} for finding in file.problems],
        "notes": [{"check": finding.check, "message": finding.message} for finding in file.notes],
        "relative_rmse_by_type": {kind: _number(value) for kind, value in file.relative_rmse_by_type.items()},
        "tensors": [dict(_error_as_json(error)) for error in file.errors],
        "llama_cpp": None if file.measured is None else _measured_as_json(file.measured),
    }


def _error_as_json(error: TensorError) -> Iterator[tuple[str, Any]]:
    yield "name", error.name
    yield "type", error.type
    yield "rmse", _number(error.rmse)
    yield "relative_rmse", _number(error.relative_rmse)
    yield "unexplained_values", error.n_unexplained
    yield (
        "worst",
        {
            "index": error.worst_index,
            "wanted": _number(error.worst_wanted),
            "decoded": _number(error.worst_decoded),
            "of_what_the_type_explains": _number(error.worst_ratio),
        },
    )


def _measured_as_json(measured: Measured) -> dict[str, Any]:
    return {
        "loads": measured.loads,
        "perplexity": measured.perplexity,
        "uncertainty": measured.uncertainty,
        "kl_divergence": measured.kl_divergence,
        "same_top": measured.same_top,
        "base": measured.base,
    }


def _number(value: float) -> float | None:
    return value if isfinite(value) else None
