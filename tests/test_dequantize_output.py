"""`convert dequantize`: what is kept, replaced or left when files are there, a disk is full, or it is interrupted."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest
from dequantize_checkpoints import command, hashes, run
from packed_checkpoints import write_safetensors_checkpoint

import convert
from convert.dequantization import carry_out_dequantize
from convert.errors import OutputError, UsageError


@pytest.fixture
def packed(packed_llama: Path, tmp_path: Path) -> Path:
    """Return a copy of the packed Llama that a test may change."""
    return Path(shutil.copytree(packed_llama, tmp_path / "llama-nf4"))


@pytest.mark.parametrize("where", ["itself", "inside", "by a link"])
def test_the_models_own_directory_is_refused(where: str, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(packed)
    outdir = {"itself": packed, "inside": packed / "out", "by a link": tmp_path / "link" / "out"}[where]
    before = hashes(packed)
    with pytest.raises(UsageError, match=r"is the model's own directory|is inside the model's directory"):
        convert.dequantize(packed, outdir)
    assert hashes(packed) == before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model-00001-of-00002.safetensors", "notes.txt"])
def test_files_of_others_are_an_error_even_with_force(name: str, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"mine")
    with pytest.raises(OutputError, match=f"holds what this run would not write: `{re.escape(name)}`"):
        convert.dequantize(packed, tmp_path / "out", convert.Writing(force=True))
    assert hashes(tmp_path / "out") == {name: sha256(b"mine").hexdigest()}


def test_a_file_in_the_directorys_place_is_an_error(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(OutputError, match="out` is a file, wanted a directory"):
        convert.dequantize(packed, tmp_path / "out", convert.Writing(force=True))
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_file_that_is_no_safetensors_file_is_never_replaced(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"mine, and longer than eight bytes")
    with pytest.raises(OutputError, match="is there already, and no safetensors file"):
        convert.dequantize(packed, tmp_path / "out", convert.Writing(force=True))


def test_equal_files_are_kept_and_others_need_force(packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert.dequantize(packed, convert.DequantizeRequest(out, max_shard_size="100KB"))
    before, inodes = hashes(out), {path: path.stat().st_ino for path in out.iterdir()}
    report = convert.dequantize(packed, convert.DequantizeRequest(out, max_shard_size="100KB"))
    assert not any(output.written for output in report.outputs)
    assert {path: path.stat().st_ino for path in out.iterdir()} == inodes
    shard = sorted(out.glob("model-*.safetensors"))[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (out / "config.json").unlink()
    with pytest.raises(OutputError, match=f"{shard.name}` already there, and not what this run would make") as caught:
        convert.dequantize(packed, convert.DequantizeRequest(out, max_shard_size="100KB"))
    assert caught.value.hint == "force=True replaces; or choose another path"
    assert not (out / "config.json").exists()
    convert.dequantize(packed, convert.DequantizeRequest(out, max_shard_size="100KB"), convert.Writing(force=True))
    assert hashes(out) == before


def test_a_changed_tokenizer_is_not_overwritten(packed: Path, tmp_path: Path) -> None:
    convert.dequantize(packed, tmp_path / "out")
    (tmp_path / "out" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(OutputError, match=r"tokenizer_config\.json` already there"):
        convert.dequantize(packed, tmp_path / "out")


def test_too_small_a_disk_is_an_error_before_the_first_shard(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = convert.plan_dequantize(packed, convert.DequantizeRequest(tmp_path / "out", max_shard_size="50KB"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=plan.nbytes - 1))
    with pytest.raises(OutputError, match=f"the outputs need {plan.nbytes} bytes") as caught:
        carry_out_dequantize(plan)
    assert caught.value.hint == "make room, or choose another directory"
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_midway_keeps_whole_shards_and_no_config(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_pwrite, calls = os.pwrite, iter(range(1_000_000))

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if next(calls) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_pwrite(fd, data, offset)

    convert.dequantize(packed, convert.DequantizeRequest(tmp_path / "whole", max_shard_size="100KB"))
    whole = hashes(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OutputError, match="the disk is full"):
            convert.dequantize(packed, convert.DequantizeRequest(tmp_path / "out", max_shard_size="100KB"))
    left = hashes(tmp_path / "out")
    assert left
    assert left.items() < whole.items()
    assert all(name.endswith(".safetensors") for name in left)
    report = convert.dequantize(packed, convert.DequantizeRequest(tmp_path / "out", max_shard_size="100KB"))
    assert {output.path.name for output in report.outputs if not output.written} == set(left)
    assert hashes(tmp_path / "out") == whole


@pytest.fixture(scope="module")
def large(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of 340 MB in bfloat16: eight Linear layers and some small tensors."""
    import torch

    torch.manual_seed(2)
    rows = torch.randn(512, 5120).to(torch.bfloat16)
    tensors = {f"model.layers.{index}.mlp.up_proj.weight": rows.repeat(8, 1) * (index + 1) for index in range(8)}
    tensors["model.norm.weight"] = torch.ones(5120, dtype=torch.bfloat16)
    folder = tmp_path_factory.mktemp("large") / "large"
    write_safetensors_checkpoint(folder, json.loads((tiny_llama / "config.json").read_text()), tensors)
    return folder


def test_killed_at_any_moment_the_next_run_makes_what_is_missing(large: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", ("--through", "nf4-dq", "--max-shard-size", "50MB")
    for n_whole in (1, 3):
        process = subprocess.Popen(command(large, out, *options), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list(out.glob("model-*"))) < n_whole and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert not (out / "config.json").exists()
        assert not (out / "model.safetensors.index.json").exists()
    kept = {path: path.stat().st_ino for path in out.glob("model-*")}
    assert 3 <= len(kept) < 9
    assert run(large, out, *options).returncode == 0
    assert {path: path.stat().st_ino for path in kept} == kept
    assert run(large, tmp_path / "clean" / "out", *options).returncode == 0
    assert hashes(out) == hashes(tmp_path / "clean" / "out")
    shutil.rmtree(out)
    shutil.rmtree(tmp_path / "clean")


def test_interrupted_it_keeps_whole_shards_and_says_so(large: Path, tmp_path: Path) -> None:
    arguments = command(large, tmp_path / "out", "--through", "nf4-dq", "--max-shard-size", "50MB")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("model-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (
        stderr.splitlines()[-1]
        == "interrupted; no partial file is left; the same command goes on with the shards that are there"
    )
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left
    assert all(re.fullmatch(r"model-0000\d-of-00008\.safetensors", name) for name in left)
    shutil.rmtree(tmp_path / "out")


# From a small process, since a child's peak begins with its parent's.
_MEASURED: Final = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.parametrize("options", [("--through", "nf4-dq", "--dtype", "f32"), ("--through", "int8")], ids=str)
def test_memory_stays_below_512_mb_with_many_workers(options: tuple[str, ...], large: Path, tmp_path: Path) -> None:
    arguments = command(large, tmp_path / "out", *options, "--jobs", "16")
    result = subprocess.run([sys.executable, "-c", _MEASURED, *arguments], capture_output=True, text=True, check=True)
    code, peak = map(int, result.stdout.split())
    assert code == 0
    assert peak < 512_000_000
    shutil.rmtree(tmp_path / "out")


def test_what_a_run_of_another_shard_size_left_is_removed(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".model-00001-of-00031.safetensors.partial").write_bytes(b"half")
    convert.dequantize(packed, tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))
