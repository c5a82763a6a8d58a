"""A report as Markdown, for a model's card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.report.columns import shown_columns
from convert.report.summary import headline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.report.data import Missing, Report


def as_markdown(report: Report) -> str:
    """Write the headline, the table, what was not measured, and how all this was made."""
    columns = shown_columns(report.subjects)
    rows = [[subject.label, *(column.cell(subject) for column in columns)] for subject in report.subjects]
    lines = [headline(report), "", _row(["file", *(column.head for column in columns)])]
    lines += [_row([":--", *("--:" for _ in columns)]), *map(_row, rows), ""]
    lines += [f"- {column.head}: {column.meaning}" for column in columns]
    lines += [f"- {line}" for line in (*notes(report), *_told(report))]
    return "\n".join(lines) + "\n"


def notes(report: Report) -> Iterator[str]:
    """Yield what one must know of the figures: what they were measured on, and with."""
    if report.text is not None and (judged := next((s.answers for s in report.subjects if s.answers), None)):
        yield f"answers: {judged.n_places} places of {report.text}, beside {report.reference}"
        if judged.tail:
            yield (
                f"of the reference, {judged.kept} tokens a place were kept; {judged.tail:.2g} of the probability was"
                f" beyond them, which takes {judged.lost:.2g} nats from KL mean"
            )
    if report.floor is not None:
        yield f"the reference against itself, computed another way: KL mean {report.floor.kl_mean:.2g} nats"
    yield f"machine: {', '.join(report.machine.values())}"
    yield f"versions: {', '.join(f'{name} {number}' for name, number in report.versions.items())}"


def _told(report: Report) -> Iterator[str]:
    if report.command:
        yield f"made by `{report.command}`"
    for label, missing in missing_of(report):
        yield f"not measured, {f'{label}: ' if label else ''}{missing.what}: {missing.why}"


def missing_of(report: Report) -> Iterator[tuple[str, Missing]]:
    """Yield what could not be measured, with the file's label, empty for all files."""
    for missing in report.missing:
        yield "", missing
    for subject in report.subjects:
        for missing in subject.missing:
            yield subject.label, missing


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
