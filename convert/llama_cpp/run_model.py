"""Running a GGUF file with a built llama.cpp: the exact command lines, and how an end is judged."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.errors import ToolchainError
from convert.llama_cpp.environment import environment
from convert.llama_cpp.programs import cause
from convert.process import attach, how_it_ended

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOPBACK: Final = "127.0.0.1"
_INTERRUPTED: Final = frozenset({-signal.SIGINT, 128 + signal.SIGINT})
_NOBODY_READS: Final = frozenset({-signal.SIGPIPE, 128 + signal.SIGPIPE})
_MOST_LINES: Final = 5
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

    Raises ToolchainError, with the first error that it told, if it failed; BrokenPipeError if nobody reads its text.
    """
    program = Path(command[0])
    exit_code, said = attach(command, show_stderr=show_stderr, env=environment(program))
    if exit_code in _INTERRUPTED:
        return False
    if exit_code in _NOBODY_READS:
        raise BrokenPipeError(errno.EPIPE, "nobody reads the text")
    if exit_code:
        error = f": {said.error}" if said.error else ""
        hint = cause(exit_code, "\n".join(said.lines)) or "\n".join(said.after_error[:_MOST_LINES])
        raise ToolchainError(f"`{program.name}` failed, {how_it_ended(exit_code)}{error}", hint=hint or None)
    return True
