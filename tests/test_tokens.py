"""Tokens: what llama-tokenize makes of a text, with the vocabulary we write, is what Hugging Face's tokenizer makes.

For every shared tokenizer, on llama.cpp's own cases: its expected ids, and ours by way of a GGUF file, and HF's.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from checkpoint_configs import llama
from checkpoint_layouts import write_safetensors
from checkpoint_weights import make_weights, tensor_shapes

import convert
from convert.errors import ToolchainError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from reference import Reference

SEPARATOR: Final = "\n__ggml_vocab_test__\n"

Ids = list[int]


@dataclass(frozen=True)
class TokenizerRow:
    """A shared tokenizer and llama.cpp's cases for it.

    pre_tokenizer: said by hand, where the files (vocab.json and merges.txt alone) declare none.
    differs: the numbers of the cases where a file that equals the reference's, byte for byte, makes other tokens than
    Hugging Face's tokenizer and llama.cpp's own expected ids. reason: why.
    """

    folder: str
    cases: str
    vocab_size: int
    pre_tokenizer: str | None = None
    differs: tuple[int, ...] = ()
    reason: str = ""


ROWS: Final = (
    TokenizerRow("tinyllama-chat", "llama-spm", 32000),
    TokenizerRow(
        "phi-3-mini",
        "phi-3",
        32064,
        differs=(0, 12, 14, 15, 17, 18, 22, 24, 25, 26, 27, 28, 29, 33, 44, 45),
        # Parity: without tokenizer.model the reference gives every token the score -1000 (gguf-py/gguf/vocab.py,
        # LlamaHfVocab.get_token_score @ 0c1e570), and llama.cpp merges by score: of equals, the leftmost pair first.
        reason="tokenizer.json has no scores, and the reference invents none",
    ),
    TokenizerRow("falcon", "falcon", 65024),
    TokenizerRow("gpt2", "gpt-2", 50257, pre_tokenizer="gpt-2"),
    TokenizerRow("gptneox", "mpt", 50432),
    TokenizerRow("qwen2.5", "qwen2", 151936),
)


def _config(row: TokenizerRow) -> dict[str, Any]:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return llama(**shape, **heads, vocab_size=row.vocab_size)


def _cases(shared_fixtures: Path, row: TokenizerRow) -> tuple[list[str], list[Ids]]:
    stem = shared_fixtures / "token-cases" / row.cases
    texts = stem.with_name(f"{row.cases}.inp").read_bytes().decode().split(SEPARATOR)
    lines = stem.with_name(f"{row.cases}.out").read_text().split("\n")
    assert texts.pop() == ""
    assert lines.pop() == ""
    assert len(texts) == len(lines) > 40
    return texts, [[int(word) for word in line.split()] for line in lines]


@pytest.fixture(scope="module")
def gguf_of(shared_fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[TokenizerRow], Path]:
    """Return a GGUF file of a tiny model with a row's tokenizer."""
    root = tmp_path_factory.mktemp("tokenizers")

    def make(row: TokenizerRow) -> Path:
        model = root / row.folder
        out = root / f"{row.folder}.gguf"
        if not out.exists():
            shutil.copytree(shared_fixtures / "tokenizers" / row.folder, model, copy_function=shutil.copyfile)
            model.chmod(0o755)
            config = _config(row)
            (model / "config.json").write_text(json.dumps(config))
            write_safetensors(make_weights(row.folder, tensor_shapes(config), "float16"), model)
            convert.convert_one(convert.model_request(model, pre_tokenizer=row.pre_tokenizer), out)
        return out

    return make


def _tokenize(reference: Reference, gguf: Path, text: str) -> Ids:
    command = [str(reference.tokenize), "-m", str(gguf), "--stdin", "--ids", "--no-bos", "--no-parse-special"]
    finished = subprocess.run([*command, "--no-escape"], input=text.encode(), capture_output=True, check=False)
    if finished.returncode:
        raise ToolchainError(f"llama-tokenize ended with {finished.returncode}: {finished.stderr.decode()[-500:]}")
    ids: Ids = ast.literal_eval(finished.stdout.decode().strip().splitlines()[-1])
    return ids


def _tokenize_all(reference: Reference, gguf: Path, texts: Sequence[str]) -> list[Ids]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda text: _tokenize(reference, gguf, text), texts))


def _hugging_face(folder: Path) -> Callable[[str], Ids]:
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda text: list(fast.encode(text, add_special_tokens=False).ids)
    from transformers import GPT2TokenizerFast, Qwen2TokenizerFast

    kind = Qwen2TokenizerFast if (folder / "tokenizer_config.json").is_file() else GPT2TokenizerFast
    tokenizer = kind.from_pretrained(folder)
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.folder)
def test_llama_tokenize_on_our_files_gives_hugging_faces_ids(
    row: TokenizerRow, reference: Reference, shared_fixtures: Path, gguf_of: Callable[[TokenizerRow], Path]
) -> None:
    texts, expected = _cases(shared_fixtures, row)
    ours = _tokenize_all(reference, gguf_of(row), texts)
    encode = _hugging_face(shared_fixtures / "tokenizers" / row.folder)
    assert [encode(text) for text in texts] == expected
    other = {number: texts[number] for number, ids in enumerate(ours) if ids != expected[number]}
    assert other == {number: texts[number] for number in row.differs}, row.reason
    assert bool(row.differs) == bool(row.reason)
