"""Whether files are sound, and how far they are from the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table

from convert.terminal.look import escape, size, stdout
from convert.verify import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from convert.verify import Verification, VerifiedFile

_N_WORST = 3


def show_verification(verification: Verification) -> None:
    """Print a table of the files, then each finding, and the tensors that are furthest off."""
    out = stdout()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    columns = {name: [cell(file) for file in verification.files] for name, cell in _COLUMNS.items()}
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    for name in shown:
        table.add_column(name, overflow="fold")
    for row in zip(*shown.values(), strict=True):
        table.add_row(*map(escape, row))
    out.print(table)
    for file in verification.files:
        for line in _lines(file):
            out.print(escape(line))


def _lines(file: VerifiedFile) -> Iterator[str]:
    for finding in file.findings:
        yield f"{finding.severity.value}: {file.path.name}: {finding.check}: {finding.message}"
    if file.errors:
        by_type = ", ".join(f"{kind} {value:.3g}" for kind, value in file.relative_rmse_by_type.items())
        yield f"{file.path.name}: RMSE in standard deviations by type: {by_type}"
        for error in sorted(file.errors, key=lambda error: -error.relative_rmse)[:_N_WORST]:
            yield (
                f"  {error.name} ({error.type}) {error.relative_rmse:.3g}, worst at {list(error.worst_index)}: "
                f"{error.worst_decoded:.6g} instead of {error.worst_wanted:.6g}"
            )


def _state(file: VerifiedFile) -> str:
    return f"{len(file.problems)} problems" if file.problems else "sound"


def _worst_rmse(file: VerifiedFile) -> str:
    return f"{max(file.relative_rmse_by_type.values()):.3g}" if file.errors else ""


def _of(file: VerifiedFile) -> Measured:
    return file.measured or Measured(loads=False)


def _number(value: float | None, spelling: str) -> str:
    return "" if value is None else format(value, spelling)


_COLUMNS: Final[Mapping[str, Callable[[VerifiedFile], str]]] = {
    "file": lambda file: str(file.path),
    "size": lambda file: size(file.nbytes),
    "state": _state,
    "RMSE/spread": _worst_rmse,
    "loads": lambda file: "" if file.measured is None else "yes" if file.measured.loads else "no",
    "perplexity": lambda file: _number(_of(file).perplexity, ".4f"),
    "+/-": lambda file: _number(_of(file).uncertainty, ".4f"),
    "KL divergence": lambda file: _number(_of(file).kl_divergence, ".6f"),
    "same top": lambda file: _number(_of(file).same_top, ".2%"),
}
