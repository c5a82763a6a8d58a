"""File systems that lack something, or fail late: each at the call where it does, as Lustre, CIFS, NFS and FUSE do."""

from __future__ import annotations

import errno
import fcntl
import os
import warnings
from typing import TYPE_CHECKING

import pytest

import convert
from convert.errors import OutputError
from convert.llama_cpp import Silent, where
from convert.stream import publish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NO_LOCKS = ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "ENOTSUP")
NO_FLUSH = ("EINVAL", "ENOSYS", "EOPNOTSUPP")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _refuse(name: str) -> Callable[..., int]:
    def refuse(*_: object) -> int:
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    return refuse


def _convert(model: Path, out: Path, types: str = "f16,q4_0") -> list[str]:
    convert.convert_all(model, convert.OutputRequest(out, types=types))
    return _names(out)


WRITTEN = ["tiny-llama-F16.gguf", "tiny-llama-Q4_0.gguf"]


@pytest.mark.parametrize("name", NO_LOCKS)
def test_without_locks_the_work_goes_on_with_a_note(
    name: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", _refuse(name))
    with pytest.warns(UserWarning, match=f"the file system of `{tmp_path / 'out'}` has no locks"):
        assert _convert(tiny_llama, tmp_path / "out") == WRITTEN
    with pytest.warns(UserWarning, match="has no locks"), where.locked(where.Home(tmp_path / "home"), Silent()):
        pass


def test_a_lock_that_fails_otherwise_is_an_error_and_leaves_nothing(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", _refuse("EIO"))
    with pytest.raises(OutputError, match="Input/output error"):
        _convert(tiny_llama, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NO_FLUSH)
def test_what_cannot_be_flushed_is_not(
    name: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _refuse(name))
    assert _convert(tiny_llama, tmp_path / "out") == WRITTEN


@pytest.mark.parametrize("call", ["posix_fallocate", "posix_fadvise"])
@pytest.mark.parametrize("name", ["EINVAL", "ENOSYS", "EOPNOTSUPP"])
def test_advice_that_is_not_taken_is_no_matter(
    call: str, name: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, call, _refuse(name))
    monkeypatch.setattr(publish, "_WRITTEN_BEHIND", 1)
    assert _convert(tiny_llama, tmp_path / "out") == WRITTEN


def _fail_on_directories(name: str) -> Callable[[int], None]:
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):  # noqa: PTH112 - of an open file, no path of ours
            _refuse(name)()
        real(fd)

    return fsync


def test_a_disk_that_fails_after_the_renames_is_told_once_all_are_there(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", _fail_on_directories("EIO"))
        with pytest.raises(OutputError, match="are whole, but their names may not be on disk") as caught:
            _convert(tiny_llama, tmp_path / "out")
    assert _names(tmp_path / "out") == WRITTEN
    assert "run the same command again" in (caught.value.hint or "")
    report = convert.convert_all(tiny_llama, convert.OutputRequest(tmp_path / "out", types="f16,q4_0"))
    assert not any(output.written for output in report.outputs)


@pytest.mark.parametrize("name", NO_FLUSH)
def test_directories_that_cannot_be_flushed_are_not(
    name: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _fail_on_directories(name))
    assert _convert(tiny_llama, tmp_path / "out") == WRITTEN


def test_a_directory_that_may_be_written_but_not_read_is_published_to(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def opened(path: Path, flags: int, mode: int = 0o777) -> int:
        if path == tmp_path / "out":
            _refuse("EACCES")()
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", opened)
    assert _convert(tiny_llama, tmp_path / "out") == WRITTEN


def test_what_killed_runs_left_goes_whatever_the_next_run_wants(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (
        ".tiny-llama-Q8_0.gguf",
        ".other-Q4_0.gguf",
        ".model-00001-of-00002.safetensors",
    ):
        (out / f"{name}.partial").write_bytes(b"GGUF" + bytes(100))
    strangers = [".mine.partial", "other.gguf.partial"]
    for name in strangers:
        (out / name).touch()
    with (out / ".alive-F16.gguf.partial").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        assert _convert(tiny_llama, out) == sorted([*WRITTEN, *strangers, ".alive-F16.gguf.partial"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ".alive-F16.gguf.partial" not in _convert(tiny_llama, out)


@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EDQUOT"])
def test_a_header_that_cannot_be_written_leaves_nothing(
    call: str, name: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, call, _refuse(name))
    with pytest.raises(OutputError):
        _convert(tiny_llama, tmp_path / "out")
    assert not (tmp_path / "out").exists()
