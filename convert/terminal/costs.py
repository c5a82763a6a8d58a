"""What each type costs, as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.report.columns import shown_columns
from convert.report.markdown import missing_of
from convert.report.summary import headline
from convert.terminal.look import say, stderr, stdout
from convert.terminal.table import show_table

if TYPE_CHECKING:
    from convert.report import Report


def show_costs(report: Report) -> None:
    """Print the answer in a sentence, the table, and what is missing with why."""
    out = stdout()
    say(out, headline(report))
    columns = shown_columns(report.subjects)
    rows = [[subject.label, *(column.cell(subject) for column in columns)] for subject in report.subjects]
    show_table(out, ["file", *(column.head for column in columns)], rows, right=True)
    if report.floor is not None:
        say(out, f"the reference against itself, computed another way: {report.floor.kl_mean:.2g} nats")
    for label, missing in missing_of(report):
        say(stderr(), f"{f'{label}: ' if label else ''}{missing.what}: {missing.why}", label="not measured:")
