"""Locks: what files were made from, and that they are made again from it, byte for byte."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner
from meta_checkpoints import MetaRow, write_meta
from peft_adapters import write_adapter

from convert.cli import cli
from convert.errors import CheckpointError, ConvertError, RecipeError, VerificationError
from convert.recipe import LOCK_FILE, Asked, file_digests, lock_outputs, read_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from click.testing import Result


def run(*words: object) -> Result:
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, (ConvertError, SystemExit)):
        raise result.exception
    return result


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


def sha256s(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def test_a_lock_has_the_sha256_of_every_input_and_output(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("all", model, out, "--types", "f16,q8_0", "--lock").exit_code == 0
    (work,) = json.loads((out / LOCK_FILE).read_text())["works"]
    (source,) = work["inputs"]
    assert (source["role"], source["place"]) == ("model", "../llama")
    assert {file["name"]: file["sha256"] for file in source["files"]} == sha256s(model)
    outputs = {file["name"]: file["sha256"] for file in work["outputs"]}
    assert outputs == {name: digest for name, digest in sha256s(out).items() if name != LOCK_FILE}
    assert {"convert", "python", "numpy", "torch", "transformers", "tokenizers"} <= set(work["made_with"]["versions"])
    assert len(work["made_with"]["llama_cpp"]) == 40


def test_a_lock_beside_its_model_is_reproduced_elsewhere(model: Path, tmp_path: Path) -> None:
    write_adapter(model, tmp_path / "adapter")
    words = ("--merge", f"{tmp_path / 'adapter'}:0.5", "--types", "q4_k_m", "--tensor-type", "attn_v=q8_0", "--pure")
    run("all", model, tmp_path / "out", *words, "--lock")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("llama", "adapter", "out"):
        (tmp_path / name).rename(moved / name)
    result = run("reproduce", moved / "out" / LOCK_FILE, tmp_path / "again")
    assert (result.exit_code, result.stdout) == (0, "equal  llama-Q4_K_M.gguf\n")
    assert sha256s(tmp_path / "again")["llama-Q4_K_M.gguf"] == sha256s(moved / "out")["llama-Q4_K_M.gguf"]


@pytest.mark.parametrize("command", ["gguf", "quantize"])
def test_each_command_that_writes_gguf_is_reproduced(command: str, model: Path, tmp_path: Path) -> None:
    if command == "gguf":
        run("gguf", model, tmp_path / "out" / "own.gguf", "--type", "q5_1", "--lock")
    else:
        run("gguf", model, tmp_path / "own-F16.gguf")
        run("quantize", tmp_path / "own-F16.gguf", tmp_path / "out", "--types", "q4_0,q5_1", "--lock")
    result = run("reproduce", tmp_path / "out")
    assert result.exit_code == 0
    assert all(line.startswith("equal  own") for line in result.stdout.splitlines())


def test_parts_are_locked_one_by_one_in_and_out(model: Path, tmp_path: Path) -> None:
    run("gguf", model, tmp_path / "own-F16.gguf", "--split-max-tensors", "8")
    first = tmp_path / "own-F16" / "own-F16-00001-of-00003.gguf"
    run("quantize", first, tmp_path / "out", "--types", "q8_0", "--keep-split", "--lock")
    (work,) = read_lock(tmp_path / "out" / LOCK_FILE).works
    assert [file.name for file in work.inputs[0].files] == [f"own-F16-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    names = [f"own-Q8_0/own-Q8_0-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    assert [file.name for file in work.outputs] == names
    assert run("reproduce", tmp_path / "out").stdout.splitlines() == [f"equal  {name}" for name in names]


def test_another_programs_checkpoint_is_locked_with_all_its_parts(tmp_path: Path) -> None:
    own = write_meta(MetaRow("meta", "2", 2), tmp_path / "meta")
    (tmp_path / "words").mkdir()
    (own / "tokenizer.model").rename(tmp_path / "words" / "tokenizer.model")
    run("all", own, tmp_path / "out", "--types", "q8_0", "--tokenizer", tmp_path / "words", "--context", 64, "--lock")
    (work,) = read_lock(tmp_path / "out" / LOCK_FILE).works
    read = {each.role: [file.name for file in each.files] for each in work.inputs}
    parts = ["consolidated.00.pth", "consolidated.01.pth"]
    assert read == {"model": ["params.json", *parts], "tokenizer": ["tokenizer.model"]}
    assert run("reproduce", tmp_path / "out").stdout == "equal  meta-Q8_0.gguf\n"


def test_a_changed_input_is_named(model: Path, tmp_path: Path) -> None:
    run("all", model, tmp_path / "out", "--types", "f16,q8_0", "--lock")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    (model / "generation_config.json").unlink()
    result = run("reproduce", tmp_path / "out")
    assert isinstance(result.exception, ConvertError)
    assert result.exception.exit_code == 9
    assert result.exception.message == "not equal to the lock: `llama-F16.gguf`, `llama-Q8_0.gguf`"
    assert "changed: the model's `generation_config.json` is missing\n" in result.stderr
    assert "changed: the model's `model.safetensors` has changed\n" in result.stderr
    assert result.stdout == "differs  llama-F16.gguf\ndiffers  llama-Q8_0.gguf\n"


def test_a_missing_model_is_named_and_may_lie_elsewhere(model: Path, tmp_path: Path) -> None:
    run("all", model, tmp_path / "out", "--types", "q8_0", "--lock")
    (tmp_path / "elsewhere").mkdir()
    elsewhere = model.rename(tmp_path / "elsewhere" / "llama")
    result = run("reproduce", tmp_path / "out")
    assert isinstance(result.exception, CheckpointError)
    assert str(model) in result.exception.message
    found = run("reproduce", tmp_path / "out", "--model", elsewhere)
    assert "changed" not in found.stderr
    assert found.stdout == "equal  llama-Q8_0.gguf\n"


def test_a_model_under_another_name_is_told_and_a_link_of_the_old_name_is_equal(model: Path, tmp_path: Path) -> None:
    model = model.rename(tmp_path / "tiny-llama")  # of another base name
    assert run("all", model, tmp_path / "out", "--types", "q4_0", "--lock").exit_code == 0
    other = model.rename(tmp_path / "other")
    result = run("reproduce", tmp_path / "out", "--model", other)
    assert isinstance(result.exception, VerificationError)
    assert str(result.exception.hint).startswith(f"the model was in `{model.name}`, and is in `other`")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / model.name).symlink_to(other)
    assert run("reproduce", tmp_path / "out", "--model", tmp_path / "links" / model.name).exit_code == 0


def test_a_file_made_anew_is_in_the_newest_work_alone(model: Path, tmp_path: Path) -> None:
    run("all", model, tmp_path / "out", "--types", "f16,q8_0,q4_k_m", "--lock")
    run("all", model, tmp_path / "out", "--types", "q4_k_m", "--pure", "--force", "--lock")
    first, second = read_lock(tmp_path / "out" / LOCK_FILE).works
    assert [file.name for file in first.outputs] == ["llama-F16.gguf", "llama-Q8_0.gguf"]
    assert [file.name for file in second.outputs] == ["llama-Q4_K_M.gguf"]
    assert run("reproduce", tmp_path / "out").stdout.count("equal") == 3


def test_versions_that_are_others_now_are_said(model: Path, tmp_path: Path) -> None:
    run("all", model, tmp_path / "out", "--types", "q8_0", "--lock")
    lock = tmp_path / "out" / LOCK_FILE
    lock.write_text(lock.read_text().replace('"numpy": "', '"numpy": "0.'))
    result = run("reproduce", lock)
    assert result.exit_code == 0
    assert "changed: numpy 0." in result.stderr


def test_a_snapshot_of_the_hub_is_locked_with_its_repository_and_commit(tiny_llama: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--some--llama" / "snapshots" / commit
    shutil.copytree(tiny_llama, snapshot)
    lock = lock_outputs(tmp_path, Asked("all", {"model": snapshot, "outdir": tmp_path}), [])
    assert [(each.repository, each.commit) for each in lock.works[0].inputs] == [("some/llama", commit)]


def test_reading_files_is_shown_byte_by_byte(model: Path) -> None:
    seen: list[tuple[str, int]] = []

    @contextmanager
    def reading(total: int) -> Iterator[Callable[[int], None]]:
        seen.append(("total", total))
        yield lambda nbytes: seen.append(("read", nbytes))

    paths = sorted(model.iterdir())
    digests = file_digests(paths, reading=reading, jobs=2)
    assert {path.name: digest.sha256 for path, digest in digests.items()} == sha256s(model)
    total = sum(path.stat().st_size for path in paths)
    assert seen[0] == ("total", total)
    assert sum(nbytes for what, nbytes in seen if what == "read") == total


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no lock:"),
        ("[]", "is no lock of version 1"),
        ('{"lock": 2}', "`2`"),
        ('{"lock": 1}', "no whole lock"),
        ('{"lock": 1, "works": [3]}', "no whole lock"),
    ],
)
def test_what_is_no_lock_is_told(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_lock(tmp_path / LOCK_FILE)
    assert said in caught.value.message


HOSTILE: Final[Mapping[str, Callable[[dict[str, Any]], object]]] = {
    "its command is `run`": lambda work: work["asked"].update(command="run"),
    "`../elsewhere`": lambda work: work["asked"]["options"].update(outdir="../elsewhere"),
    "`/etc/x.gguf`": lambda work: work["outputs"][0].update(name="/etc/x.gguf"),
    "with options `[]`": lambda work: work["asked"].update(options=[]),
    "the lock lets code of the checkpoint run": (
        lambda work: work["asked"]["options"].update({"trust-remote-code": True})
    ),
}


@pytest.mark.parametrize("said", HOSTILE)
def test_a_lock_from_elsewhere_can_ask_for_no_more_than_its_outputs(said: str, model: Path, tmp_path: Path) -> None:
    run("all", model, tmp_path / "out", "--types", "q8_0", "--lock")
    lock = tmp_path / "out" / LOCK_FILE
    document = json.loads(lock.read_text())
    HOSTILE[said](document["works"][0])
    lock.write_text(json.dumps(document))
    result = run("reproduce", lock, tmp_path / "again")
    assert isinstance(result.exception, RecipeError)
    assert said in result.exception.message
    assert not (tmp_path / "again").exists()


def test_what_a_lock_says_of_where_programs_are_is_not_heeded(model: Path, tmp_path: Path) -> None:
    run("all", model, tmp_path / "out", "--types", "q8_0", "--lock")
    lock = tmp_path / "out" / LOCK_FILE
    lock.write_text(lock.read_text().replace('"frontend": "auto"', '"frontend": "auto", "dir": "/evil", "with": "x"'))
    assert not {"dir", "with"} & set(read_lock(lock).works[0].asked.options)
    assert run("reproduce", lock).exit_code == 0
