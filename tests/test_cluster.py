"""A conversion shared among workers: the same files as by one machine, whatever befalls the workers, or none."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from click.testing import CliRunner
from gguf_parts import digests
from remote_double import lead_here, remote_double
from safetensors.numpy import load_file, save_file

from convert.cli import cli
from convert.cluster import Job, carry_out_units, finish, make_job, read_job, share, units_to_do, write_job
from convert.cluster import job_file as job_files
from convert.cluster.pickled import dumps, loads
from convert.cluster.pieces import records
from convert.cluster.units import cut_plan, nbytes_of, outputs_of, slices_of
from convert.conversion import convert_all, plan_all
from convert.errors import CheckpointError, ConvertError, OutputError, PlanError, UnsupportedError, WeightsError
from convert.llama_cpp.front_end.computed import Computed
from convert.plan import OutputRequest, SplitRequest
from convert.stream import Writing
from convert.stream.slices import cut

if TYPE_CHECKING:
    from collections.abc import Callable

TYPES: Final = "f16,q4_0,q8_0"
UNIT: Final = 300_000  # bytes: about 20 of the small model
IN_PARTS: Final = SplitRequest(max_tensors=8)


def _job(model: Path, out: Path, *, writing: Writing = Writing(), split: SplitRequest | None = None) -> Job:  # noqa: B008
    return make_job(plan_all(model, OutputRequest(out, types=TYPES, split=split)), writing, unit_nbytes=UNIT)


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the digests of the files that one machine makes."""
    out = tmp_path_factory.mktemp("whole")
    convert_all(tiny_llama, OutputRequest(out, types=TYPES))
    return digests(out)


@pytest.mark.parametrize("nbytes", [1, 100_000, UNIT, None])
@pytest.mark.parametrize("split", [None, IN_PARTS])
def test_units_hold_every_slice_once(
    nbytes: int | None, split: SplitRequest | None, tiny_llama: Path, tmp_path: Path
) -> None:
    plan = plan_all(tiny_llama, OutputRequest(tmp_path, types=TYPES, split=split))
    units = cut_plan(plan, nbytes)
    slices = [piece for unit in units for piece in slices_of(plan, unit)]
    assert slices == [piece for task in plan.tasks for piece in cut(task)]
    assert sum(nbytes_of(plan, unit) for unit in units) == sum(t.nbytes for each in plan.outputs for t in each.tensors)


def test_a_unit_lies_in_one_part_of_each_model(tiny_llama: Path, tmp_path: Path) -> None:
    plan = plan_all(tiny_llama, OutputRequest(tmp_path, types="q8_0", split=IN_PARTS))
    units = cut_plan(plan, 10**9)
    assert all(len({outputs_of(plan.tasks[index]) for index in unit.tasks}) == 1 for unit in units)


def _run(*words: object) -> None:
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert result.exit_code == 0, result.exception


