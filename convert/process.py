"""The one door to other programs: run, listen, keep a log, judge by the exit code, leave no process behind.

    ask     a short question to a program (its version); the answer, whatever the exit code
    run     a long job: every line to a log file and to a listener; an exit code other than 0 is an error
    attach  a program that talks to the user itself; its exit code, and what it said on stderr of errors
    Server  a program that answers over a socket for as long as it is held; its log says what went wrong

All but `attach` give the program a process group of its own. On an interruption (Ctrl-C, SIGTERM, any exception here)
and after a timeout the whole group is ended: asked first, killed after `GRACE_S`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from convert.errors import ProgramError
from convert.shown import Excerpt, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

GRACE_S: Final = 2.0


def usable_processors() -> int:
    """Count the processors that this process may use: affinity, and a container's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _quota()))


def _quota() -> int:
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return -(-int(limit) // int(period))
    except (OSError, ValueError):  # no such limit, or "max"
        return 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said and how it ended; a negative exit code is the signal that killed it."""

    command: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Both streams, for programs that use either."""
        return f"{self.stdout}\n{self.stderr}".strip()


def ask(
    command: Sequence[str | Path],
    *,
    timeout_s: float = 30.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Answer:
    """Run a program to its end and return what it said, whatever its exit code.

    env is added to this process's environment. Raises ProgramError if it cannot be started or outruns `timeout_s`.
    """
    words = _words(command)
    with _started(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=cwd) as program:
        try:
            stdout, stderr = program.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise _timed_out(words, timeout_s) from None
    return Answer(words, program.returncode, _text(stdout), _text(stderr))


def run(
    command: Sequence[str | Path],
    *,
    step: str,
    log: Path,
    on_line: Callable[[str], None] | None = None,
    on_start: Callable[[int], object] | None = None,
    timeout_s: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a long job: its stdout and stderr, merged, go line by line to the end of `log` and to `on_line`.

    The log gets the exact command line first. `on_start` gets the process id, for `end_leftover` after a hard kill.
    env is added to this process's environment.
    Raises ProgramError, which names the step, the first error that was said and the log, for any exit code but 0.
    """
    words = _words(command)
    said = Excerpt()
    expired = threading.Event()
    with (
        log.open("a", encoding="utf-8") as written,
        _started(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, cwd=cwd) as program,
        _ended_after(program, timeout_s, expired),
    ):
        if on_start is not None:
            on_start(program.pid)
        written.write(f"$ {shlex.join(words)}\n")
        for line in _lines(program):
            written.write(f"{line}\n")
            written.flush()
            said.take(line)
            if on_line is not None:
                on_line(line)
        exit_code = program.wait()
        written.write(f"[ended with {exit_code}]\n")
    if expired.is_set() and timeout_s is not None:
        raise _timed_out(words, timeout_s, step=step, log=log)
    if exit_code:
        raise _failed(words, exit_code, step=step, log=log, said=said)


class Server:
    """A program that answers over a socket, one end of which it inherits, and ends when nobody holds it any more.

    It must end by itself when the socket closes: that is how it learns of our own death, however that came.
    """

    def __init__(self, command: Callable[[int], Sequence[str | Path]], *, log: Path, env: Mapping[str, str]) -> None:
        """Start it. command: its words, given the descriptor of its end. env is added to this process's environment."""
        self.socket, theirs = socket.socketpair()
        self.words = _words(command(theirs.fileno()))
        with theirs, log.open("ab") as written:
            streams = {"stdin": subprocess.DEVNULL, "stdout": written, "stderr": written}
            options = {"pass_fds": (theirs.fileno(),), "env": {**os.environ, **env}, "start_new_session": True}
            self._program = _start(self.words, streams | options)
        self.end = weakref.finalize(self, _end_server, self.socket, self._program)

    def exit_code(self, timeout_s: float = GRACE_S) -> int | None:
        """Wait a moment for its end: the exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._program.wait(timeout_s)
        return None


def _end_server(connection: socket.socket, program: subprocess.Popen[bytes]) -> None:
    connection.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(GRACE_S)
    _end_group(program)


def end_leftover(pid: int, *, command_has: str) -> bool:
    """End the group of a job that an earlier process of ours started and, killed hard, could not end; whether it was.

    A process id may by now be another program's: it must lead a group, and its command line must hold `command_has`.
    """
    try:
        if os.getpgid(pid) != pid or command_has not in ask(["ps", "-ww", "-o", "command=", "-p", str(pid)]).stdout:
            return False
        os.killpg(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError, ProgramError):
        return False
    _kill_what_stays(pid)
    return True


def _kill_what_stays(group: int) -> None:
    """Kill a group that was asked to end, once it has had `GRACE_S` for it; returns as soon as it is empty.

    Its leader may end before the rest has: cmake does, while Ninja still ends the compilers.
    """
    end = time.monotonic() + GRACE_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(GRACE_S / 100)
        os.killpg(group, signal.SIGKILL)


def attach(
    command: Sequence[str | Path], *, show_stderr: bool, env: Mapping[str, str] | None = None
) -> tuple[int, Excerpt]:
    """Run a program on this terminal: it reads our stdin and writes our stdout.

    It stays in our process group, so that it may read the terminal; Ctrl-C reaches it from there, and what it makes of
    that is its own business. env is added to this process's environment.
    Returns its exit code and, unless `show_stderr`, what of its stderr is worth showing.
    """
    words = _words(command)
    said = Excerpt()
    stderr = None if show_stderr else subprocess.PIPE
    with contextlib.ExitStack() as stack:
        program = _start(words, {"stderr": stderr, "env": _whole(env)})
        stack.callback(_end_one, program)
        if threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))
        if program.stderr is not None:
            for line in program.stderr:
                said.take(_text(line).rstrip())
            program.stderr.close()
        return program.wait(), said


def how_it_ended(exit_code: int) -> str:
    """Say an exit code in words; a negative one is a signal."""
    return f"killed by {_signal_name(-exit_code)}" if exit_code < 0 else f"exit code {exit_code}"


def _whole(env: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if env is None else {**os.environ, **env}


def _words(command: Sequence[str | Path]) -> tuple[str, ...]:
    return tuple(map(str, command))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")


def _lines(program: subprocess.Popen[bytes]) -> Iterator[str]:
    for raw in program.stdout or ():
        # A progress line drawn over itself with carriage returns: only what stood there last counts.
        yield _text(raw).rstrip().rsplit("\r", 1)[-1]


@contextlib.contextmanager
def _started(
    words: tuple[str, ...],
    *,
    stdout: int,
    stderr: int,
    env: Mapping[str, str] | None,
    cwd: Path | None,
) -> Iterator[subprocess.Popen[bytes]]:
    options = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stderr, "env": _whole(env), "cwd": cwd}
    program = _start(words, options | {"start_new_session": True})
    try:
        yield program
    finally:
        _end_group(program)
        for stream in (program.stdout, program.stderr):
            _close(stream)


def _start(words: tuple[str, ...], options: Mapping[str, object]) -> subprocess.Popen[bytes]:
    try:
        # This is the door: words, never a shell; who calls answers for them.
        return subprocess.Popen(words, **options)  # type: ignore[call-overload,no-any-return]  # noqa: S603
    except OSError as error:
        why = _why_not_started(Path(words[0]), error)
        raise ProgramError(f"{shown(Path(words[0]))} could not be started: {why}", command=words) from error


def _why_not_started(program: Path, error: OSError) -> str:
    """Say what the system's own words leave out, where that can be seen."""
    if error.errno == errno.EACCES and program.is_file() and os.statvfs(program).f_flag & os.ST_NOEXEC:
        return "its file system is mounted `noexec`, so that nothing on it can be run"
    if error.errno == errno.ENOENT and program.is_file():
        return "the interpreter or loader that it names is not on this machine"
    if error.errno == errno.ENOEXEC:
        return "it is not a program for this machine (its processor, or its system)"
    return error.strerror or str(error)


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        stream.close()


@contextlib.contextmanager
def _ended_after(program: subprocess.Popen[bytes], timeout_s: float | None, expired: threading.Event) -> Iterator[None]:
    if timeout_s is None:
        yield
        return

    def end() -> None:
        expired.set()
        _end_group(program)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_group(program: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the program's process group.

    Asking comes first also because Ninja gives each compiler a group of its own, and ends them all when asked.
    """
    try:
        if program.poll() is None:
            _signal_group(program, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(timeout=GRACE_S)
            _kill_what_stays(program.pid)
    finally:  # also when a second Ctrl-C arrives while waiting
        _signal_group(program, signal.SIGKILL)
        program.wait()


def _signal_group(program: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The leader's id is the group's as long as a member lives; an empty group is no error (EPERM: macOS, zombies only).
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(program.pid, number)


def _end_one(program: subprocess.Popen[bytes]) -> None:
    if program.poll() is None:
        program.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(timeout=GRACE_S)
        program.kill()
        program.wait()


def _failed(words: tuple[str, ...], exit_code: int, *, step: str, log: Path, said: Excerpt) -> ProgramError:
    first = f": {shown_line}" if (shown_line := said.error) else ""
    before = [] if first else ["it said last"]
    lines = [*before, *(f"  {line}" for line in said.after_error), f"the whole log is `{log}`"]
    return ProgramError(
        f"{step} failed, {how_it_ended(exit_code)}{first}",
        command=words,
        step=step,
        exit_code_of_program=exit_code,
        log=log,
        hint="\n".join(lines if said.after_error else lines[-1:]),
    )


def _timed_out(
    words: tuple[str, ...], timeout_s: float, *, step: str | None = None, log: Path | None = None
) -> ProgramError:
    where = f"; the whole log is `{log}`" if log else ""
    what = f"{step} failed: " if step else ""
    return ProgramError(
        f"{what}`{shlex.join(words)}` did not end within {timeout_s:g} s{where}", command=words, step=step, log=log
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
