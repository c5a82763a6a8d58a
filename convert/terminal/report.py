"""What a run has done, and what to do next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.text import Text

from convert.terminal.look import counted, harmless, say, size, stderr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convert.stream import Report


def show_report(report: Report, *, then: Sequence[str]) -> None:
    """Print what was written and kept, the time, and the command line to go on with, if any. The plan has the paths."""
    console = stderr()
    written = [output.nbytes for output in report.outputs if output.written]
    kept = [output.path.name for output in report.outputs if not output.written]
    for name in kept:
        say(console, f"kept {name}: complete, and equal to the plan")
    done = f"{counted(len(written), 'file')}, {size(sum(written))}, in {report.seconds:.1f} s"
    say(console, done if written else f"nothing to write: {'it is' if len(kept) == 1 else 'all files are'} there")
    if then:  # as one line, whatever its length, so that it can be copied
        console.print(Text.assemble(("next:", "bold"), " ", harmless(shlex.join(then))), soft_wrap=True)
