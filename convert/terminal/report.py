"""What a run has done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.terminal.look import escape, make_grid, size, stderr

if TYPE_CHECKING:
    from convert.stream import Report


def show_report(report: Report) -> None:
    """Print each file with its size, and the time."""
    console = stderr()
    grid = make_grid()
    for output in report.outputs:
        state = "" if output.written else "kept: complete, and equal to the plan"
        grid.add_row(escape(str(output.path)), size(output.nbytes), state)
    console.print(grid)
    written = [output.nbytes for output in report.outputs if output.written]
    console.print(f"{len(written)} files, {size(sum(written))}, in {report.seconds:.1f} s")
