"""Files in parts: the very bytes of llama-gguf-split and of llama-quantize, all together or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFReader, GGUFWriter
from gguf_models import SmallModel, write_small_model
from gguf_parts import BY_SIZE, BY_TENSORS, digests, gguf_split, split_by_reference
from reference import complete

import convert
from convert import OutputRequest, SplitRequest, Writing
from convert.cli import cli
from convert.errors import ConvertError, OutputError, PlanError, UsageError
from convert.gguf_file import read_gguf
from convert.stream.publish import PartialFile

if TYPE_CHECKING:
    from pathlib import Path

    from reference import Reference

TYPES = "f16,bf16,q8_0,q4_k_m,q2_k"


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the small model's files of several types, whole."""
    folder = tmp_path_factory.mktemp("whole")
    convert.convert_all(tiny_llama, OutputRequest(folder, TYPES))
    return folder


def _run(*words: object) -> None:
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert result.exit_code == 0, result.exception


def _error(*words: object) -> ConvertError:
    error = CliRunner().invoke(cli, list(map(str, words))).exception
    assert isinstance(error, ConvertError), error
    return error


def _keep_split(reference: Reference, *words: object) -> None:
    subprocess.run([str(reference.quantize), "--keep-split", *map(str, words)], check=True, capture_output=True)


@pytest.mark.parametrize("flags", [BY_TENSORS, BY_SIZE], ids=["tensors", "size"])
def test_every_type_in_parts_is_what_the_reference_cuts_the_whole_file_into(
    flags: tuple[str, ...], whole: Path, reference: Reference, tiny_llama: Path, tmp_path: Path
) -> None:
    _run("all", tiny_llama, tmp_path / "ours", "--types", TYPES, *flags)
    _run("quantize", whole / "tiny-llama-F16.gguf", tmp_path / "again", "--types", "q8_0,q2_k", *flags)
    for name in (path.stem for path in whole.glob("*.gguf")):
        split_by_reference(reference, whole / f"{name}.gguf", tmp_path / "theirs" / name / name, *flags)
        assert digests(tmp_path / "ours" / name) == digests(tmp_path / "theirs" / name)
    for folder in (tmp_path / "again").iterdir():
        assert digests(folder) == digests(tmp_path / "ours" / folder.name)
    _run("gguf", tiny_llama, tmp_path / "ours" / "one.gguf", "--type", "q8_0", *flags)
    one, q8_0 = (sorted((tmp_path / "ours" / name).iterdir()) for name in ("one", "tiny-llama-Q8_0"))
    assert one[0].name == f"one-00001-of-{len(one):05}.gguf"
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in q8_0]
    assert len(q8_0) > 2


