"""Paths that are not there: a name nearly right, a model of the Hub, its page; and paths that may not be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from convert.checkpoint import open_checkpoint
from convert.cli import cli
from convert.errors import CheckpointError, ConvertError


def _refusal(path: str) -> tuple[str, str]:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(Path(os.path.abspath(path)))
    return caught.value.message, caught.value.hint or ""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.mark.parametrize(
    "asked", ["my-finetuned-lama", "my-finetuned_llama", "My-finetuned-llama", "my-finetuned-llama1"]
)
def test_a_name_that_is_nearly_right_is_suggested(asked: str, tmp_path: Path) -> None:
    (tmp_path / "my-finetuned-llama").mkdir()
    (tmp_path / "something-else").mkdir()
    assert _refusal(asked)[1] == f"is it `{tmp_path / 'my-finetuned-llama'}`?"


def test_a_model_of_the_hub_is_found_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hf download me/llama --local-dir DIR" in _refusal("me/llama")[1]
    for cache, variable in ((tmp_path / "hf" / "hub", None), (tmp_path / "other", "HF_HUB_CACHE")):
        if variable:
            monkeypatch.setenv(variable, str(cache))
            assert "hf download" in _refusal("me/llama")[1]
        snapshot = cache / "models--me--llama" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        assert _refusal("me/llama")[1] == f"it is in the Hub's cache: name `{cache / 'models--me--llama'}`"


@pytest.mark.parametrize(
    "page",
    [
        "https://huggingface.co/me/llama",
        "http://www.huggingface.co/me/llama/tree/main",
        "https://hf.co/me/llama/resolve/main/model.safetensors?download=true",
    ],
)
def test_a_page_of_the_hub_is_told_for_what_it_is(page: str) -> None:
    message, hint = _refusal(page)
    assert message == f"`{page}` is a page of the Hugging Face hub"
    assert "hf download me/llama --local-dir DIR" in hint


@pytest.mark.parametrize("command", ["inspect", "all", "quantize", "verify"])
def test_what_may_not_be_read_says_so(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    real = os.open

    def opened(path: Path, *arguments: Any, **options: Any) -> int:  # noqa: ANN401 - os.open's own
        if Path(path).name == "m.gguf":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # by which Click would judge
    words = [command, "m.gguf", *(["out"] if command in ("all", "quantize") else [])]
    error = CliRunner().invoke(cli, words).exception
    said = error.message if isinstance(error, ConvertError) else str(error)
    assert "Permission denied" in said or "is a GGUF" in said
    assert "--help" not in said
