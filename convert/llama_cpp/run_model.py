"""Running a GGUF file with a built llama.cpp: the exact command lines, and how an end is judged."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from convert.errors import ToolchainError
from convert.process import attach

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOOPBACK: Final = "127.0.0.1"
_INTERRUPTED: Final = frozenset({-signal.SIGINT, 128 + signal.SIGINT})
_CONVERSATION: Final = frozenset({"-cnv", "--conversation", "-no-cnv", "--no-conversation", "-i", "--interactive"})


def completion_command(
    program: Path,
    gguf: Path,
    *,
    prompt: str,
    n_tokens: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    flags: Sequence[str] = (),
) -> list[str]:
    """Give the command line that continues `prompt`; the user's own flags come last, so they have the last word."""
    command = [str(program), "-m", str(gguf), "-p", prompt]
    options = (("-n", n_tokens), ("--temp", temperature), ("--seed", seed))
    command += [word for name, value in options if value is not None for word in (name, f"{value}")]
    # A model with a chat template would start a conversation instead of continuing the text and ending.
    if program.name == "llama-completion" and not _CONVERSATION & set(flags):
        command += ["-no-cnv"]
    return [*command, *flags]


def server_command(program: Path, gguf: Path, *, port: int, flags: Sequence[str] = ()) -> list[str]:
    """Give the command line that serves a model to this machine alone."""
    return [str(program), "-m", str(gguf), "--host", LOOPBACK, "--port", str(port), *flags]


def run_attached(command: Sequence[str], *, show_stderr: bool) -> bool:
    """Run one of these on this terminal; False if the user interrupted it.

    Raises ToolchainError, with the end of what it said, if it failed.
    """
    exit_code, said = attach(command, show_stderr=show_stderr)
    if exit_code in _INTERRUPTED:
        return False
    if exit_code:
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
        raise ToolchainError(f"`{command[0]}` {how}", hint=said or None)
    return True