@pytest.mark.parametrize(
    "flags",
    [BY_TENSORS, BY_SIZE, (), (*BY_TENSORS, "--no-tensor-first-split"), ("--split-max-size", "1G")],
    ids=["tensors", "size", "default", "empty first", "one part"],
)
def test_split_and_merge_are_the_references_both_ways(
    flags: tuple[str, ...], whole: Path, reference: Reference, tmp_path: Path
) -> None:
    source = whole / "tiny-llama-Q4_K_M.gguf"
    theirs = split_by_reference(reference, source, tmp_path / "theirs" / "m", *flags)
    _run("split", source, tmp_path / "ours" / "m", *flags)
    assert digests(tmp_path / "ours") == digests(tmp_path / "theirs")
    assert gguf_split(reference, "--merge", tmp_path / "ours" / theirs[0].name, tmp_path / "a.gguf").returncode == 0
    _run("merge", theirs[0], tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    # What was merged is whole again, and is split as it was.
    split_by_reference(reference, tmp_path / "a.gguf", tmp_path / "theirs" / "again", *flags)
    _run("split", tmp_path / "b.gguf", tmp_path / "ours" / "again", *flags)
    assert digests(tmp_path / "ours") == digests(tmp_path / "theirs")


def test_a_file_of_odd_shapes_and_values_is_split_and_merged_as_by_the_reference(
    reference: Reference, tmp_path: Path
) -> None:
    writer = GGUFWriter(tmp_path / "odd.gguf", "nobody")
    writer.add_array("odd.names", ["a", "ä", ""])
    writer.add_array("odd.flags", [True, False])
    writer.add_uint16("split.count", 0)
    writer.add_float64("odd.number", 0.1)
    for index, shape in enumerate([(1, 7), (3,), (1, 1, 2, 5), (2, 3, 1)]):
        writer.add_tensor(f"t{index}", np.full(shape, index, np.float32))
    writer.add_tensor("t4", np.array([np.nan, np.inf, -np.inf], np.float16))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    parts = split_by_reference(reference, tmp_path / "odd.gguf", tmp_path / "theirs" / "m", "--split-max-tensors", 1)
    convert.split(tmp_path / "odd.gguf", tmp_path / "ours" / "m", SplitRequest(max_tensors=1))
    assert digests(tmp_path / "ours") == digests(tmp_path / "theirs")
    assert gguf_split(reference, "--merge", parts[0], tmp_path / "a.gguf").returncode == 0
    convert.merge(parts[0], tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_another_alignment_holds_for_the_part_that_declares_it(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(256)
    for index in range(4):
        writer.add_tensor(f"t{index}", np.full(5, index, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    report = convert.split(tmp_path / "m.gguf", tmp_path / "p", SplitRequest(max_tensors=2))
    read = [tensor for output in report.outputs for tensor in GGUFReader(output.path).tensors]
    assert [(tensor.name, tensor.data[0]) for tensor in read] == [(f"t{index}", index) for index in range(4)]
    convert.merge(report.outputs[0].path, tmp_path / "again.gguf")
    assert [tensor.data[4] for tensor in GGUFReader(tmp_path / "again.gguf").tensors] == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q3_K_L", "COPY"])
def test_parts_are_kept_as_llama_quantize_keeps_them(kind: str, reference: Reference, tmp_path: Path) -> None:
    whole = write_small_model(SmallModel(n_layers=9, rows=256), tmp_path / "m.gguf")
    for flags in (("--split-max-tensors", 16), ("--split-max-tensors", 20, "--no-tensor-first-split")):
        folder = tmp_path / f"source-{len(flags)}"
        source = split_by_reference(reference, whole, folder / "m", *flags)[0]
        _run("quantize", source, folder / "ours", "--types", kind, "--keep-split")
        (folder / "theirs").mkdir()
        _keep_split(reference, source, folder / "theirs" / f"m-{kind}.gguf", kind)
        assert digests(folder / "ours" / f"m-{kind}") == digests(folder / "theirs")
        assert len(digests(folder / "theirs")) > 3


def test_a_whole_file_whose_split_is_kept_is_one_part_in_its_own_order(reference: Reference, tmp_path: Path) -> None:
    source = write_small_model(SmallModel(n_layers=3), tmp_path / "m.gguf")
    _run("quantize", source, tmp_path / "ours", "--types", "q4_k_m", "--keep-split")
    (tmp_path / "theirs").mkdir()
    _keep_split(reference, source, tmp_path / "theirs" / "m-Q4_K_M.gguf", "q4_k_m")
    assert digests(tmp_path / "ours" / "m-Q4_K_M") == digests(tmp_path / "theirs")


def test_parts_are_kept_where_layers_are_left_out(reference: Reference, tmp_path: Path) -> None:
    whole = write_small_model(SmallModel(n_layers=4), tmp_path / "m.gguf")
    source = split_by_reference(reference, whole, tmp_path / "s" / "m", "--split-max-tensors", 10)[0]
    (tmp_path / "theirs").mkdir()
    pruned = ("--prune-layers", "1")
    _run("quantize", source, tmp_path / "ours", "--types", "q5_k_m", "--keep-split", *pruned)
    _keep_split(reference, *pruned, source, tmp_path / "theirs" / "m-Q5_K_M.gguf", "Q5_K_M")
    assert digests(tmp_path / "ours" / "m-Q5_K_M") == digests(tmp_path / "theirs")


def test_llama_cpp_runs_what_is_in_parts(whole: Path, reference: Reference, tmp_path: Path) -> None:
    source = whole / "tiny-llama-Q8_0.gguf"
    parts = convert.split(source, tmp_path / "p", SplitRequest(max_size="500K", first_is_empty=True)).outputs
    # The program loses its last words now and then, of a model as small as this one.
    story = max((complete(reference, source, "Once", n_tokens=12) for _ in range(4)), key=len)
    assert story in (complete(reference, parts[0].path, "Once", n_tokens=12) for _ in range(8))
    assert len(story.split()) > 8


def test_what_cannot_be_cut_so_is_told(whole: Path, reference: Reference, tiny_llama: Path, tmp_path: Path) -> None:
    q8_0 = whole / "tiny-llama-Q8_0.gguf"
    f32 = tmp_path / "f32.gguf"
    convert.convert_one(tiny_llama, f32, type="f32")
    ended = gguf_split(reference, "--split-max-size", "1M", f32, tmp_path / "m")
    assert ended.returncode != 0
    assert "one of splits have 0 tensors" in ended.stderr
    error = _error("split", f32, tmp_path / "m", "--split-max-size", "1M")
    assert isinstance(error, PlanError)
    assert "`token_embd.weight`, the file's first, has 1048576 bytes, and a part may have 1000000" in error.message
    assert error.hint == "make the parts larger (--split-max-size or --split-max-tensors)"
    both = ("--split-max-size", "1M", "--split-max-tensors", "8")
    assert "one of the two" in _error("split", q8_0, tmp_path / "m", *both).message
    assert "is not a size" in _error("split", q8_0, tmp_path / "m", "--split-max-size", "large").message
    assert "at most 0 tensors" in _error("split", q8_0, tmp_path / "m", "--split-max-tensors", "0").message
    for flags in (both[:2], both[2:], ("--keep-split",)):
        words = ["quantize", str(q8_0), str(tmp_path), "--with", "llama.cpp", *flags]
        assert f"{flags[0]} does not go with --with llama.cpp" in CliRunner().invoke(cli, words).output
    kept = _error("quantize", q8_0, tmp_path, "--types", "copy", "--keep-split", "--split-max-tensors", "8")
    assert "not both" in kept.message
    with pytest.raises(UsageError, match="is not a GGUF file, whose parts could be kept"):
        convert.plan_all(tiny_llama, OutputRequest(tmp_path, "f16", options=convert.quantize_options(keep_split=True)))


def test_a_part_that_loses_all_its_layers_cannot_be_kept(whole: Path, tmp_path: Path) -> None:
    parts = convert.split(whole / "tiny-llama-F16.gguf", tmp_path / "p", SplitRequest(max_tensors=5)).outputs
    error = _error("quantize", parts[0].path, tmp_path / "o", "--types", "q8_0", "--keep-split", "--prune-layers", "0")
    assert error.message == "part 2 of 4 would have no tensor"


def test_a_part_that_is_larger_than_asked_for_is_a_note(whole: Path, tmp_path: Path) -> None:
    plan = convert.plan_split(whole / "tiny-llama-Q8_0.gguf", tmp_path / "p", SplitRequest(max_size=300_000))
    assert plan.notes == ()
    (tmp_path / "out").mkdir()
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    for index, length in enumerate([8, 800, 8]):
        writer.add_tensor(f"t{index}", np.zeros(length, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    plan = convert.plan_split(tmp_path / "m.gguf", tmp_path / "out", SplitRequest(max_size="1KiB"))
    assert plan.notes == ("`m-00002-of-00003.gguf` is larger than asked for: `t1` alone has 3200 bytes",)
    assert {output.path.parent for output in plan.outputs} == {tmp_path / "out"}


def test_the_plan_shows_the_parts(whole: Path, tmp_path: Path) -> None:
    words = ["quantize", str(whole / "tiny-llama-F16.gguf"), str(tmp_path), "--types", "q8_0,q2_k", *BY_TENSORS]
    shown = CliRunner().invoke(cli, [*words, "--dry-run"]).stdout
    assert "tiny-llama-Q8_0/tiny-llama-Q8_0-00001-of-00003.gguf  1.98 MB  in 3 parts" in shown
    assert all(f"tiny-llama-Q2_K-{number:05}-of-00003.gguf  " in shown for number in (1, 2, 3))
    told = json.loads(CliRunner().invoke(cli, [*words, "--dry-run", "--json"]).stdout)["outputs"]
    assert [(file["type"], file["part"], file["parts"]) for file in told][2:4] == [("Q8_0", 3, 3), ("Q2_K", 1, 3)]
    assert [len(files) for files in convert.plan_quantize(whole / "tiny-llama-F16.gguf", tmp_path).models] == [1] * 5
    assert list(tmp_path.iterdir()) == []


# --- Existing files, and all together or not at all


def test_parts_that_are_there_are_kept_and_others_are_not_replaced_unasked(whole: Path, tmp_path: Path) -> None:
    source, prefix, cut = whole / "tiny-llama-Q8_0.gguf", tmp_path / "m", SplitRequest(max_tensors=8)
    paths = [output.path for output in convert.split(source, prefix, cut).outputs]
    sound = digests(tmp_path)
    paths[1].unlink()
    assert [output.written for output in convert.split(source, prefix, cut).outputs] == [False, True, False]
    paths[2].write_bytes(paths[2].read_bytes()[:-1] + b"\xff")
    with pytest.raises(OutputError, match=r"`.*00003-of-00003.gguf` already there, and not what this run would make"):
        convert.split(source, prefix, cut)
    convert.split(source, prefix, cut, Writing(force=True))
    assert digests(tmp_path) == sound


def test_parts_of_another_split_are_not_mixed_in(whole: Path, tmp_path: Path) -> None:
    source, prefix = whole / "tiny-llama-Q8_0.gguf", tmp_path / "m"
    convert.split(source, prefix, SplitRequest(max_tensors=8))
    before = digests(tmp_path)
    for writing in (Writing(), Writing(force=True)):
        with pytest.raises(OutputError, match=r"holds parts of another split: `m-00001-of-00003\.gguf`, ") as caught:
            convert.split(source, prefix, SplitRequest(max_tensors=5), writing)
        assert "remove them" in (caught.value.hint or "")
    assert digests(tmp_path) == before
    convert.split(source, tmp_path / "m2", SplitRequest(max_tensors=5))  # whose name only begins alike


def test_where_one_part_cannot_be_published_none_is(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []
    publish = PartialFile.publish

    def fails_at_the_last(file: PartialFile) -> None:
        if len(published) == 2:
            raise OutputError("the disk fails")
        published.append(file.final.name)
        publish(file)

    monkeypatch.setattr(PartialFile, "publish", fails_at_the_last)
    with pytest.raises(OutputError, match="the disk fails"):
        convert.split(whole / "tiny-llama-Q8_0.gguf", tmp_path / "out" / "m", SplitRequest(max_tensors=8))
    assert published == ["m-00003-of-00003.gguf", "m-00002-of-00003.gguf"]  # a model's first part is the last to appear
    assert not (tmp_path / "out").exists()


def test_an_output_is_never_its_own_input(whole: Path, tmp_path: Path) -> None:
    one = convert.split(whole / "tiny-llama-Q8_0.gguf", tmp_path / "m", SplitRequest(max_size="1G")).outputs[0].path
    assert "is the input itself" in _error("split", one, tmp_path / "m", "--split-max-size", "1G", "--force").message
    assert "is the input itself" in _error("merge", one, one, "--force").message
    assert "is a directory, wanted a file" in _error("merge", one, tmp_path).message
    (tmp_path / "tiny-llama-F16").touch()
    taken = _error("quantize", whole / "tiny-llama-F16.gguf", tmp_path, "--types", "f16", *BY_TENSORS)
    assert f"`{tmp_path / 'tiny-llama-F16'}` is a file, wanted a directory" in taken.message


def test_more_files_than_a_process_may_open(whole: Path, tmp_path: Path) -> None:
    words = ["quantize", whole / "tiny-llama-F16.gguf", tmp_path / "out", "--types", "f16,q8_0,q4_0,q4_1,q5_0,q5_1"]
    command = " ".join(f"'{word}'" for word in (sys.executable, "-m", "convert", *words, "--split-max-tensors", 1))
    limited = subprocess.run(["sh", "-c", f"ulimit -n 100; {command}"], capture_output=True, text=True, check=False)
    assert limited.returncode == 6
    assert "120 files are to be written at once, more than this process may open" in limited.stderr
    assert not (tmp_path / "out").exists()
    raised = subprocess.run(["sh", "-c", f"ulimit -Sn 100; {command}"], capture_output=True, text=True, check=False)
    assert raised.returncode == 0, raised.stderr
    assert len(list((tmp_path / "out").glob("*/*.gguf"))) == 120


def test_a_killed_run_leaves_no_first_part_and_the_next_goes_over_it(whole: Path, tmp_path: Path) -> None:
    source, prefix, cut = whole / "tiny-llama-Q8_0.gguf", tmp_path / "out" / "m", SplitRequest(max_tensors=8)
    convert.split(source, tmp_path / "sound" / "m", cut)
    prefix.parent.mkdir()
    for number in (2, 3):  # as a run leaves it that is killed while it publishes
        shutil.copy(tmp_path / "sound" / f"m-0000{number}-of-00003.gguf", prefix.parent)
    (prefix.parent / ".m-00001-of-00003.gguf.partial").write_bytes(b"GGUF")
    assert [output.written for output in convert.split(source, prefix, cut).outputs] == [True, False, False]
    assert digests(prefix.parent) == digests(tmp_path / "sound")
    assert read_gguf(prefix.with_name("m-00001-of-00003.gguf")).metadata["split.count"] == 3
