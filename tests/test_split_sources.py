"""Models in parts as the source of every command: the first stands for all; what does not belong together is told."""

from __future__ import annotations

import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from damage import notes, patched, problems, tensor_of, with_metadata
from gguf import GGUFWriter
from gguf_parts import BY_TENSORS, gguf_split, split_by_reference
from reference import quantize

import convert
from convert import OutputRequest
from convert.cli import cli
from convert.errors import CheckpointError, ConvertError, UnsupportedError, UsageError
from convert.gguf_file import as_one, part_of, read_gguf, read_parts
from convert.report.cache import Cache
from convert.report.measure import Measuring, ReportRequest, measure
from convert.verify import verify_files

if TYPE_CHECKING:
    from reference import Reference

READERS = ("quantize FILE OUT", "inspect FILE", "run FILE -p x", "verify FILE --no-llama-cpp", "merge FILE OUT.gguf")


@pytest.fixture(scope="module")
def parts(reference: Reference, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return a model in the three parts that llama-gguf-split makes of it, and the whole one beside them."""
    folder = tmp_path_factory.mktemp("split")
    convert.convert_one(tiny_llama, folder / "whole.gguf")
    return split_by_reference(reference, folder / "whole.gguf", folder / "tiny", *BY_TENSORS)


@pytest.fixture
def copied(parts: list[Path], tmp_path: Path) -> list[Path]:
    """Return copies of the parts, to be damaged."""
    return [Path(shutil.copy(path, tmp_path / path.name)) for path in parts]


def _error(command: str, file: Path, out: Path) -> ConvertError:
    words = [word.replace("FILE", str(file)).replace("OUT", str(out)) for word in command.split()]
    error = CliRunner().invoke(cli, words).exception
    assert isinstance(error, ConvertError), error
    return error


def _set(path: Path, key: str, value: int) -> None:
    """Change one of the numbers that say which part a file is, in place."""
    code, type_id = ("i", 5) if key == "split.tensors.count" else ("H", 2)
    before = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", type_id)
    raw = bytearray(path.read_bytes())
    at = raw.index(before) + len(before)
    raw[at : at + struct.calcsize(code)] = struct.pack(f"<{code}", value)
    path.write_bytes(raw)


# --- The first part stands for all


def test_a_model_in_parts_is_quantized_as_llama_quantize_does(
    parts: list[Path], reference: Reference, tmp_path: Path
) -> None:
    report = convert.quantize(parts[0], OutputRequest(tmp_path, "q8_0,q4_k_m,copy"))
    for output, kind in zip(report.outputs, ("Q8_0", "Q4_K_M", "COPY"), strict=True):
        assert output.path.name == f"tiny-{kind}.gguf"
        quantize(reference, parts[0], tmp_path / "theirs.gguf", kind)
        assert output.path.read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_inspect_and_verify_say_of_the_parts_what_they_say_of_the_whole(parts: list[Path]) -> None:
    whole, together = convert.inspect(parts[0].with_name("whole.gguf")), convert.inspect(parts[0])
    assert (together.tensors, together.stored, together.n_parameters) == (
        whole.tensors, whole.stored, whole.n_parameters,
    )  # fmt: skip
    assert together.notes == (f"in 3 parts, {sum(path.stat().st_size for path in parts)} bytes together",)
    assert notes(parts[0]) == ["split: it is in 3 parts, which are checked together"]


def test_verify_compares_the_parts_with_the_checkpoint_and_names_the_one_that_is_wrong(
    parts: list[Path], copied: list[Path], tiny_llama: Path, tmp_path: Path
) -> None:
    (file,) = verify_files(parts, against=tiny_llama).files  # as `*.gguf` names them
    assert (file.path, file.problems, len(file.errors)) == (parts[0], (), len(convert.inspect(parts[0]).tensors))
    assert problems(parts[0], against=parts[0].with_name("whole.gguf")) == []
    report = convert.quantize(parts[0], OutputRequest(tmp_path / "q", "q8_0"))
    assert problems(report.outputs[0].path, against=parts[0]) == []
    wrong = read_gguf(copied[1]).tensors[2]
    patched(copied[1], copied[1], wrong.offset, b"\xff" * 4)
    found = problems(copied[0])
    assert found[0].startswith(f"blocks: in `{copied[1].name}`, tensor `{wrong.name}`")


def test_a_part_with_metadata_alone_is_no_problem(
    parts: list[Path], reference: Reference, tiny_llama: Path, tmp_path: Path
) -> None:
    whole = parts[0].with_name("whole.gguf")
    for count in (8, 1000):  # the second has all tensors in one part
        flags = ("--split-max-tensors", count, "--no-tensor-first-split")
        first, second, *_ = split_by_reference(reference, whole, tmp_path / f"{count}" / "m", *flags)
        assert read_gguf(first).tensors == ()
        assert problems(first, against=tiny_llama) == []
        assert convert.inspect(first).tensors == convert.inspect(whole).tensors
        with pytest.raises(UsageError, match="is part 2 of"):
            convert.inspect(second)


def test_parts_as_the_converter_writes_them_are_merged_as_by_the_reference(
    reference: Reference, tmp_path: Path
) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2, small_first_shard=True)
    for index in range(5):
        writer.add_tensor(f"t{index}", np.full((2, 5), index, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    first = tmp_path / "m-00001-of-00004.gguf"
    convert.merge(first, tmp_path / "ours.gguf")
    assert gguf_split(reference, "--merge", first, tmp_path / "theirs.gguf").returncode == 0
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_what_all_writes_in_parts_it_verifies(tiny_llama: Path, tmp_path: Path) -> None:
    words = ["all", tiny_llama, tmp_path, "--types", "q8_0,q4_0", *BY_TENSORS, "--verify"]
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert result.exit_code == 0, result.exception
    assert re.search(r"tiny-llama-Q4_0-00001-of-00003\.gguf .* sound .* yes", result.stdout)


def test_a_report_measures_the_parts_as_it_does_the_whole(parts: list[Path], tiny_llama: Path, tmp_path: Path) -> None:
    convert.convert_one(tiny_llama, tmp_path / "q8_0.gguf", type="q8_0")
    request = ReportRequest((parts[0].with_name("whole.gguf"), tmp_path / "q8_0.gguf"))
    split = convert.split(tmp_path / "q8_0.gguf", tmp_path / "p", convert.SplitRequest(max_tensors=8)).outputs
    whole, together = (
        measure(replace(request, files=(request.files[0], path)), Measuring(None, Cache(tmp_path / "cache"))).subjects[
            1
        ]
        for path in (tmp_path / "q8_0.gguf", split[0].path)
    )
    assert together.weights == whole.weights
    assert whole.weights is not None
    assert together.size is not None
    assert together.size.nbytes == sum(output.nbytes for output in split)


def test_run_takes_the_first_part(parts: list[Path]) -> None:
    result = CliRunner().invoke(cli, ["run", str(parts[0]), "-p", "x", "-n", "1", "--", "--no-repack"])
    assert result.exit_code == 0, result.exception


def test_offsets_of_all_parts_together_are_those_of_one_file_after_another(parts: list[Path]) -> None:
    together = as_one(read_parts(parts[0]))
    content = b"".join(path.read_bytes() for path in parts)
    assert together.nbytes == len(content)
    for tensor in together.tensors:
        place = next((path, tensor_of(path, tensor.name)) for path in parts if tensor.name in _names(path))
        raw = place[0].read_bytes()[place[1].offset : place[1].offset + place[1].nbytes]
        assert content[tensor.offset : tensor.offset + tensor.nbytes] == raw


def _names(path: Path) -> set[str]:
    return {tensor.name for tensor in read_gguf(path).tensors}


# --- What does not belong together


@pytest.mark.parametrize("command", READERS)
def test_every_reader_says_which_part_to_give(command: str, parts: list[Path], tmp_path: Path) -> None:
    error = _error(command, parts[1], tmp_path / "out")
    assert isinstance(error, UsageError)
    assert error.message == f"`{parts[1]}` is part 2 of 3 of a split model"
    assert error.hint == f"give the first: `{parts[0]}`"


@pytest.mark.parametrize("command", READERS)
def test_every_reader_names_the_parts_that_are_missing(command: str, copied: list[Path], tmp_path: Path) -> None:
    for path in copied[1:]:
        path.unlink()
    error = _error(command, copied[0], tmp_path / "out")
    missing = ", ".join(f"`{path.name}`" for path in copied[1:])
    if command.startswith("verify"):  # which goes on to other files, and ends with what was found
        assert f"is not sound: `{copied[0]}` is part 1 of 3 of a split model, of which 2 are missing" in error.message
    else:
        assert f"`{copied[0]}` is part 1 of 3 of a split model, of which 2 are missing: {missing}" in error.message


def _another_models_part(copied: list[Path]) -> None:
    _set(copied[2], "split.tensors.count", 90)


def _same_number(copied: list[Path]) -> None:
    shutil.copy(copied[1], copied[2])


def _wrong_count(copied: list[Path]) -> None:
    _set(copied[1], "split.count", 4)


def _a_whole_file(copied: list[Path]) -> None:
    convert.merge(copied[0], copied[0].with_name("m.gguf"))
    copied[0].with_name("m.gguf").replace(copied[1])


def _same_tensors(copied: list[Path]) -> None:
    shutil.copy(copied[1], copied[2])
    _set(copied[2], "split.no", 2)


def _too_few(copied: list[Path]) -> None:
    for path in copied:
        _set(path, "split.tensors.count", 21)


def _truncated(copied: list[Path]) -> None:
    copied[2].write_bytes(copied[2].read_bytes()[:-100])


def _no_gguf(copied: list[Path]) -> None:
    copied[1].write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


FAULTS = {
    _another_models_part: r"`.*tiny-00003-of-00003\.gguf` is of a model of 90 tensors, `tiny-00001-.*` of one of 20",
    _same_number: r"`.*tiny-00003-of-00003\.gguf` is part 2 of 3 of a split model, wanted part 3 of 3 of a split model",
    _wrong_count: r"`.*tiny-00002-of-00003\.gguf` is part 2 of 4 of a split model, wanted part 2 of 3 of a split model",
    _a_whole_file: r"`.*tiny-00002-of-00003\.gguf` is not a part of a split model, wanted part 2 of 3",
    _same_tensors: r"tensor `.*` is in `tiny-00002-of-00003\.gguf`, `tiny-00003-of-00003\.gguf`",
    _too_few: r"the parts of `.*tiny-00001-of-00003\.gguf` have 20 tensors together, the model 21",
    _truncated: r"`.*tiny-00003-of-00003\.gguf` is not a sound GGUF file: tensor `.*` ends at",
    _no_gguf: r"`.*tiny-00002-of-00003\.gguf` is a git-lfs pointer",
}


@pytest.mark.parametrize("damage", FAULTS, ids=lambda damage: damage.__name__)
def test_parts_that_do_not_belong_together_are_named(damage: object, copied: list[Path], tmp_path: Path) -> None:
    assert callable(damage)
    damage(copied)
    for command in READERS:
        error = _error(command, copied[0], tmp_path / "out")
        assert re.search(FAULTS[damage], error.message), error.message
    assert not (tmp_path / "out").exists()


def test_of_a_directory_of_parts_the_first_is_named(parts: list[Path]) -> None:
    error = _error("quantize FILE OUT", parts[0].parent, parts[0].with_name("out"))
    assert error.hint == "name one in it: `tiny-00001-of-00003.gguf`, `whole.gguf`"


def test_a_first_part_under_another_name_is_told_what_it_must_be_called(copied: list[Path]) -> None:
    renamed = copied[0].rename(copied[0].with_name("model.gguf"))
    with pytest.raises(CheckpointError, match=r"is part 1 of 3 of a split model, and is not called so") as caught:
        read_parts(renamed)
    assert "`NAME-00001-of-00003.gguf`" in (caught.value.hint or "")


def test_an_absurd_number_of_parts_is_not_looked_for(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m-00001-of-4000000000.gguf", "llama")
    writer.add_uint32("split.count", 4_000_000_000)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(CheckpointError, match="part 1 of 4000000000 of a split model, at most 65535 are possible"):
        read_parts(tmp_path / "m-00001-of-4000000000.gguf")


def test_keys_of_a_split_in_a_whole_file_are_no_matter(parts: list[Path], tmp_path: Path) -> None:
    whole = parts[0].with_name("whole.gguf")
    n_tensors = len(read_gguf(whole).tensors)
    stale = with_metadata(whole, tmp_path / "m.gguf", split__count=3, split__tensors__count=n_tensors, split__no=0)
    assert part_of(read_gguf(stale)) is None
    assert problems(stale) == []
    report = convert.quantize(stale, OutputRequest(tmp_path, types="q8_0"))
    assert not [key for key in read_gguf(report.outputs[0].path).metadata if key.startswith("split.")]


def test_what_is_whole_is_not_merged_and_what_is_in_parts_is_not_split(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a whole file, wanted the first part of a split one"):
        convert.merge(parts[0].with_name("whole.gguf"), tmp_path / "m.gguf")
    with pytest.raises(UnsupportedError, match="is in 3 parts already"):
        convert.split(parts[0], tmp_path / "p", convert.SplitRequest(max_tensors=2))
    assert list(tmp_path.iterdir()) == []
