"""Nothing half done: outputs are whole or absent, whatever stands in the way."""

from __future__ import annotations

import errno
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import convert
from convert.errors import CheckpointError, ConvertError, OutputError, Remedy, UsageError, WeightsError
from convert.stream import publish

if TYPE_CHECKING:
    from collections.abc import Callable

TYPES = ("F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_all_types_appear_and_nothing_else(model: Path, tmp_path: Path) -> None:
    convert.convert_all(model, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"model-{kind}.gguf" for kind in TYPES]


def test_one_worker_and_many_write_the_same_bytes(model: Path, tmp_path: Path) -> None:
    convert.convert_all(model, tmp_path / "one", convert.Writing(jobs=1))
    convert.convert_all(model, tmp_path / "many", convert.Writing(jobs=7))
    assert hashes(tmp_path / "one") == hashes(tmp_path / "many")


def test_a_subset_of_types_has_the_same_bytes_as_all(model: Path, tmp_path: Path) -> None:
    convert.convert_all(model, tmp_path / "all")
    convert.convert_all(model, convert.OutputRequest(tmp_path / "some", discard_f16=True, types="f16,q5_1,q4_0"))
    every = hashes(tmp_path / "all")
    assert hashes(tmp_path / "some") == {name: every[name] for name in ("model-Q4_0.gguf", "model-Q5_1.gguf")}


def test_outputs_equal_to_the_plan_are_kept(model: Path, tmp_path: Path) -> None:
    convert.convert_all(model, tmp_path / "out")
    before = {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    report = convert.convert_all(model, tmp_path / "out")
    assert not any(output.written for output in report.outputs)
    assert {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()} == before


def test_only_what_is_missing_is_made_again(model: Path, tmp_path: Path) -> None:
    convert.convert_all(model, tmp_path / "out")
    before = hashes(tmp_path / "out")
    (tmp_path / "out" / "model-Q5_0.gguf").unlink()
    report = convert.convert_all(model, tmp_path / "out")
    assert [output.path.name for output in report.outputs if output.written] == ["model-Q5_0.gguf"]
    assert hashes(tmp_path / "out") == before


def _other_file(path: Path) -> None:
    path.write_bytes(b"mine")


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _other_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(40)
        file.write(b"\1")


def _other_tensor(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [_other_file, _directory])
def test_a_file_that_is_no_gguf_is_never_replaced(change: Callable[[Path], None], model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert.convert_all(model, convert.OutputRequest(out, types="q4_0"))
    change(out / "model-Q4_0.gguf")
    with pytest.raises(OutputError, match="no GGUF file"):
        convert.convert_all(model, convert.OutputRequest(out, types="q4_0"), convert.Writing(force=True))
    with pytest.raises(OutputError, match="no GGUF file"):
        convert.convert_one(model, model / "config.json", convert.Writing(force=True))
    assert [path.name for path in out.iterdir()] == ["model-Q4_0.gguf"]


@pytest.mark.parametrize("change", [_truncated, _other_header, _other_tensor])
def test_a_file_that_is_something_else_is_kept_and_nothing_is_written(
    change: Callable[[Path], None], model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert.convert_all(model, convert.OutputRequest(out, types="q4_0,q8_0"))
    (out / "model-Q8_0.gguf").unlink()
    change(out / "model-Q4_0.gguf")
    with pytest.raises(OutputError, match=r"model-Q4_0\.gguf` already there"):
        convert.convert_all(model, convert.OutputRequest(out, types="q4_0,q8_0"))
    assert [path.name for path in out.iterdir()] == ["model-Q4_0.gguf"]


def test_weights_trained_on_are_not_taken_for_the_old_ones(model: Path, tmp_path: Path) -> None:
    convert.convert_all(model, convert.OutputRequest(tmp_path / "out", types="q4_0"))
    before = hashes(tmp_path / "out")
    weights = load_file(model / "model.safetensors")
    save_file({name: value * 0.5 for name, value in weights.items()}, model / "model.safetensors")
    os.utime(model / "model.safetensors", (1, 1))  # older than the output, as `cp -p` and `mv` leave it
    with pytest.raises(OutputError, match="not what this run would make"):
        convert.convert_all(model, convert.OutputRequest(tmp_path / "out", types="q4_0"))
    convert.convert_all(model, convert.OutputRequest(tmp_path / "out", types="q4_0"), convert.Writing(force=True))
    assert hashes(tmp_path / "out") != before


def test_force_replaces(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert.convert_all(model, convert.OutputRequest(out, types="q4_0"))
    before = hashes(out)
    _truncated(out / "model-Q4_0.gguf")
    convert.convert_all(model, convert.OutputRequest(out, types="q4_0"), convert.Writing(force=True))
    assert hashes(out) == before


def test_what_a_killed_run_left_is_taken_over(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".model-Q4_0.gguf.partial").write_bytes(b"x" * 10_000_000)
    convert.convert_all(model, convert.OutputRequest(out, types="q4_0"))
    convert.convert_all(model, convert.OutputRequest(tmp_path / "clean", types="q4_0"))
    assert hashes(out) == hashes(tmp_path / "clean")


def test_a_journal_whose_file_has_become_the_output_is_removed(model: Path, tmp_path: Path) -> None:
    request = convert.OutputRequest(tmp_path / "out", types="q4_0")
    convert.convert_all(model, request)
    (tmp_path / "out" / ".model-Q4_0.gguf.journal").write_text("of a run that was killed in this very moment")
    convert.convert_all(model, request)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model-Q4_0.gguf"]


def test_two_runs_do_not_write_one_file(model: Path, tmp_path: Path) -> None:
    plan = convert.plan_all(model, convert.OutputRequest(tmp_path / "out", types="q4_0"))
    held = publish.open_partial(plan.outputs[0], str)
    try:
        with pytest.raises(OutputError, match="another run is writing"):
            convert.carry_out(plan)
        assert held.partial.exists()
    finally:
        held.discard()
        held.close()


def test_too_small_a_disk_is_an_error_before_any_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match=r"the outputs need \d+ bytes, .* has 1000 free"):
        convert.convert_all(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_midway_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_pwrite, calls = os.pwrite, iter(range(1_000_000))

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if next(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OutputError, match="the disk is full"):
        convert.convert_all(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_short_write_is_continued(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert.convert_all(model, tmp_path / "whole")
    real_pwrite, real_preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real_pwrite(fd, data[:1000], offset))
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: real_preadv(fd, [views[0][:1000]], offset))
    convert.convert_all(model, tmp_path / "bits")
    assert hashes(tmp_path / "bits") == hashes(tmp_path / "whole")


def test_a_checkpoint_that_shrinks_during_the_work_is_an_error(model: Path, tmp_path: Path) -> None:
    plan = convert.plan_all(model, tmp_path / "out")
    os.truncate(model / "model.safetensors", 100_000)
    with pytest.raises(CheckpointError, match="ended while"):
        convert.carry_out(plan)
    assert not (tmp_path / "out").exists()


BAD_VALUES = {
    "nan": (float("nan"), "1 values NaN or infinite, the first is nan at [3, 7]"),
    "infinity": (float("-inf"), "1 values NaN or infinite, the first is -inf at [3, 7]"),
    "overflow": (70000.0, "1 values beyond float16 (65504), the first is 70000 at [3, 7]"),
}


def _spoil(model: Path, value: float, dtype: torch.dtype = torch.float32) -> str:
    weights = {name: tensor.to(dtype) for name, tensor in load_file(model / "model.safetensors").items()}
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][3, 7] = value
    save_file(weights, model / "model.safetensors")
    return name


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_a_bad_weight_names_the_tensor_how_many_and_the_first_place(kind: str, model: Path, tmp_path: Path) -> None:
    value, says = BAD_VALUES[kind]
    name = _spoil(model, value)
    with pytest.raises(WeightsError) as caught:
        convert.convert_all(model, tmp_path / "out")
    assert caught.value.message == f"tensor `{name}` has {says}"
    wider = (Remedy.WIDER_FLOAT,) if kind == "overflow" else ()
    assert caught.value.remedies == (*wider, Remedy.ALLOW_NONFINITE)
    assert not (tmp_path / "out").exists()


def _spoilt(model: Path) -> Path:
    _spoil(model, float("nan"))
    return model


def test_a_failed_run_leaves_no_directory_that_it_made(model: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(WeightsError):
        convert.convert_all(_spoilt(model), tmp_path / "there" / "made" / "below")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_failed_run_leaves_a_directory_that_another_writes_to(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write_theirs(_: int) -> None:
        (out / "theirs").touch()

    with pytest.raises(WeightsError):
        convert.convert_all(_spoilt(model), out, convert.Writing(jobs=1), progress=write_theirs)
    assert [path.name for path in out.iterdir()] == ["theirs"]


def test_a_run_whose_first_file_cannot_be_made_leaves_no_directory(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        convert.convert_one(model, tmp_path / "out" / ("x" * 250 + ".gguf"))  # too long only with `.partial`
    assert not (tmp_path / "out").exists()


def test_a_directory_that_another_failed_run_removes_is_made_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real_open, removals = tmp_path / "out", os.open, iter((True, True))

    def open_late(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).parent == out and next(removals, None):
            out.rmdir()
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", open_late)
    convert.convert_all(model, convert.OutputRequest(out, types="q4_0"))
    assert [path.name for path in out.iterdir()] == ["model-Q4_0.gguf"]


def test_a_bad_weight_in_a_permuted_tensor_is_named_at_its_place_in_the_checkpoint(model: Path, tmp_path: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"][17, 200] = float("nan")
    save_file(weights, model / "model.safetensors")
    with pytest.raises(WeightsError, match=r"`model\.layers\.0\.self_attn\.q_proj\.weight`.* at \[17, 200\]"):
        convert.convert_all(model, convert.OutputRequest(tmp_path / "out", types="q8_0"))


def test_bfloat16_keeps_what_float16_cannot_hold(model: Path, tmp_path: Path) -> None:
    _spoil(model, 70000.0, torch.bfloat16)
    report = convert.convert_all(model, convert.OutputRequest(tmp_path / "out", types="bf16,f32"))
    assert all(output.written for output in report.outputs)


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_allowed_bad_weights_spoil_their_block_and_no_other(kind: str, model: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader, quants

    convert.convert_all(model, tmp_path / "good")
    _spoil(model, BAD_VALUES[kind][0])
    convert.convert_all(model, tmp_path / "bad", convert.Writing(allow_nonfinite=True))
    for path in sorted((tmp_path / "good").iterdir()):
        pairs = zip(GGUFReader(path).tensors, GGUFReader(tmp_path / "bad" / path.name).tensors, strict=True)
        for good, bad in pairs:
            values, spoilt = (quants.dequantize(tensor.data, tensor.tensor_type) for tensor in (good, bad))
            wrong = np.argwhere(~np.isfinite(spoilt)).tolist()
            same = (values == spoilt) | ~np.isfinite(spoilt)
            assert same.all(), good.name
            if good.name != "blk.1.ffn_up.weight":
                assert wrong == []
            elif path.name == "model-F16.gguf":
                assert wrong == [[3, 7]]
            else:
                assert wrong == [[3, column] for column in range(32)]


@pytest.mark.parametrize(
    ("jobs", "name", "error"), [(0, None, UsageError), (None, "a/b", UsageError), (None, "", UsageError)]
)
def test_arguments_that_make_no_sense_are_usage_errors(
    jobs: int | None, name: str | None, error: type[ConvertError], model: Path, tmp_path: Path
) -> None:
    with pytest.raises(error):
        convert.convert_all(model, convert.OutputRequest(tmp_path / "out", name=name), convert.Writing(jobs=jobs))
    assert not (tmp_path / "out").exists()
