"""`llama-quantize` as a function: any type it knows, and nothing half written."""

from __future__ import annotations

import hashlib
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import reference as llama_cpp
from click.testing import CliRunner

import convert
import convert.llama_cpp
from convert.cli import cli
from convert.errors import CheckpointError, ConvertError, OutputError, ProgramError, UsageError
from convert.llama_cpp.quantize import known_types, quantize_with_llama_cpp
from convert.verify import verify_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference import Reference

    from convert.errors import Remedy

HELP: Final = (
    "  15  or  Q4_K_M  :  4.58G, +0.1754 ppl\n  24  or  IQ1_S   :  1.56 bpw quantization\n          COPY    : only\n"
)


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float, float]] = []

    def say(self, text: str, remedies: Sequence[Remedy] = ()) -> None:
        """Take a line."""

    def advance(self, what: str, done: float, total: float) -> None:
        """Take a step."""
        self.steps.append((what, done, total))


@pytest.fixture(scope="module")
def f16(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a float file to quantize."""
    out = tmp_path_factory.mktemp("f16") / "tiny-F16.gguf"
    convert.convert_one(tiny_llama, out)
    return out


def _fake(folder: Path, body: str) -> Path:
    """Write a program that offers two types and does as `body` says; $PARTIAL is the file it is to write."""
    program = folder / "llama-quantize"
    script = f"#!/bin/sh\nif [ \"$1\" = --help ]; then printf '%s' '{HELP}'; exit 1; fi\n"
    script += f'for word; do case "$word" in *.partial) PARTIAL="$word";; esac; done\n{body}\n'
    program.write_text(script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_exact_command_line(f16: Path, tmp_path: Path) -> None:
    program = _fake(tmp_path, 'for word; do echo "$word"; done > "$PARTIAL"')
    out, imatrix = tmp_path / "out" / "m.gguf", tmp_path / "imatrix"
    imatrix.write_bytes(b"")
    quantize_with_llama_cpp(program, f16, {"q4_k_m": out}, imatrix=imatrix, jobs=3, flags=["--pure"])
    words = out.read_text().splitlines()
    partial = words.pop(-3)
    assert words == ["--imatrix", str(imatrix), "--pure", str(f16), "Q4_K_M", "3"]
    assert partial.startswith(str(out.parent / ".m.gguf."))
    assert _names(out.parent) == ["m.gguf"]


def test_progress_is_the_programs_own_step_count(f16: Path, tmp_path: Path) -> None:
    program = _fake(tmp_path, 'echo "[   1/  47]  token_embd"; echo "size"; echo "[  47/  47] x"; : > "$PARTIAL"')
    heard = Heard()
    quantize_with_llama_cpp(program, f16, {"Q4_K_M": tmp_path / "m.gguf"}, reporter=heard)
    assert heard.steps == [("quantizing to Q4_K_M", 1, 47), ("quantizing to Q4_K_M", 47, 47)]


def test_a_failure_leaves_no_file_and_names_the_log(f16: Path, tmp_path: Path) -> None:
    program = _fake(tmp_path, 'echo half > "$PARTIAL"; echo "no imatrix"; exit 3')
    out = tmp_path / "out" / "m.gguf"
    with pytest.raises(ProgramError, match="quantizing to IQ1_S failed") as caught:
        quantize_with_llama_cpp(program, f16, {"IQ1_S": out})
    assert caught.value.exit_code == 7
    assert "no imatrix" in (caught.value.hint or "")
    assert _names(out.parent) == []
    assert caught.value.log is not None
    assert "no imatrix" in caught.value.log.read_text()
    caught.value.log.unlink()


def test_a_disk_without_room_is_told_before_the_work(
    f16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _fake(tmp_path, 'echo "llama_model_quantize_impl: quant size  =   100.50 MiB (5.07 BPW)"')
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 100 << 20))
    with pytest.raises(OutputError, match=r"the outputs need 105381888 bytes, .* has 104857600 free"):
        quantize_with_llama_cpp(program, f16, {"Q4_K_M": tmp_path / "out" / "m.gguf"})
    assert _names(tmp_path) == ["llama-quantize"]


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (["--types", "zzz", "--dry-run"], 2, "knows no type `ZZZ`"),
        (["--types", "q4_k_m", "--json", "--dry-run"], 2, "--json does not go with --with llama.cpp"),
        (["--types", "q4_k_m", "--allow-nonfinite"], 2, "--allow-nonfinite does not go with"),
    ],
)
def test_what_the_command_cannot_do_is_an_error(
    words: list[str], exit_code: int, said: str, f16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _fake(tmp_path, "exit 9")
    asked: list[Path | None] = []

    def find(role: str, directory: Path | None) -> Path:
        assert role == "quantize"
        asked.append(directory)
        return program

    monkeypatch.setattr(convert.llama_cpp, "find_program", find)
    command = ["quantize", str(f16), str(tmp_path / "out"), "--with", "llama.cpp", "--dir", "/mine", *words]
    result = CliRunner().invoke(cli, command)
    error = result.exception
    text = error.message if isinstance(error, ConvertError) else result.output
    code = error.exit_code if isinstance(error, ConvertError) else result.exit_code
    assert (code, said in text) == (exit_code, True), text
    assert set(asked) <= {Path("/mine")}
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_is_refused_before_the_work(f16: Path, tmp_path: Path) -> None:
    program = _fake(tmp_path, "exit 9")
    there = tmp_path / "there.gguf"
    there.write_bytes(b"mine")
    with pytest.raises(UsageError, match="knows no type `Q9_9`"):
        quantize_with_llama_cpp(program, f16, {"q9_9": tmp_path / "m.gguf"})
    with pytest.raises(OutputError, match="already there"):
        quantize_with_llama_cpp(program, f16, {"Q4_K_M": there})
    with pytest.raises(UsageError, match="the input itself"):
        quantize_with_llama_cpp(program, f16, {"Q4_K_M": f16}, force=True)
    with pytest.raises(CheckpointError, match="is not a file"):
        quantize_with_llama_cpp(program, tmp_path / "absent.gguf", {"Q4_K_M": tmp_path / "m.gguf"})
    assert there.read_bytes() == b"mine"


def test_the_built_program_makes_k_quants_that_verify(
    reference: Reference, f16: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    assert {"Q4_K_M", "IQ4_XS", "Q8_0"} <= set(known_types(reference.quantize))
    heard = Heard()
    outputs = {kind: tmp_path / f"tiny-{kind}.gguf" for kind in ("Q4_K_M", "Q3_K_S", "IQ4_XS", "Q8_0")}
    written = quantize_with_llama_cpp(reference.quantize, f16, outputs, reporter=heard)
    assert heard.steps
    assert heard.steps[-1][1] == heard.steps[-1][2]
    verify_files(written, against=tiny_llama).check()
    llama_cpp.quantize(reference, f16, tmp_path / "theirs.gguf", "Q8_0")
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (outputs["Q8_0"], tmp_path / "theirs.gguf")}
    assert len(hashes) == 1


def test_a_type_that_needs_an_importance_matrix_says_so(reference: Reference, f16: Path, tmp_path: Path) -> None:
    with pytest.raises(ProgramError) as caught:
        quantize_with_llama_cpp(reference.quantize, f16, {"IQ1_S": tmp_path / "m.gguf"})
    assert caught.value.log is not None
    assert "importance matrix" in caught.value.log.read_text().lower()
    assert not (tmp_path / "m.gguf").exists()
