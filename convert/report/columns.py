"""The headline table: one list of columns, which the terminal, Markdown and the page show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.report.summary import short_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from convert.report.data import Subject


@dataclass(frozen=True, slots=True)
class Column:
    """A figure: its head, what it is of a subject (None: not measured), how it is written, and what it means."""

    head: str
    value: Callable[[Subject], float | None]
    written: Callable[[float], str]
    meaning: str

    def cell(self, subject: Subject) -> str:
        """Write the figure; empty where there is none."""
        value = self.value(subject)
        return "" if value is None else self.written(value)


def _of(group: str, name: str) -> Callable[[Subject], float | None]:
    def value(subject: Subject) -> float | None:
        found: float | None = getattr(getattr(subject, group), name, None)
        return found

    return value


def _loaded(subject: Subject, n_tokens: int) -> float | None:
    cache = None if subject.size is None else subject.size.cache.get(str(n_tokens))
    return None if subject.size is None or cache is None else subject.size.nbytes + cache


def _fixed(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _tokens(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"  # noqa: PLR2004


COLUMNS: Final = (
    Column("size", _of("size", "nbytes"), short_size, "bytes of the file"),
    Column("bits/weight", _of("size", "bits_per_weight"), _fixed(2), "of the whole file"),
    Column("with 4k", lambda s: _loaded(s, 4096), short_size, "the file and its key-value cache at 4096 tokens"),
    Column("with 32k", lambda s: _loaded(s, 32768), short_size, "the same at 32768 tokens"),
    Column("weights off", _of("weights", "relative_rmse"), _fixed(4), "RMSE over the values' spread"),
    Column(
        "perplexity",
        lambda s: s.answers.perplexity if s.answers is not None else s.perplexity,
        _fixed(3),
        "of the text; lower is better",
    ),
    Column("KL mean", _of("answers", "kl_mean"), _fixed(5), "nats a token from the reference"),
    Column("KL 99 %", _of("answers", "kl_99"), _fixed(4), "99 of 100 tokens lose less"),
    Column("same top", _of("answers", "same_top"), _percent, "the likeliest token is the reference's"),
    Column("prompt t/s", _of("speed", "prompt"), _tokens, "tokens of a prompt a second"),
    Column("generation t/s", _of("speed", "generation"), _tokens, "tokens generated a second"),
    Column("seconds", _of("speed", "seconds"), _fixed(1), "one prompt answered, loading included"),
    Column("memory", _of("speed", "memory"), short_size, "the program's peak"),
)


def shown_columns(subjects: tuple[Subject, ...]) -> list[Column]:
    """Give the columns in which there is a figure."""
    return [column for column in COLUMNS if any(column.cell(subject) for subject in subjects)]
