"""`verify` on files of other families than a Llama's, on odd alignments, and with texts that are too short."""

from __future__ import annotations

import subprocess
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from damage import notes, problems, with_metadata
from gguf import GGUFWriter

import convert
from convert.errors import UsageError
from convert.llama_cpp.environment import environment
from convert.process import ask
from convert.verify import LlamaCpp, Measuring, verify_files

if TYPE_CHECKING:
    from pathlib import Path

    from reference import Reference


def _file(path: Path, arch: str, tensors: dict[str, tuple[int, ...]], **keys: int) -> Path:
    writer = GGUFWriter(path, arch)
    for key, value in keys.items():
        writer.add_uint32(f"{arch}.{key.replace('__', '.')}", value)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


OTHERS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, int]]] = {
    "clip": ({"v.blk.0.attn_q.weight": (32, 32), "mm.0.weight": (32, 32)}, {"vision__block_count": 1}),
    "mamba": (
        {"token_embd.weight": (8, 32), "blk.0.ssm_in.weight": (64, 32)},
        {"attention__head_count": 0, "block_count": 1, "embedding_length": 32},
    ),
    "t5": ({"token_embd.weight": (8, 32), "enc.blk.0.attn_q.weight": (32, 32)}, {"block_count": 1}),
    "whatever-comes": ({"a": (32,)}, {}),
}


@pytest.mark.parametrize("arch", OTHERS)
def test_a_family_that_is_not_known_is_not_measured_by_anothers_rules(arch: str, tmp_path: Path) -> None:
    tensors, keys = OTHERS[arch]
    path = _file(tmp_path / "m.gguf", arch, tensors, **keys)
    assert problems(path) == []
    assert any(f"what files of `{arch}` have is not known here" in note for note in notes(path))


def test_a_family_that_is_known_still_is(tmp_path: Path) -> None:
    path = _file(tmp_path / "m.gguf", "llama", {"token_embd.weight": (8, 32)}, attention__head_count=0, block_count=1)
    found = problems(path)
    assert "metadata: `llama.attention.head_count` is 0, not a positive integer" in found
    assert "metadata: `llama.block_count` is 1, the file has blocks none" in found


@pytest.mark.parametrize(("n_blocks", "n_problems"), [(3, 0), (2, 0), (1, 1)])
def test_blocks_that_predict_several_tokens_may_be_missing_all_of_them(
    n_blocks: int, n_problems: int, tmp_path: Path
) -> None:
    tensors: dict[str, tuple[int, ...]] = {f"blk.{block}.attn_norm.weight": (32,) for block in range(n_blocks)}
    path = _file(tmp_path / "m.gguf", "glm4moe", tensors, block_count=3, nextn_predict_layers=1)
    assert len([text for text in problems(path) if "block_count" in text]) == n_problems


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sound file."""
    out = tmp_path_factory.mktemp("model") / "m.gguf"
    convert.convert_one(tiny_llama, out, type="q8_0")
    return out


@pytest.mark.parametrize("alignment", [1, 8, 16])
def test_an_alignment_at_which_llama_cpp_aborts_is_a_problem(
    alignment: int, reference: Reference, model: Path, tmp_path: Path
) -> None:
    odd = with_metadata(model, tmp_path / "odd.gguf", alignment=alignment, general__alignment=alignment)
    assert problems(odd)[0] == f"structure: `general.alignment` is {alignment}, llama.cpp aborts below 32"
    if alignment == 8:
        command = [str(reference.completion), "-m", str(odd), "-p", "x", "-n", "1", "-no-cnv", "--no-repack"]
        finished = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
        assert b"buffer pointer must be aligned" in finished.stderr + finished.stdout
        assert finished.returncode < 0


@pytest.mark.parametrize("text", ["", "Once upon a time", "."])
def test_a_text_that_is_too_short_is_not_the_files_fault(
    text: str, reference: Reference, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text(text)
    asked = partial(ask, timeout_s=60, env=environment(reference.completion))
    programs = LlamaCpp(reference.completion, reference.perplexity, asked)
    with pytest.raises(UsageError, match=r"is too short to measure: it gives \d+ tokens, 16 are needed") as caught:
        verify_files([model], measuring=Measuring(programs, text=tmp_path / "text"))
    assert "some 128 characters are enough" in (caught.value.hint or "")
