"""The command line: parse, call a function, print; heavy modules are imported only inside a command."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from convert.cli.commands import cli
from convert.cli.options import program_name
from convert.errors import CheckpointError, ConvertError, OutputError, UsageError

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["cli", "main"]

_INTERRUPTED = 130
_NOTHING_LEFT = "; no partial file is left"
_LEFT = dict.fromkeys(("all", "gguf", "quantize", "split", "merge"), _NOTHING_LEFT) | {
    "dequantize": f"{_NOTHING_LEFT}; the same command goes on with the shards that are there",
    "recipe": f"{_NOTHING_LEFT}; the same command goes on with what is not made yet",
    "publish": "; nothing of it is visible on the Hub, and the same command goes on from here",
    "work": "; units that are done stay done, and the same command goes on with the others",
    "build-llamacpp": "; the same command goes on from here",
}


class _Terminated(BaseException):
    """SIGTERM arrived, or SIGHUP, which a terminal sends when it is closed."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


def main() -> NoReturn:
    """Run the command line and exit; see `convert.errors` for the exit codes."""
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, _terminate)
    # Before NumPy is imported: the workers are threads already, and OpenBLAS's own would only wait for one another.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold what the terminal cannot show
    sys.exit(_run())


def _run() -> int:  # noqa: PLR0911 - one way out for each way to end
    try:
        result = _invoke()
        sys.stdout.flush()
    except ConvertError as error:
        return _fail(error)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        return _fail(
            UsageError(error.format_message(), hint=f"see `{context.command_path} --help`" if context else None)
        )
    except click.Abort:
        click.echo("nothing was done", err=True)  # the answer to a question
        return 1
    except KeyboardInterrupt as error:
        click.echo(f"\ninterrupted{_what_is_left(error)}", err=True)
        return _INTERRUPTED
    except _Terminated as end:
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo(f"terminated{_what_is_left(end)}", err=True)
        return end.exit_code
    except BrokenPipeError:
        # The reader of our stdout has gone, as `head` does; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(_unguarded(error))
    return result if isinstance(result, int) else 0


def _what_is_left(end: BaseException) -> str:
    """Say what an interruption leaves, as far as the command makes something."""
    if getattr(end, "keeps_work", False):
        return "; what is done is kept, and the same command goes on from there"
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    return _LEFT.get(asked, "")


def _invoke() -> object:
    """Do what Click's own `main` does, except that a reader of our stdout who has gone is no failure."""
    if any(name.endswith("_COMPLETE") for name in os.environ):  # a shell asks for completions
        return cli.main(prog_name=program_name(), standalone_mode=False)
    try:
        with cli.make_context(program_name(), sys.argv[1:]) as context:
            return cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code


def _unguarded(error: OSError) -> ConvertError:
    """Make the error for what no room has guarded: a path; or, where the system names none, our own stdout."""
    if error.filename is None:
        return OutputError(f"the standard output cannot be written: {error.strerror}")
    return CheckpointError(f"`{error.filename}` cannot be used: {error.strerror}")


def _fail(error: ConvertError) -> int:
    from convert.terminal.look import show_error  # noqa: PLC0415 - rich, only when needed

    show_error(error, program=program_name())
    return error.exit_code


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise _Terminated(signum)
