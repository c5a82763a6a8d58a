"""Whether files are sound, and how far they are from the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from convert.terminal.look import counted, say, size, stdout
from convert.terminal.table import show_table
from convert.verify import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

    from convert.verify import Verification, VerifiedFile

_N_WORST = 3


def show_verification(verification: Verification, *, with_tensors: bool) -> None:
    """Print a table of the files, then each finding; with_tensors: and the tensors that are furthest off."""
    out = stdout()
    columns = {name: [cell(file) for file in verification.files] for name, cell in _COLUMNS.items()}
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    if len(set(shown["file"])) < len(shown["file"]):
        shown["file"] = [str(file.path) for file in verification.files]
    show_table(out, list(shown), list(zip(*shown.values(), strict=True)))
    for file in verification.files:
        for finding in file.findings:
            text = f"{file.path.name}: {finding.check}: {finding.message}"
            say(out, text, label=f"{finding.severity.value}:", style="bold" if finding in file.problems else "")
        if with_tensors and file.errors:
            _show_tensors(out, file)


def _show_tensors(out: Console, file: VerifiedFile) -> None:
    by_type = ", ".join(f"{kind} {value:.3g}" for kind, value in file.relative_rmse_by_type.items())
    say(out, f"{file.path.name}: RMSE in standard deviations by type: {by_type}")
    for error in sorted(file.errors, key=lambda error: -error.relative_rmse)[:_N_WORST]:
        say(
            out,
            f"  {error.name} ({error.type}) {error.relative_rmse:.3g}, worst at {list(error.worst_index)}: "
            f"{error.worst_decoded:.6g} instead of {error.worst_wanted:.6g}",
        )


def _state(file: VerifiedFile) -> str:
    return counted(len(file.problems), "problem") if file.problems else "sound"


def _worst_rmse(file: VerifiedFile) -> str:
    return f"{max(file.relative_rmse_by_type.values()):.3g}" if file.errors else ""


def _of(file: VerifiedFile) -> Measured:
    return file.measured or Measured(loads=False)


def _number(value: float | None, spelling: str) -> str:
    return "" if value is None else format(value, spelling)


_COLUMNS: Final[Mapping[str, Callable[[VerifiedFile], str]]] = {
    "file": lambda file: file.path.name,
    "size": lambda file: size(file.nbytes),
    "state": _state,
    "RMSE/spread": _worst_rmse,
    "loads": lambda file: "" if file.measured is None else "yes" if file.measured.loads else "no",
    "perplexity": lambda file: _number(_of(file).perplexity, ".4f"),
    "+/-": lambda file: _number(_of(file).uncertainty, ".4f"),
    "KL divergence": lambda file: _number(_of(file).kl_divergence, ".6f"),
    "same top": lambda file: _number(_of(file).same_top, ".2%"),
}
