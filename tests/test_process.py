"""The one door to other programs: exit codes, logs, time limits, and no process left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from convert.errors import ProgramError, ToolchainError
from convert.process import ask, attach, end_leftover, run

if TYPE_CHECKING:
    from collections.abc import Callable

# A shell whose child outlives it unless the whole group is ended; it tells the child's id first.
WITH_A_CHILD = "sleep 60 & echo $!; wait"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def _within(seconds: float, happens: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:
        time.sleep(0.02)
    return happens()


def test_asking_returns_both_streams_and_any_exit_code() -> None:
    answer = ask(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (answer.stdout, answer.stderr, answer.exit_code) == ("out\n", "err\n", 3)


def test_asking_takes_output_that_is_no_text() -> None:
    assert ask([sys.executable, "-c", r"import sys; sys.stdout.buffer.write(b'\xff')"]).stdout == "�"


def test_the_environment_is_added_to_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    assert ask(["sh", "-c", "echo $OURS$ADDED"], env={"ADDED": "2"}).stdout == "12\n"


def test_a_program_that_is_not_there_is_an_error_with_its_command_line(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="could not be started: No such file") as caught:
        ask([tmp_path / "nothing", "--version"])
    assert caught.value.command == (f"{tmp_path}/nothing", "--version")
    assert isinstance(caught.value, ToolchainError)


def test_asking_ends_a_program_that_outruns_its_time() -> None:
    with pytest.raises(ProgramError, match=r"`sleep 60` did not end within 0\.1 s"):
        ask(["sleep", "60"], timeout_s=0.1)


def test_running_tells_every_line_and_keeps_a_log(tmp_path: Path) -> None:
    lines: list[str] = []
    log = tmp_path / "log"
    run(["sh", "-c", r"echo one; printf '10%%\r20%%\n'; echo two >&2"], step="x", log=log, on_line=lines.append)
    assert lines == ["one", "20%", "two"]
    assert log.read_text().splitlines()[1:] == ["one", "20%", "two", "[ended with 0]"]
    assert log.read_text().startswith("$ sh -c ")


def test_a_failure_names_step_command_line_exit_code_and_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ProgramError) as caught:
        run(["sh", "-c", "echo why; exit 5"], step="building", log=log)
    error = caught.value
    assert (error.message, error.hint) == (
        "building failed, exit code 5",
        f"it said last\n  why\nthe whole log is `{log}`",
    )
    assert (error.step, error.exit_code_of_program, error.log, error.exit_code) == ("building", 5, log, 7)


def test_a_death_by_signal_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="building failed, killed by SIGKILL"):
        run(["sh", "-c", "kill -9 $$"], step="building", log=tmp_path / "log")


COMPILER_LINES = [
    "[1/9] Building CXX object src/error.cpp.o",
    "FAILED: src/a.cpp.o",
    "c++ -Werror -DFAILED=1 -c a.cpp",
    "a.cpp:1:2: warning: unused `error`",
    "a.cpp:3:4: error: expected `;`",
    "    3 | int x",
    "ninja: build stopped: subcommand failed.",
]


@pytest.mark.parametrize(
    ("lines", "first"),
    [
        (COMPILER_LINES, "a.cpp:3:4: error: expected `;`"),
        (
            ["-- Performing Test SVE - Failed", "CMake Error at CMakeLists.txt:3 (find_package):", "  no such package"],
            "no such package",
        ),
        (["/usr/bin/ld: a.o: in function `main':", "a.c:(.text+0x5): undefined reference to `f'"], None),
        (["E gguf_init: invalid magic", "E load: failed to load model", "E main: error: no context"], None),
        (["ERROR: No matching distribution found"], "ERROR: No matching distribution found"),
        (["c++: fatal error: Killed signal terminated program cc1plus"], None),
    ],
)
def test_a_failure_shows_the_first_error_of_all_that_was_said(
    lines: list[str], first: str | None, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    said.write_text("\n".join([*lines, *[f"and on {number}" for number in range(30)]]))
    with pytest.raises(ProgramError) as caught:
        run(["sh", "-c", f"cat '{said}'; exit 2"], step="building", log=tmp_path / "log")
    first = first or next(line for line in lines if "undefined" in line or "failed" in line or "fatal" in line)
    assert caught.value.message == f"building failed, exit code 2: {first}"
    assert (caught.value.hint or "").endswith(f"the whole log is `{tmp_path / 'log'}`")
    assert "-DFAILED" not in (caught.value.hint or "")
    assert len((caught.value.hint or "").splitlines()) < 15


def test_what_keeps_a_program_from_starting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF of another machine")
    program.chmod(0o755)
    with pytest.raises(ProgramError, match="not a program for this machine"):
        ask([program])
    program.write_text("#!/no/such/loader\n")
    with pytest.raises(ProgramError, match="the interpreter or loader that it names is not on this machine"):
        ask([program])
    program.chmod(0o644)
    with pytest.raises(ProgramError, match="could not be started: Permission denied"):
        ask([program])
    mounted = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: type("", (), {"f_flag": mounted.f_flag | os.ST_NOEXEC}))
    with pytest.raises(ProgramError, match="mounted `noexec`"):
        ask([program])


def test_an_interruption_ends_the_whole_group(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", WITH_A_CHILD], step="x", log=tmp_path / "log", on_line=interrupt)
    assert _within(5, lambda: not _lives(pids[0]))


def test_a_program_that_ignores_being_asked_is_killed(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", "trap '' TERM; echo $$; sleep 60"], step="x", log=tmp_path / "log", on_line=interrupt)
    assert not _lives(pids[0])


def test_a_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    pids: list[int] = []
    with pytest.raises(ProgramError, match=r"x failed: .* did not end within 0\.5 s; the whole log is"):
        run(
            ["sh", "-c", WITH_A_CHILD],
            step="x",
            log=tmp_path / "log",
            on_line=lambda line: pids.append(int(line)),
            timeout_s=0.5,
        )
    assert _within(5, lambda: not _lives(pids[0]))


def test_what_a_killed_process_left_is_ended_only_if_it_is_that() -> None:
    with subprocess.Popen(["sleep", "61.5"], start_new_session=True) as left:
        assert not end_leftover(left.pid, command_has="something else")
        assert left.poll() is None
        assert end_leftover(left.pid, command_has="sleep 61.5")
        assert left.wait() == -15
    assert not end_leftover(left.pid, command_has="sleep")


def test_an_attached_program_writes_to_our_stdout_and_its_end_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    exit_code, said = attach(["sh", "-c", "echo text; echo a >&2; echo b >&2; exit 4"], show_stderr=False)
    assert (exit_code, said.lines) == (4, ["a", "b"])
    assert capfd.readouterr() == ("text\n", "")


def test_an_attached_program_may_show_its_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    assert attach(["sh", "-c", "echo a >&2"], show_stderr=True)[0] == 0
    assert capfd.readouterr().err == "a\n"


def test_an_attached_program_reads_our_stdin() -> None:
    program = "import sys; from convert.process import attach; sys.exit(attach(['cat'], show_stderr=True)[0])"
    finished = subprocess.run(
        [sys.executable, "-c", program], input="typed", capture_output=True, text=True, check=True
    )
    assert finished.stdout == "typed"
