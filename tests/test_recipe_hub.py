"""Locks and recipes of models on the Hub: pinned to a commit, with the Hub's word for what is in them."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from remote_double import COMMIT, Double, lead_here, remote_double

from convert.cli import cli
from convert.errors import ConvertError
from convert.recipe import LOCK_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result


@pytest.fixture
def hub(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """Return the Hub's double, which has `me/tiny`; the current directory is an empty one."""
    with remote_double({"me/tiny": tiny_llama}) as double:
        lead_here(double, monkeypatch, tmp_path / "home")
        monkeypatch.chdir(tmp_path)
        yield double


def run(*words: object) -> Result:
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, (ConvertError, SystemExit)):
        raise result.exception
    return result


def sha256s(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.mark.parametrize("word", ["hf://me/tiny@main", "me/tiny"])
def test_a_lock_pins_a_model_of_the_hub_and_takes_its_word_for_the_weights(
    word: str, hub: Double, tiny_llama: Path, tmp_path: Path
) -> None:
    assert run("all", word, "out", "--types", "q8_0", "--lock").exit_code == 0
    (work,) = json.loads((tmp_path / "out" / LOCK_FILE).read_text())["works"]
    (source,) = work["inputs"]
    address = f"hf://me/tiny@{COMMIT}"
    assert work["asked"]["options"]["model"] == address
    assert (source["place"], source["repository"], source["commit"]) == (address, "me/tiny", COMMIT)
    assert {file["name"]: file["sha256"] for file in source["files"]} == sha256s(tiny_llama)
    sent = hub.sent
    assert run("reproduce", "out").stdout == "equal  tiny-Q8_0.gguf\n"
    assert hub.sent - sent < 1.1 * (tiny_llama / "model.safetensors").stat().st_size  # once, though hashed as well


def test_a_snapshot_that_has_left_the_cache_is_missed_with_the_command_that_brings_it_back(
    tiny_llama: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "cache" / "models--me--tiny" / "snapshots" / COMMIT
    shutil.copytree(tiny_llama, snapshot)
    run("all", snapshot, tmp_path / "out", "--types", "q8_0", "--lock")
    shutil.rmtree(tmp_path / "cache")
    result = run("reproduce", tmp_path / "out")
    assert isinstance(result.exception, ConvertError)
    assert result.exception.hint is not None
    assert f"`hf download me/tiny --revision {COMMIT}`" in result.exception.hint


def test_a_recipe_of_a_model_on_the_hub_makes_nothing_twice(hub: Double, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('models = "hf://me/tiny@main"\noutdir = "out/{model}"\ntypes = "q8_0"\n')
    assert run("recipe", "run", "r.toml").exit_code == 0
    assert [path.name for path in (tmp_path / "out" / "tiny").glob("*.gguf")] == ["tiny-Q8_0.gguf"]
    sent = hub.sent
    assert "made already" in run("recipe", "run", "r.toml").stderr
    assert hub.sent - sent < 10_000


def test_a_bare_name_in_a_recipe_is_a_path_and_told_what_else_it_may_be(hub: Double, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('models = "me/tiny"\noutdir = "out"\n')
    result = run("recipe", "check", "r.toml")
    assert isinstance(result.exception, ConvertError)
    assert "the model `me/tiny` is not there: on the Hub it is `hf://me/tiny`" in result.exception.message
    assert not hub.requests
