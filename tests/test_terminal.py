"""What the screen shows: whole words at every width, real lines, nothing that drives the terminal, one next step."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from convert.errors import ConvertError, UsageError
from convert.terminal import look
from convert.terminal.table import shorten, show_pairs, show_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WIDTHS = (60, 100, 140)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def _on_a_terminal(width: int, *words: object, answer: str = "", cwd: Path | None = None) -> tuple[int, str]:
    """Run the command on a terminal of so many columns: its exit code, and what the terminal got, without colours."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm-256color", "COLUMNS": str(width)}
    command = [sys.executable, "-m", "convert", *map(str, words)]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ, cwd=cwd) as process:
        os.close(slave)
        if answer:
            os.write(master, answer.encode())
        told = b""
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(master, 65536):
                told += piece
    os.close(master)
    return process.returncode, _ANSI.sub("", told.decode()).replace("\r\n", "\n")


def _shown(width: int, show: Callable[[Console], None]) -> list[str]:
    console = Console(width=width, force_terminal=True, color_system=None, highlight=False)
    with console.capture() as captured:
        show(console)
    return captured.get().splitlines()


def _same_words(narrow: str, wide: str) -> None:
    assert [word for word in wide.split() if word not in narrow.split()] == []


def test_words_are_whole_on_a_narrow_terminal(tiny_llama: Path, tmp_path: Path) -> None:
    for words in (("all", tmp_path / "gone", tmp_path / "out"), ("all", tiny_llama, tmp_path / "out", "--types", "q9")):
        code, narrow = _on_a_terminal(60, *words)
        wide = _on_a_terminal(1000, *words)
        assert (code, narrow.split()) == (wide[0], wide[1].split())
        assert len(narrow.splitlines()) > len(wide[1].splitlines())


@pytest.mark.parametrize("width", WIDTHS)
def test_lines_are_no_longer_than_the_terminal(width: int) -> None:
    text = "the word-of-a-path /models/Llama-3.2-1B stands in a sentence of many words, download it first; " * 5
    for lines in (
        _shown(width, lambda console: look.say(console, text, label="hint:")),
        _shown(width, lambda console: show_pairs(console, [("note", text), ("a much longer label", "x")])),
    ):
        assert max(map(len, lines)) <= width
        _same_words(" ".join(lines), text)


def test_a_word_longer_than_the_terminal_stays_whole() -> None:
    path = "/" + "very-long/" * 20
    assert path in " ".join(_shown(60, lambda console: look.say(console, f"`a` {path} b"))).split()


NAMES = ["quantized/my-finetuned-llama-of-many-words-Q4_0.gguf", "b.gguf"]


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_shorten_names_in_the_middle_and_fold_nothing(width: int) -> None:
    rows = [(name, "1.13 MB", "sound", "0.0867", "yes") for name in NAMES]
    lines = _shown(width, lambda console: show_table(console, ("file", "size", "state", "RMSE", "loads"), rows))
    assert max(map(len, lines)) <= width
    assert len(lines) == 3
    assert lines[0].split() == ["file", "size", "state", "RMSE", "loads"]
    assert lines[1].split()[0] == shorten(NAMES[0], len(lines[1].split()[0]))
    assert lines[1].split()[0].endswith("Q4_0.gguf")


def test_a_table_that_cannot_fit_becomes_lines() -> None:
    heads = ("file", *(f"a longer head {number}" for number in range(6)))
    rows = [(name, *("123456789" for _ in range(6))) for name in NAMES]
    lines = _shown(60, lambda console: show_table(console, heads, rows))
    assert lines[:2] == [shorten(NAMES[0], 60), "  a longer head 0  123456789"]
    assert len(lines) == 14


def test_what_a_program_said_comes_as_lines_without_its_colours(capsys: pytest.CaptureFixture[str]) -> None:
    said = "one\n\x1b[31mred\x1b[0m \x1b]0;title\x07two\n\tthree\x08\nerror: not one"
    look.show_error(UsageError("a message", hint=said))
    assert capsys.readouterr().err.splitlines() == [
        "error: a message",
        "",
        "hint: one",
        "      red two",
        "          three\\x08",
        "      error: not one",
    ]


def test_a_name_that_drives_the_terminal_is_shown_as_text() -> None:
    for lines in (
        _shown(80, lambda console: show_pairs(console, [("output", "a\x1b[2J\nerror: b")])),
        _shown(80, lambda console: show_table(console, ("file",), [("a\x1b[2J\nerror: b",)])),
    ):
        assert lines[-1].endswith(r"a\x1b[2J\nerror: b")


def test_hints_name_the_command_as_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    error = ConvertError("x", hint="run `convert build-llamacpp`; `convert.quantize` is Python, `convert … A` too")
    look.show_error(error, program="gguf-convert")
    said = capsys.readouterr().err
    assert "`gguf-convert build-llamacpp`" in said
    assert "`convert.quantize`" in said
    assert "`gguf-convert … A`" in said


def test_without_a_command_the_help_page_comes() -> None:
    code, said = _on_a_terminal(100)
    assert code == 0
    assert said.startswith("Usage: ")
    assert "error:" not in said
    assert _on_a_terminal(100, "--help")[1] == said


@pytest.mark.parametrize(("number", "words"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_one_is_not_many(number: int, words: str) -> None:
    assert look.counted(number, "file") == words


def test_a_question_that_is_answered_no_leaves_no_word_of_files(tmp_path: Path, tiny_llama: Path) -> None:
    from convert import convert_one

    convert_one(tiny_llama, tmp_path / "m.gguf", type="q8_0")
    code, said = _on_a_terminal(100, "run", tmp_path / "m.gguf", "-p", "x", "--dir", tmp_path / "none", answer="n\n")
    assert code == 1
    assert said.endswith("nothing was done\n")
    assert "partial" not in said


@pytest.mark.parametrize(
    ("command", "left"), [("doctor", ""), ("build-llamacpp", "; the same command goes on from here")]
)
def test_what_an_interruption_leaves_depends_on_the_command(command: str, left: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "convert", command, "--dir", str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PIP_INDEX_URL": "http://10.255.255.1/simple"}
    environ |= {"CC": str(_slow(tmp_path / "cc")), "GIT_DIR": "/nowhere"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environ) as process:
        while not (tmp_path / "started").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == f"interrupted{left}"


def _slow(path: Path) -> Path:
    path.write_text(f"#!/bin/sh\ntouch '{path.parent}/started'\nsleep 20\n")
    path.chmod(0o755)
    return path


def test_the_progress_line_shows_the_rate_at_which_bytes_come(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for counts in ((0, 0), (0, 45_000_000)):
        now = iter((10.0, 12.0))
        monkeypatch.setattr(time, "monotonic", lambda now=now: next(now))
        received = iter(counts)
        column = look._Reading(lambda received=received: next(received))  # type: ignore[misc]
        said.append(column.render(None).plain)  # type: ignore[arg-type]
    assert said == ["", "reading 22.5 MB/s"]
