"""Work that was interrupted, by whatever, goes on: nothing finished is done again, and the files are the same."""

from __future__ import annotations

import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file
from test_plan_pickles import PLANS

import convert
from convert.errors import OutputError, WeightsError
from convert.stream import Writing, journal, slices
from convert.stream.encode import SliceEncoder
from convert.stream.journal import Checkpoints, journal_path, read_journal, work_key
from convert.stream.siblings import sibling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from convert.stream.publish import ExistingFile, PartialFile
    from convert.stream.slices import Slice

Carry = "Callable[[SliceEncoder, Slice, Mapping[int, PartialFile | ExistingFile]], int]"
TYPES = "f16,q4_0"
N_BEFORE = 20  # slices before it ends


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into many slices, and note each as soon as it is written."""
    monkeypatch.setattr(slices, "SLICE_VALUES", 16384)
    monkeypatch.setattr(journal, "sync", lambda _: None)  # no machine fails here
    note = Checkpoints.note

    def note_and_save(self: Checkpoints, number: int, outputs: set[int]) -> None:
        note(self, number, outputs)
        self._save()

    monkeypatch.setattr(Checkpoints, "note", note_and_save)


@pytest.fixture
def model(tiny_llama: Path) -> Path:
    """Return the model."""
    return tiny_llama


def _convert(model: Path, out: Path, types: str = TYPES, how: Writing | None = None) -> None:
    convert.convert_all(model, convert.OutputRequest(out, types=types), how or Writing(jobs=1))


def _hashes(out: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


@pytest.fixture
def whole(model: Path, tmp_path: Path) -> dict[str, str]:
    """Return the hashes of files made in one go."""
    _convert(model, tmp_path / "whole")
    return _hashes(tmp_path / "whole")


class Counted:
    """Counts the slices that are carried, and ends with an error after some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> None:
        self.n = 0
        carry = SliceEncoder.carry

        def counting(encoder: SliceEncoder, piece: Slice, files: Mapping[int, PartialFile | ExistingFile]) -> int:
            if error is not None and self.n == N_BEFORE:
                raise error
            self.n += 1
            return carry(encoder, piece, files)

        monkeypatch.setattr(SliceEncoder, "carry", counting)


def _interrupt(model: Path, out: Path, error: BaseException | None = None) -> None:
    """Do a part of the work."""
    error = error or KeyboardInterrupt()
    with pytest.MonkeyPatch.context() as patched:
        Counted(patched, error)
        with pytest.raises(type(error)) as caught:
            _convert(model, out)
    assert getattr(caught.value, "keeps_work", False)


def _n_slices(model: Path, out: Path) -> int:
    plan = convert.plan_all(model, convert.OutputRequest(out, types=TYPES))
    return sum(1 for task in plan.tasks for _ in slices.cut(task))


