"""What a report says in words: its first sentence, and which file is the one to take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convert.report.data import Report, Subject

# Nats a token: below the first a difference is hard to notice, above the second easy (llama.cpp's own table of types,
# tools/quantize/README.md, where Q4_K_M of an 8B model loses about 0.03).
_LITTLE: Final = 0.03
_MUCH: Final = 0.05
_UNITS: Final = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def short_size(nbytes: float) -> str:
    """Write a length for people: `4.9 GB`."""
    factor, unit = unit_of(nbytes)
    return f"{nbytes / factor:.3g} {unit}"


def unit_of(nbytes: float) -> tuple[int, str]:
    """Choose the unit that a length is written in: how many bytes, its name."""
    return next((unit for unit in _UNITS if nbytes >= unit[0]), (1, "B"))


def headline(report: Report) -> str:
    """Answer in one sentence: which file, what it takes, loses, and gives here; and how the next smaller one does."""
    chosen = choice(report.subjects)
    if chosen is None:
        files = "1 file" if len(report.subjects) == 1 else f"{len(report.subjects)} files"
        return f"{files} of {report.model}; which to take, no measured answers say."
    said = [f"{chosen.type}: {short_size(_nbytes(chosen))}, loses {_nats(_loss(chosen))} nats a token"]
    if chosen.speed is not None:
        said.append(f"{chosen.speed.generation:.3g} tokens/s here")
    return f"{', '.join(said)}{_below(report.subjects, chosen)}."


def choice(subjects: Sequence[Subject]) -> Subject | None:
    """Choose the smallest file that loses little; where none does, the one that loses least."""
    judged = [subject for subject in subjects if subject.answers is not None]
    good = [subject for subject in judged if _loss(subject) <= _LITTLE]
    if good:
        return min(good, key=_nbytes)
    return min(judged, key=_loss, default=None)


def pareto(subjects: Sequence[Subject]) -> list[Subject]:
    """Give those that no smaller one equals, the smallest first."""
    best: list[Subject] = []
    for subject in sorted(
        (each for each in subjects if each.answers is not None), key=lambda each: (_nbytes(each), _loss(each))
    ):
        if not best or _loss(subject) < _loss(best[-1]):
            best.append(subject)
    return best


def _below(subjects: Sequence[Subject], chosen: Subject) -> str:
    smaller = [each for each in subjects if each.answers is not None and _nbytes(each) < _nbytes(chosen)]
    if not smaller:
        return ""
    following = max(smaller, key=_nbytes)
    falls = "quality falls fast" if _loss(following) > max(_MUCH, 2 * _loss(chosen)) else "more is lost"
    return f"; below it {falls} ({following.type}: {_nats(_loss(following))})"


def _loss(subject: Subject) -> float:
    return subject.answers.kl_mean if subject.answers is not None else float("inf")


def _nbytes(subject: Subject) -> int:
    return subject.size.nbytes if subject.size is not None else 0


def _nats(value: float) -> str:
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"  # noqa: PLR2004 - digits that say something
