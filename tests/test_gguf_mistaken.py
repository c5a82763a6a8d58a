"""What is passed where a GGUF file is wanted: every reader tells what it is."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFWriter
from safetensors.numpy import save

import convert
from convert.cli import cli
from convert.errors import ConvertError, UnsupportedError
from convert.gguf_file import read_gguf

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
MISTAKEN: dict[str, tuple[bytes, str, str]] = {
    "pointer": (POINTER, "is a git-lfs pointer", "git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html>", "is an HTML or XML page", "hf download"),
    "denied": (b'<?xml version="1.0"?><Error>AccessDenied', "is an HTML or XML page", "hf download"),
    "json": (b'{"error":"Repository not found"}', "is JSON", "hf download"),
    "ggjt": (struct.pack("<II", 0x67676A74, 3), "is in the old format GGJT", "older than GGUF"),
    "ggml": (struct.pack("<I", 0x67676D6C), "is in the old format GGML", "older than GGUF"),
    "ggla": (struct.pack("<II", 0x67676C61, 1), "is an adapter in the old format GGLA", "older than GGUF"),
    "safetensors": (save({"a": np.zeros(8, np.float32)}), "is a safetensors file", "convert all"),
    "torch": (b"PK\3\4" + bytes(60), "is a PyTorch file, or an archive", "convert all"),
    "gzip": (gzip.compress(b"GGUF"), "is compressed", "unpack"),
    "empty": (b"", "is empty", "hf download"),
    "zeros": (bytes(5000), "begins with zeros", "hf download"),
    "else": (b"abcdefgh", "is not a GGUF file: it starts with b'abcd'", ""),
}
READERS = ("quantize FILE OUT", "inspect FILE", "run FILE -p x", "verify FILE")


def _error(command: str, file: Path, out: Path) -> ConvertError:
    words = [{"FILE": str(file), "OUT": str(out)}.get(word, word) for word in command.split()]
    error = CliRunner().invoke(cli, words).exception
    assert isinstance(error, ConvertError), error
    return error


# What is older than GGUF `quantize` reads itself.
_PAIRS = [(command, kind) for command in READERS for kind in MISTAKEN
          if not (command.startswith("quantize") and kind in ("ggjt", "ggml"))]  # fmt: skip


@pytest.mark.parametrize(("command", "kind"), _PAIRS)
def test_a_file_of_another_kind_is_named_by_every_reader(command: str, kind: str, tmp_path: Path) -> None:
    content, what, way_out = MISTAKEN[kind]
    (tmp_path / "model.gguf").write_bytes(content)
    error = _error(command, tmp_path / "model.gguf", tmp_path / "out")
    assert what in error.message
    if not command.startswith("verify"):  # which shows a table, and then the first problem
        assert way_out in (error.hint or "")


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("what", ["checkpoint", ".", "ggufs", "gone"])
def test_a_path_of_another_kind_is_named_by_every_reader(
    what: str, command: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command.startswith("inspect") and what != "gone":
        return  # takes a checkpoint's directory
    shutil.copytree(tiny_llama, tmp_path / "checkpoint")
    (tmp_path / "ggufs").mkdir()
    (tmp_path / "ggufs" / "a.gguf").touch()
    (tmp_path / "gome").touch()
    monkeypatch.chdir(tmp_path / "checkpoint")
    error = _error(command, tiny_llama if what == "." else tmp_path / what, tmp_path / "out")
    wanted = {
        "checkpoint": ("it holds a checkpoint", "convert all MODEL OUTDIR"),
        ".": ("it holds a checkpoint", "convert all MODEL OUTDIR"),
        "ggufs": ("is a directory, wanted a GGUF file", "name one in it: `a.gguf`"),
        "gone": ("does not exist", f"is it `{tmp_path / 'gome'}`?"),
    }[what]
    assert wanted[0] in error.message
    assert wanted[1] in (error.hint or "")


def test_versions_that_are_not_read_name_the_way_out(tmp_path: Path) -> None:
    for data, way_out in (
        (struct.pack("<4sI", b"GGUF", 1), "get a newer GGUF"),
        (struct.pack(">4sI", b"GGUF", 3), "gguf-convert-endian FILE little"),
        (struct.pack("<4sI", b"GGUF", 4), "newer than this version"),
    ):
        (tmp_path / "m.gguf").write_bytes(data + bytes(100))
        with pytest.raises(UnsupportedError) as caught:
            read_gguf(tmp_path / "m.gguf")
        assert way_out in (caught.value.hint or "")


def test_a_big_endian_file_is_turned_round_by_what_the_hint_names(tmp_path: Path) -> None:
    from gguf import GGUFEndian

    writer = GGUFWriter(tmp_path / "m.gguf", "llama", endianess=GGUFEndian.BIG)
    writer.add_tensor("token_embd.weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(UnsupportedError, match="is big endian"):
        read_gguf(tmp_path / "m.gguf")
    tool = Path(sys.executable).with_name("gguf-convert-endian")
    subprocess.run([str(tool), str(tmp_path / "m.gguf"), "little"], check=True, input=b"YES\n")
    assert read_gguf(tmp_path / "m.gguf").tensors[0].shape == (2, 32)


def test_a_type_that_nothing_is_made_of_is_not_called_quantized(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 32), np.float64))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(UnsupportedError, match=r"is F64, from which nothing is made") as caught:
        convert.quantize(tmp_path / "m.gguf", tmp_path / "out")
    assert "twice" not in (caught.value.hint or "")