ENDS = {
    "interrupted": KeyboardInterrupt(),
    "terminated": SystemExit(143),
    "the disk is full": OutputError("the disk is full"),
    "a bug": ZeroDivisionError(),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_same_command_goes_on_where_it_was(
    end: str, model: Path, tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    _interrupt(model, out, ENDS[end])
    assert sorted(path.suffix for path in out.iterdir()) == [".journal", ".journal", ".partial", ".partial"]
    counted = Counted(monkeypatch)
    _convert(model, out)
    assert counted.n == _n_slices(model, out) - N_BEFORE
    assert _hashes(out) == whole


def _touch(model: Path) -> None:
    os.utime(model / "model.safetensors")


OTHERS: Mapping[str, tuple[Writing, Callable[[Path], None]]] = {
    "another way to carry it out": (Writing(jobs=1, allow_nonfinite=True), lambda _: None),
    "a source that has changed": (Writing(jobs=1), _touch),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_work_starts_anew(
    other: str, model: Path, tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "tiny-llama", tmp_path / "out"
    source.mkdir()
    for path in model.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    _interrupt(source, out)
    how, change = OTHERS[other]
    change(source)
    counted = Counted(monkeypatch)
    _convert(source, out, how=how)
    assert counted.n == _n_slices(model, out)
    assert _hashes(out) == whole


def _cut_the_last_line(out: Path) -> None:
    for path in out.glob(".*.journal"):
        path.write_bytes(path.read_bytes()[:-1])


def _garbage(out: Path) -> None:
    for path in out.glob(".*.journal"):
        path.write_bytes(b"\xff\x00 1-2\n")


def _shorter(out: Path) -> None:
    for path in out.glob(".*.partial"):
        os.truncate(path, 1000)


def _without_a_file(out: Path) -> None:
    next(out.glob(".*F16*.partial")).unlink()


@pytest.mark.parametrize(
    ("damage", "n_again"),
    [(_cut_the_last_line, 1), (_garbage, N_BEFORE), (_shorter, N_BEFORE), (_without_a_file, N_BEFORE)],
)
def test_what_the_journal_cannot_vouch_for_is_done_again(
    damage: Callable[[Path], None],
    n_again: int,
    model: Path,
    tmp_path: Path,
    whole: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    _interrupt(model, out)
    damage(out)
    counted = Counted(monkeypatch)
    _convert(model, out)
    assert counted.n == _n_slices(model, out) - N_BEFORE + n_again
    assert _hashes(out) == whole


def test_a_file_that_other_work_has_begun_is_not_mixed_with_the_first(
    model: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    out, other = tmp_path / "out", tmp_path / "other" / "tiny-llama"
    other.mkdir(parents=True)
    for path in model.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    save_file({name: t * 2 for name, t in load_file(other / "model.safetensors").items()}, other / "model.safetensors")
    _interrupt(model, out)
    _interrupt(other, out)
    _convert(model, out)
    assert _hashes(out) == whole


def test_files_that_are_there_already_are_still_compared(model: Path, tmp_path: Path, whole: dict[str, str]) -> None:
    out = tmp_path / "out"
    _convert(model, out, types="f16")
    _interrupt(model, out)
    _convert(model, out)
    assert _hashes(out) == whole
    _convert(model, tmp_path / "spoilt", types="f16")
    _interrupt(model, tmp_path / "spoilt")
    path = tmp_path / "spoilt" / "tiny-llama-F16.gguf"
    spoilt = bytearray(path.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(OutputError, match="not what this run would make"):
        _convert(model, tmp_path / "spoilt")


def test_values_that_cannot_be_written_leave_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        Counted(patched, WeightsError("NaN"))
        with pytest.raises(WeightsError):
            _convert(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO", "EROFS"])
def test_a_disk_that_fails_in_the_middle_is_a_clear_error_and_then_gone_on_with(
    name: str, model: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    out, left = tmp_path / "out", iter(range(30))
    pwrite = os.pwrite

    def failing(fd: int, data: bytes, offset: int) -> int:
        if next(left, None) is None:
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
        return pwrite(fd, data, offset)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "pwrite", failing)
        with pytest.raises(OutputError, match=r"the disk is full|cannot be written"):
            _convert(model, out)
    assert list(out.glob(".*.journal"))
    _convert(model, out)
    assert _hashes(out) == whole


def test_a_flush_that_fails_is_told_though_the_system_says_it_once(model: Path, tmp_path: Path) -> None:
    failure = OSError(errno.EIO, "Input/output error")
    calls = []

    def sync(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise failure

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal, "sync", sync)
        with pytest.raises((OutputError, OSError)):
            _convert(model, tmp_path / "out")
    assert not list(tmp_path.glob("out/[!.]*"))


KEYS = """
import pickle, sys
from convert.stream.journal import work_key
for plan in pickle.load(sys.stdin.buffer):
    print(work_key(plan, "one way"))
"""


@pytest.mark.parametrize("name", PLANS)
def test_the_same_work_has_the_same_key_in_every_process(name: str, tmp_path: Path) -> None:
    plans = PLANS[name](tmp_path)
    assert not any(" at 0x" in repr(task) for plan in plans for task in plan.tasks)
    keys = [work_key(plan, "one way") for plan in plans]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", KEYS], input=pickle.dumps(plans), capture_output=True, check=True, env=environment
    )
    assert done.stdout.decode().split() == keys
    assert len(set(keys) | {work_key(plan, "another") for plan in plans}) == 2 * len(plans)


# Flushes every moment, and takes its time over each slice.
SLOWLY = """
import sys, time
from convert.stream import journal, slices
from convert.stream.encode import SliceEncoder
journal.EVERY_S, slices.SLICE_VALUES = 0.1, 16384
carry = SliceEncoder.carry
def slowly(self, piece, files):
    time.sleep(0.05)
    return carry(self, piece, files)
SliceEncoder.carry = slowly
from convert.cli import main
sys.argv = ["convert", *sys.argv[1:]]
main()
"""


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_killed_again_and_again_no_finished_slice_is_lost(model: Path, tmp_path: Path, whole: dict[str, str]) -> None:
    out, random_ = tmp_path / "out", random.Random(0)  # noqa: S311 - moments, no secrets
    final = out / "tiny-llama-F16.gguf"
    done: frozenset[int] = frozenset()
    for _ in range(100):
        words = [sys.executable, "-c", SLOWLY, "all", str(model), str(out), "--types", TYPES, "--jobs", "2"]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)
        begun, before = time.monotonic(), _length(journal_path(final))
        while process.poll() is None and _length(journal_path(final)) == before and time.monotonic() < begun + 60:
            time.sleep(0.01)
        time.sleep(random_.uniform(0.0, 0.5))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not sibling(final).exists():
            continue
        now = read_journal(final, cache(lambda: journal_path(final).read_text().partition("\n")[0])).done
        assert done <= now
        done = now
    assert process.returncode == 0
    assert _hashes(out) == whole


def test_a_line_that_is_written_in_part_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = read_journal(tmp_path / "a", lambda: "key")
    book.append([1], lambda: "key")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:2]))
    with pytest.raises(OSError, match="No space left"):
        book.append([513], lambda: "key")
    monkeypatch.undo()
    book.append([9], lambda: "key")
    book.close()
    assert read_journal(tmp_path / "a", lambda: "key").done == {1, 9}
