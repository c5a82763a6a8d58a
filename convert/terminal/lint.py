"""Which file each program takes of a repository, and what is to be mended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.terminal.look import say, stdout
from convert.terminal.table import show_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convert.publish.lint import Choice, Finding


def show_lint(choices: Sequence[Choice], findings: Sequence[Finding]) -> None:
    """Print a paragraph for each tag, with the programs that agree on one line, then what was found."""
    console = stdout()
    for choice in choices:
        console.print("without a tag" if choice.tag is None else f":{choice.tag}", style="bold")
        show_pairs(console, _agreed(choice), before="  ")
    if findings:
        console.print()
    for finding in findings:
        label, style = ("problem:", "bold red") if finding.is_problem else ("note:", "bold")
        say(console, finding.message, label=label, style=style)
        say(console, f"  {finding.remedy}")
    if not findings:
        say(console, "every program finds what it is asked for")


def _agreed(choice: Choice) -> Iterator[tuple[str, str]]:
    files: dict[str, list[str]] = {}
    for program, said in _said(choice):
        files.setdefault(said, []).append(program)
    for said, programs in files.items():
        yield ", ".join(programs), said
    if choice.projector is not None:
        yield "with it", choice.projector


def _said(choice: Choice) -> Iterator[tuple[str, str]]:
    yield "llama.cpp", choice.llama_cpp or "nothing"
    if choice.tag is not None:
        yield "the Hub", _one_of(choice.hub)
    split = len(choice.ollama) == 1 and "-of-" in choice.ollama[0]
    yield "Ollama", "refuses it: it is split" if split else _one_of(choice.ollama)
    yield "LM Studio", _one_of(choice.lm_studio) if choice.tag is not None else "what fits your memory"


def _one_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"one of {len(names)}" if names else "nothing"