@pytest.mark.parametrize("flags", [(), ("--split-max-tensors", 8)])
def test_workers_of_a_queue_make_the_files_of_one_machine(
    flags: tuple[object, ...], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convert.cluster.units._LEAST", UNIT)
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(tiny_llama)
    _run("all", "model", "one", "--types", TYPES, *flags)
    _run("plan", "model", "many", "--types", TYPES, *flags, "-o", "plan.bin")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the plan's paths are absolute
    for part in ("2/3", "1/3", "3/3"):
        _run("work", "../plan.bin", "--part", part)
    assert not list((tmp_path / "many").rglob("[!.]*.gguf"))
    _run("finish", "../plan.bin")
    assert _tree(tmp_path / "many") == _tree(tmp_path / "one")
    _run("finish", "../plan.bin")  # nothing to do


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_published_before_all_units_are_done(tiny_llama: Path, tmp_path: Path) -> None:
    job = _job(tiny_llama, tmp_path)
    carry_out_units(job, share(job, 1, 2))
    with pytest.raises(OutputError, match=rf"{len(job.units) // 2} of {len(job.units)} units are not done: .*blk\.0"):
        finish(job)
    assert not list(tmp_path.glob("[!.]*"))


def test_a_unit_done_twice_gives_the_same_bytes(tiny_llama: Path, tmp_path: Path, whole: dict[str, str]) -> None:
    job = _job(tiny_llama, tmp_path)
    carry_out_units(job, job.units)
    for lost in ("1", "2"):
        (records(job) / lost).unlink()
    assert [unit.number for unit in units_to_do(job)] == [1, 2]
    carry_out_units(job, job.units)
    finish(job)
    assert digests(tmp_path) == whole


def test_what_is_done_is_passed_over(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _job(tiny_llama, tmp_path)
    carry_out_units(job, job.units[:5])
    begun: list[int] = []
    monkeypatch.setattr("convert.cluster.carry._carry_out", lambda _, unit, *__, **___: begun.append(unit.number))
    written: list[int] = []
    carry_out_units(job, job.units, progress=written.append)
    assert begun == [unit.number for unit in job.units[5:]]
    assert sum(written) == sum(nbytes_of(job.plan, unit) for unit in job.units[:5])


def test_a_file_under_way_that_is_lost_takes_its_units_with_it(tiny_llama: Path, tmp_path: Path) -> None:
    job = _job(tiny_llama, tmp_path)
    carry_out_units(job, job.units)
    next(tmp_path.glob(".*-Q4_0.*.partial")).unlink()
    assert units_to_do(job) == job.units
    carry_out_units(job, job.units[:1])
    assert units_to_do(job) == job.units[1:]


def test_a_publication_that_is_cut_short_is_gone_on_with(
    tiny_llama: Path, tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job(tiny_llama, tmp_path)
    carry_out_units(job, job.units)
    replace_, left = Path.replace, iter([True])

    def replacing(path: Path, to: Path) -> Path:
        if not to.name.endswith(".gguf") or next(left, False):
            return replace_(path, to)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replacing)
        with pytest.raises(KeyboardInterrupt):
            finish(job)
    assert len(list(tmp_path.glob("[!.]*"))) == 1
    assert len(finish(job).outputs) == 3
    assert digests(tmp_path) == whole


def test_files_that_are_there_are_compared_and_kept(tiny_llama: Path, tmp_path: Path, whole: dict[str, str]) -> None:
    convert_all(tiny_llama, OutputRequest(tmp_path, types="q8_0"))
    job = _job(tiny_llama, tmp_path)
    carry_out_units(job, job.units)
    assert [output.written for output in finish(job).outputs] == [True, True, False]
    assert digests(tmp_path) == whole


@pytest.mark.parametrize("force", [False, True])
def test_a_file_with_other_bytes_ends_the_work_unless_forced(
    tiny_llama: Path, tmp_path: Path, whole: dict[str, str], *, force: bool
) -> None:
    convert_all(tiny_llama, OutputRequest(tmp_path, types="q8_0"))
    path = tmp_path / "tiny-llama-Q8_0.gguf"
    path.write_bytes(path.read_bytes()[:-9] + b"different")
    job = _job(tiny_llama, tmp_path, writing=Writing(force=force))
    if force:
        carry_out_units(job, job.units)
        finish(job)
        assert digests(tmp_path) == whole
    else:
        with pytest.raises(OutputError, match="already there, and not what this run would make"):
            carry_out_units(job, job.units)


def _copied(model: Path, to: Path) -> Path:
    to.mkdir()
    for path in model.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


CHANGES: Final[dict[str, Callable[[Path], object]]] = {
    "another time": lambda path: os.utime(path, ns=(0, 0)),
    "another length": lambda path: path.write_bytes(path.read_bytes() + b"."),
    "no more": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_has_changed_since_is_an_error(change: str, tiny_llama: Path, tmp_path: Path) -> None:
    model = _copied(tiny_llama, tmp_path / "model")
    job = _job(model, tmp_path / "out")
    carry_out_units(job, job.units)
    CHANGES[change](model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors` (has changed|cannot be read)"):
        carry_out_units(job, job.units)
    with pytest.raises(CheckpointError, match=r"model\.safetensors` (has changed|cannot be read)"):
        finish(job)


def spoilt(model: Path, to: Path, tensor: str) -> Path:
    """Copy a model, with a NaN in one tensor."""
    tensors = load_file(_copied(model, to) / "model.safetensors")
    tensors[tensor] = tensors[tensor].copy()
    tensors[tensor].reshape(-1)[5] = np.nan
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return to


def test_a_poisoned_unit_names_its_tensor(tiny_llama: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    job = _job(spoilt(tiny_llama, tmp_path / "model", name), tmp_path / "out")
    with pytest.raises(WeightsError, match=name):
        carry_out_units(job, job.units)


def test_errors_travel() -> None:
    error = pickle.loads(pickle.dumps(WeightsError("`x` has NaN", hint="a hint")))
    assert (type(error), error.message, error.hint) == (WeightsError, "`x` has NaN", "a hint")


def test_a_plan_of_another_version_is_an_error(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.bin"
    with monkeypatch.context() as patched:
        patched.setattr(job_files, "version", lambda _: "0.0.7")
        write_job(_job(tiny_llama, tmp_path / "out"), path)
    with pytest.raises(PlanError, match=r"made by version 0\.0\.7, this is"):
        read_job(path)


def test_a_file_that_is_no_whole_plan_is_an_error(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.bin"
    write_job(_job(tiny_llama, tmp_path / "out"), path)
    data = path.read_bytes()
    for damaged in (b"", b"GGUF", data[:20], data[:-1], data[:-1] + b"?", data[:400] + b"?" + data[401:]):
        path.write_bytes(damaged)
        with pytest.raises(PlanError):
            read_job(path)
    other = tmp_path / "other.bin"
    other.write_bytes(b"something else")
    with pytest.raises(OutputError, match="no plan"):
        write_job(_job(tiny_llama, tmp_path / "out"), other)


class _Calls:
    def __init__(self, *call: Any) -> None:  # noqa: ANN401
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


def _by_name(module: bytes, name: bytes) -> bytes:
    """Write what calls something by its name, without arguments."""
    return b"".join((b"\x80\x04", _word(module), _word(name), b"\x93)R."))


def _word(text: bytes) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text


HOSTILE: Final = {
    "a program": pickle.dumps(_Calls(os.system, "touch called")),
    "evaluation": pickle.dumps(_Calls(eval, "open('called', 'w')")),
    "our command line": _by_name(b"convert.__main__", b"x"),
    "a function of ours": _by_name(b"convert.conversion", b"plan_all"),
    "a function in a room of plans": _by_name(b"convert.plan.data", b"dataclass"),
    "a module of ours that imports": _by_name(b"convert.checkpoint.source_files", b"os.getcwd"),
    "a class of ours that is no value": _by_name(b"convert.checkpoint.source_files", b"SourceFiles"),
    "the front end, which starts programs": _by_name(b"convert.llama_cpp.front_end.request", b"Wanted"),
    "no pickle": b"\x80\x04no",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_plan_is_never_called(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError, match="no plan"):
        loads(HOSTILE[name])
    assert not list(tmp_path.iterdir())


def test_what_another_process_computes_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    plan = plan_all(tiny_llama, OutputRequest(tmp_path, types="f16"))
    task, *others = plan.tasks
    session: Any = None
    computed = Computed("blk.0.x", task.tensor.shape, task.tensor.dtype, task.tensor.nbytes, 0, session)
    with pytest.raises(UnsupportedError, match=r"blk\.0\.x` is computed by llama\.cpp's own definition"):
        make_job(replace(plan, tasks=(replace(task, tensor=computed), *others)), Writing())


def test_workers_read_a_model_on_the_hub_themselves(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote_double({"me/tiny-llama": tiny_llama}) as double:
        lead_here(double, monkeypatch, tmp_path / "planner")
        convert_all("hf://me/tiny-llama", OutputRequest(tmp_path / "one", types=TYPES))
        plan = plan_all("hf://me/tiny-llama", OutputRequest(tmp_path / "many", types=TYPES))
        write_job(make_job(plan, Writing(), unit_nbytes=UNIT), tmp_path / "plan.bin")
        shutil.rmtree(tmp_path / "planner")
        lead_here(double, monkeypatch, tmp_path / "worker")  # a cache of its own
        job = read_job(tmp_path / "plan.bin")
        carry_out_units(job, job.units)
        finish(job)
    assert digests(tmp_path / "many") == digests(tmp_path / "one")


def test_paths_are_absolute_whoever_reads_them() -> None:
    assert loads(dumps(Path("a")).data) == Path("a").absolute()


def test_a_part_is_one_of_the_whole(tiny_llama: Path, tmp_path: Path) -> None:
    job = _job(tiny_llama, tmp_path)
    assert sorted(unit.number for part in range(1, 8) for unit in share(job, part, 7)) == [
        unit.number for unit in job.units
    ]
    for part, of in ((0, 3), (4, 3)):
        with pytest.raises(ConvertError, match="parts count from 1"):
            share(job, part, of)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("all", "model", "out", "--push-to-hub", "me/x-GGUF", "--ray"), "--ray does not go with --push-to-hub"),
        (("quantize", "x.gguf", "out", "--with", "llama.cpp", "--ray"), "--ray does not go with --with llama.cpp"),
        (("work", "plan.bin", "--part", "3"), "no part of a whole"),
        (("work", "nothing.bin"), "nothing.bin` cannot be read: No such file"),
    ],
)
def test_what_makes_no_sense_is_told(words: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code != 0
    assert said in result.output + str(result.exception)
