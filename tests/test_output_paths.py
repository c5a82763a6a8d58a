"""Where outputs go: one rule for every command, and names with dots in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import convert
from convert.cli import cli
from convert.errors import OutputError
from convert.plan import gguf_name

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def f16(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a float file to quantize."""
    out = tmp_path_factory.mktemp("f16") / "tiny-F16.gguf"
    convert.convert_one(tiny_llama, out)
    return out


def _error(*words: object) -> OutputError:
    error = CliRunner().invoke(cli, [str(word) for word in words]).exception
    assert isinstance(error, OutputError), error
    return error


WANTED = {
    "out.gguf": "is called like a file, wanted a directory",
    "deep/out.GGUF": "is called like a file, wanted a directory",
    "model.safetensors": "is called like a file, wanted a directory",
    "a-file": "a-file` is a file, wanted a directory",
    "a-file/below": "a-file` is a file, wanted a directory",
    "nowhere": "a link that leads nowhere, wanted a directory",
}


@pytest.mark.parametrize("out", WANTED)
@pytest.mark.parametrize("command", ["all", "quantize", "dequantize"])
def test_what_cannot_be_a_directory_is_refused_before_the_work(
    command: str, out: str, tiny_llama: Path, f16: Path, tmp_path: Path
) -> None:
    (tmp_path / "a-file").write_bytes(b"mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    error = _error(command, f16 if command == "quantize" else tiny_llama, tmp_path / out)
    assert WANTED[out] in error.message
    assert "name a directory" in (error.hint or "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-file", "nowhere"]


@pytest.mark.parametrize("command", ["all", "quantize"])
def test_a_directory_that_is_there_may_have_any_name(command: str, tiny_llama: Path, f16: Path, tmp_path: Path) -> None:
    (tmp_path / "my.gguf").mkdir()
    source = f16 if command == "quantize" else tiny_llama
    assert CliRunner().invoke(cli, [command, str(source), str(tmp_path / "my.gguf"), "--types", "q8_0"]).exit_code == 0


@pytest.mark.parametrize("out", ["q3/", "there", "there/", "."])
def test_one_file_is_not_written_to_a_directory(
    out: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    error = _error("gguf", tiny_llama, out, "--type", "q8_0")
    assert error.message == f"`{out}` is a directory, wanted a file"
    assert error.hint == f"name one, such as `{os.path.normpath(f'{out}/tiny-llama-Q8_0.gguf')}`"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("Llama-3.2-1B", "Llama-3.2-1B"),
        ("Llama-3.2-1B-F16", "Llama-3.2-1B"),
        ("Llama-3.2-1B.gguf", "Llama-3.2-1B"),
        ("Llama-3.2-1B-bf16.GGUF", "Llama-3.2-1B"),
        ("Qwen2.5-0.5B.f16.gguf", "Qwen2.5-0.5B"),
        (".gguf", ""),
        ("v1.0", "v1.0"),
    ],
)
def test_only_gguf_is_a_suffix(name: str, stem: str) -> None:
    assert gguf_name(f"/models/{name}") == stem


def test_a_file_without_a_suffix_keeps_its_name(f16: Path, tmp_path: Path) -> None:
    (tmp_path / "Llama-3.2-1B").write_bytes(f16.read_bytes())
    report = convert.quantize(tmp_path / "Llama-3.2-1B", convert.OutputRequest(tmp_path, types="q4_0"))
    assert [output.path.name for output in report.outputs] == ["Llama-3.2-1B-Q4_0.gguf"]
