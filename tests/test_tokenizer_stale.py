"""Tokenizer files that do not belong together, or are not what they look like: what is taken, and what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from tokenizer_files import added, byte_level_json, gemma_like, sequence, write_json

from convert.errors import TokenizerError, UsageError
from convert.tokenizer import read_vocabulary

TINY_LLAMA = Path(__file__).parent / "data" / "tiny-llama"


def _both(tmp_path: Path, *, more: tuple[dict[str, Any], ...] = (), **vocab: int) -> Path:
    """Put a tokenizer.model beside a tokenizer.json with added tokens, and pieces of its own."""
    shutil.copy(TINY_LLAMA / "tokenizer.model", tmp_path)
    tokenizer = json.loads((TINY_LLAMA / "tokenizer.json").read_text())
    tokenizer["added_tokens"] += more
    tokenizer["model"]["vocab"] |= vocab
    write_json(tmp_path / "tokenizer.json", tokenizer)
    return tmp_path


def test_added_tokens_that_an_old_tokenizer_model_lacks_come_from_tokenizer_json(tmp_path: Path) -> None:
    more = (added(1024, "<|im_start|>"), added(1025, "<think>", special=False), added(1030, "beyond"))
    vocabulary = read_vocabulary(_both(tmp_path, more=more), vocab_size=1028)
    assert vocabulary.tokens[1024:] == (b"<|im_start|>", b"<think>", b"[PAD1026]", b"[PAD1027]")
    assert vocabulary.token_types[1024:] == (
        TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED, TokenType.UNUSED,
    )  # fmt: skip
    (note,) = vocabulary.notes
    assert note == "tokens that tokenizer.model lacks are taken from tokenizer.json: `<|im_start|>`, `<think>`"


def test_what_added_tokens_json_says_is_not_taken_again(tmp_path: Path) -> None:
    directory = _both(tmp_path, more=(added(1024, "<|im_start|>"),))
    write_json(directory / "added_tokens.json", {"<|im_start|>": 1024})
    assert read_vocabulary(directory, vocab_size=1025).notes == ()


def test_files_that_agree_say_nothing(tmp_path: Path) -> None:
    assert read_vocabulary(_both(tmp_path), vocab_size=1024).notes == ()


def test_pieces_that_only_tokenizer_json_has_are_an_error_that_says_how_to_mend(tmp_path: Path) -> None:
    with pytest.raises(
        TokenizerError, match=r"has 1024 pieces, and lacks 1 that `tokenizer\.json` has: `zzz`"
    ) as caught:
        read_vocabulary(_both(tmp_path, zzz=1024), vocab_size=1026)
    assert "take tokenizer.model out of the directory" in (caught.value.hint or "")


def test_another_models_pieces_are_a_note(tmp_path: Path) -> None:
    directory = _both(tmp_path)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    first, second = list(vocab)[500:502]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    write_json(directory / "tokenizer.json", tokenizer)
    (note,) = read_vocabulary(directory, vocab_size=1024).notes
    assert note.startswith("tokenizer.model and tokenizer.json have other tokens under 2 ids: ")


# --- Meta's tiktoken file ---------------------------------------------------------------------------------------------

TIKTOKEN = b"IQ== 0\nIg== 1\nIw== 2\n"


def test_metas_tiktoken_file_is_passed_over_beside_a_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(TIKTOKEN)
    shutil.copy(TINY_LLAMA / "tokenizer.json", tmp_path)
    vocabulary = read_vocabulary(tmp_path, vocab_size=1024)
    assert vocabulary.notes == ("passes over tokenizer.model, which is Meta's tiktoken file",)


# --- A pre-tokenizer where there is none ------------------------------------------------------------------------------


def _without_byte_fallback() -> dict[str, Any]:
    tokenizer = byte_level_json({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"})
    return tokenizer | {
        "decoder": {"type": "Metaspace", "replacement": "▁"},
        "model": {"type": "BPE", "vocab": {"▁a": 0, "b": 1, "▁": 2}, "merges": []},
    }


def _with_another_decoder() -> dict[str, Any]:
    tokenizer = gemma_like()
    return tokenizer | {"decoder": {"type": "ByteFallback"}, "pre_tokenizer": sequence()}


@pytest.mark.parametrize("make", [_without_byte_fallback, _with_another_decoder])
def test_a_sentencepiece_like_vocabulary_is_told_so_and_takes_no_pre_tokenizer(make: Any, tmp_path: Path) -> None:  # noqa: ANN401
    write_json(tmp_path / "tokenizer.json", make())
    with pytest.raises(TokenizerError, match="the pre-tokenizer is not one that is known") as caught:
        read_vocabulary(tmp_path, vocab_size=8)
    assert caught.value.remedies == ()
    assert (caught.value.hint or "").startswith("it is of the sentencepiece kind: put the tokenizer.model")
    for name in ("llama-bpe", "default", "gpt-2"):
        with pytest.raises(UsageError, match=f"the pre-tokenizer `{name}` is for byte-level BPE") as refused:
            read_vocabulary(tmp_path, vocab_size=8, pre_tokenizer=name)
        assert "tokenizer.model" in (refused.value.hint or "")


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_what_llama_cpp_does_not_heed_of_added_tokens_is_a_note(flag: str, tmp_path: Path) -> None:
    directory = _both(tmp_path, more=({**added(1024, "<mask>"), flag: True},))
    notes = read_vocabulary(directory, vocab_size=1025).notes
    assert "llama.cpp does not heed `lstrip`, `rstrip` and `single_word` of added tokens: `<mask>`" in notes
