"""What happens to connections: cut, refused for now, signed for a time, of another file; and how many there are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from remote_double import TOKEN, Double, Fault, lead_here, remote_double

from convert.errors import CheckpointError
from convert.remote import ReadAhead, ahead, at_most, in_parallel, located, open_remote
from convert.remote.http_file import HttpFile
from convert.remote.remote_file import PassingError, wait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.remote.remote_file import RemoteFile

PROJECT = Path(__file__).parent.parent
DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """Return the Hub's double; it has a model of one file of weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "x.safetensors").write_bytes(DATA)
    with remote_double({"me/model": folder}) as double:
        lead_here(double, monkeypatch, tmp_path / "home")
        yield double


@pytest.fixture
def file(hub: Double) -> RemoteFile:
    """Return its one file, opened; nothing of it was asked for yet."""
    opened = open_remote(Path(located("hf://me/model")) / "x.safetensors")
    assert opened is not None
    hub.requests.clear()
    return opened


def read(file: RemoteFile, position: int = 0, nbytes: int = len(DATA)) -> bytes:
    """Read a range."""
    out = bytearray(nbytes)
    file.read_into(position, memoryview(out))
    return bytes(out)


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Double, file: RemoteFile) -> None:
    hub.faults.extend([Fault(cut_after=300_000), Fault(cut_after=1), Fault(cut_after=200_000)])
    before = hub.sent
    assert read(file, 1000, 900_000) == DATA[1000:901_000]
    assert hub.sent - before == 900_000
    ranges = [line.partition("bytes=")[2] for line in hub.requests if line.startswith("/me/model/x")]
    assert ranges == ["1000-900999", "301000-900999", "301001-900999", "501001-900999"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(status: int, hub: Double, file: RemoteFile) -> None:
    hub.faults.extend([Fault(status)] * 3)
    assert read(file) == DATA
    assert not hub.faults


@pytest.mark.parametrize("headers", [{"Retry-After": "1"}, {"RateLimit": '"resolvers";r=0;t=1'}])
def test_a_server_is_asked_again_when_it_says(headers: dict[str, str], hub: Double, file: RemoteFile) -> None:
    hub.faults.append(Fault(429, headers))
    started = time.monotonic()
    assert read(file) == DATA
    assert time.monotonic() - started >= 1


def test_what_does_not_pass_ends_the_run_with_its_reason(hub: Double, file: RemoteFile) -> None:
    hub.faults.extend([Fault(503)] * 100)
    with pytest.raises(CheckpointError, match=r"does not come, after 8 tries: 127\.0\.0\.1:\d+ answers 503"):
        read(file)


def test_a_signature_that_is_too_old_is_asked_for_again(hub: Double, file: RemoteFile) -> None:
    assert read(file, 0, 10) == DATA[:10]
    hub.signature = 2
    assert read(file) == DATA
    assert [line.split()[0].rpartition("/")[2] for line in hub.requests] == [
        "x.safetensors",
        "x.safetensors?signature=1",
        "x.safetensors?signature=1",
        "x.safetensors",
        "x.safetensors?signature=2",
    ]


def test_the_token_goes_to_the_hub_alone(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private.add("me/model")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    opened = open_remote(Path(located("hf://me/model")) / "x.safetensors")
    assert opened is not None
    assert read(opened) == DATA  # the storage host refuses requests with a token


def test_a_file_that_changes_while_it_is_read_is_an_error(hub: Double, file: RemoteFile) -> None:
    hub.changes_after = 2
    assert read(file, 0, 10) == DATA[:10]
    assert read(file, 10, 10) == DATA[10:20]
    with pytest.raises(CheckpointError, match=r'x\.safetensors` has changed while it was read: its ETag is "another"'):
        read(file, 20, 10)


@pytest.mark.parametrize("nbytes", [len(DATA) + 1, len(DATA) - 1, 10])
def test_a_file_that_has_another_length_is_an_error(nbytes: int, hub: Double, file: RemoteFile, tmp_path: Path) -> None:
    assert hub.requests == []
    (tmp_path / "model" / "x.safetensors").write_bytes((DATA * 2)[:nbytes])
    with pytest.raises(CheckpointError, match="has changed while it was read: its content is"):
        read(file)  # the Hub names the content when it leads to the storage
    file._place = f"{hub.storage}/me/model/x.safetensors?signature=1"  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="has changed while it was read: it has"):
        read(file, len(DATA) - 10, 10)


def test_ranges_are_in_flight_together_and_memory_is_bounded(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PIECE_NBYTES", 1 << 16)
    monkeypatch.setattr(ahead, "AHEAD_NBYTES", 1 << 18)
    monkeypatch.setattr(ahead, "KEPT_NBYTES", 1 << 17)
    monkeypatch.setattr(ahead, "READ_NBYTES", 1 << 16)
    hub.delay_s = 0.02
    file = open_remote(Path(located("hf://me/model")) / "x.safetensors")
    assert file is not None
    reading = ReadAhead([(file, 0, len(DATA) // 2), (file, len(DATA) // 2, len(DATA) // 2)])
    out, most = bytearray(len(DATA)), 0
    for start in range(0, len(DATA), 1 << 14):
        reading.read_into(file, start, memoryview(out)[start : start + (1 << 14)])
        held = sum(len(piece.data or b"") for piece in reading._pieces[id(file)])
        most = max(most, held)
    reading.close()
    assert bytes(out) == DATA
    assert most <= (1 << 18) + (1 << 17) + (1 << 16)
    assert hub.most_open >= 3
    assert hub.sent == len(DATA)


def test_no_more_requests_are_under_way_than_allowed(file: RemoteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PIECE_NBYTES", 1 << 16)
    counting, under_way, most = threading.Lock(), 0, 0
    receive = HttpFile._receive

    def counted(self: HttpFile, position: int, out: memoryview) -> Iterator[int]:
        nonlocal under_way, most
        with counting:
            under_way, most = under_way + 1, max(most, under_way + 1)
        yield from receive(self, position, out)
        with counting:
            under_way -= 1

    monkeypatch.setattr(HttpFile, "_receive", counted)
    out = bytearray(len(DATA))
    with at_most(2):
        reading = ReadAhead([(file, 0, len(DATA))])
        reading.read_into(file, 0, memoryview(out))
        reading.close()
    assert (bytes(out), most) == (DATA, 2)


def test_ranges_are_found_however_they_are_asked_for(
    hub: Double, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "PIECE_NBYTES", 1000)
    monkeypatch.setattr(ahead, "KEPT_NBYTES", 3000)
    monkeypatch.setattr(ahead, "READ_NBYTES", 1000)
    reading = ReadAhead([(file, 5000, 10_000), (file, 100, 900), (file, 6000, 10), (file, 200_000, 1)])
    wanted = [
        (0, 20_000),
        (4999, 3),
        (14_999, 2),
        (100, 1),
        (199_999, 3),
        (5000, 10_000),
        (7000, 0),
        (1_000_000, 48_576),
    ]
    failures = []

    def check() -> None:
        for position, nbytes in wanted:
            out = bytearray(nbytes)
            reading.read_into(file, position, memoryview(out))
            if bytes(out) != DATA[position : position + nbytes]:
                failures.append((position, nbytes))

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reading.close()
    assert failures == []
    assert hub.requests


def test_an_interruption_does_not_wait_for_the_network(tiny_llama: Path, tmp_path: Path) -> None:
    with remote_double({"me/tiny": tiny_llama}) as hub:
        hub.rate = 1e5  # 37 seconds for the weights
        words = [sys.executable, "-m", "convert", "all", "hf://me/tiny", "out", "--types", "f16"]
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(PROJECT)}
        process = subprocess.Popen(words, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while not any("bytes=2128-" in line for line in hub.requests):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted; no partial file is left" in said
    assert not (tmp_path / "out").exists()


def test_when_one_of_several_fails_the_others_wait_no_more() -> None:
    def work(item: int) -> None:
        if item:
            raise CheckpointError("refused")
        wait(PassingError("busy", 500), 1)

    started = time.monotonic()
    with pytest.raises(CheckpointError, match="refused"):
        in_parallel(work, [0, 1, 0])
    assert time.monotonic() - started < 60


def test_what_is_not_of_our_cache_stands_for_nothing(hub: Double, tmp_path: Path) -> None:
    here = Path(located("hf://me/model")) / "x.safetensors"
    shutil.copy(here, tmp_path / "x.safetensors")
    assert open_remote(here) is not None
    assert open_remote(tmp_path / "x.safetensors") is None
    assert hub.requests
