"""Small tokenizers of our own: which pre-tokenizer is declared, and errors without a crash for what is broken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tokenizer_files import BPE, added, byte_level, byte_level_json, hostile, sequence, split, write_json

from convert.errors import CheckpointError, ConvertError, Remedy, TokenizerError, UsageError
from convert.tokenizer import read_vocabulary, vocabulary_metadata

if TYPE_CHECKING:
    from pathlib import Path

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CJK_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
DEEPSEEK_V3_WORDS = (
    """[!"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"""
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
DIGITS = {"type": "Digits", "individual_digits": True}
DECLARED = {
    "llama-bpe": (sequence(split(LLAMA3), byte_level(use_regex=False)), {"ignore_merges": True}),
    "smaug-bpe": (sequence(split(LLAMA3), byte_level(use_regex=False)), {}),
    "tekken": (sequence(split(TEKKEN), byte_level(use_regex=False)), {"ignore_merges": True}),
    "smollm": (sequence(DIGITS, byte_level(use_regex=True)), {}),
    "gpt-2": (byte_level(use_regex=True), {}),
    "bloom": (
        sequence(split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), byte_level(use_regex=False)),
        {},
    ),
    "deepseek-v3": (
        sequence(split(r"\p{N}{1,3}"), split(CJK_AND_KANA), split(DEEPSEEK_V3_WORDS), byte_level(use_regex=False)),
        {},
    ),
    "deepseek-coder": (
        sequence(
            split("[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
            DIGITS,
            byte_level(use_regex=False),
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", DECLARED)
def test_declared_pre_tokenizer_is_recognised_after_tokens_were_added(name: str, tmp_path: Path) -> None:
    pre_tokenizer, model = DECLARED[name]
    write_json(tmp_path / "tokenizer.json", byte_level_json(pre_tokenizer, extra=(added(4, "<|new|>"),), **model))
    assert read_vocabulary(tmp_path, vocab_size=8).pre == name


def test_unknown_pre_tokenizer_shows_what_is_declared_and_how_to_name_it(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", byte_level_json(sequence(split("[xyz]+"), byte_level(use_regex=False))))
    with pytest.raises(TokenizerError, match=r"\[xyz\]\+") as caught:
        read_vocabulary(tmp_path, vocab_size=4)
    assert caught.value.remedies == (Remedy.NAME_PRE_TOKENIZER,)
    assert "llama-bpe" in (caught.value.hint or "")
    assert read_vocabulary(tmp_path, vocab_size=4, pre_tokenizer="qwen2").pre == "qwen2"


def test_name_that_llama_cpp_does_not_know_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="llama-bep"):
        read_vocabulary(tmp_path, vocab_size=4, pre_tokenizer="llama-bep")


def test_merges_as_pairs_have_their_spaces_encoded(tmp_path: Path) -> None:
    tokenizer = byte_level_json(byte_level(use_regex=True), merges=[["a", "b"], ["a b", "a"]])
    write_json(tmp_path / "tokenizer.json", tokenizer)
    entries = {entry.key: entry.value for entry in vocabulary_metadata(read_vocabulary(tmp_path, vocab_size=4))}
    assert entries["tokenizer.ggml.merges"] == ("a b", "aĠb a")


def test_no_tokenizer_at_all_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.model.*tokenizer\.json"):
        read_vocabulary(tmp_path, vocab_size=4)


def test_a_tekken_that_is_none_names_the_key(tmp_path: Path) -> None:
    write_json(tmp_path / "tekken.json", {})
    with pytest.raises(TokenizerError, match=r"`tekken\.json`: `config` is"):
        read_vocabulary(tmp_path, vocab_size=4)


def test_token_beyond_the_embeddings_names_token_id_and_size(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", byte_level_json(byte_level(use_regex=True), extra=(added(4, "<|new|>"),)))
    with pytest.raises(TokenizerError, match=r"<\|new\|>.*4.*4"):
        read_vocabulary(tmp_path, vocab_size=4)


HOSTILE: dict[str, dict[str, object]] = {
    "huge_id": {"model": {**BPE, "vocab": {"a": 0, "b": 10**12}}},
    "negative_id": {"model": {**BPE, "vocab": {"a": 0, "b": -1}}},
    "id_twice": {"model": {**BPE, "vocab": {"a": 0, "b": 0}}},
    "id_a_string": {"model": {**BPE, "vocab": {"a": "0"}}},
    "id_true": {"model": {**BPE, "vocab": {"a": True}}},
    "vocab_a_list": {"model": {**BPE, "vocab": ["a"]}},
    "model_a_string": {"model": "BPE"},
    "merges_of_numbers": {"model": {**BPE, "vocab": {"a": 0}, "merges": [1]}},
    "added_a_number": {"added_tokens": 7},
    "added_huge_id": {"added_tokens": [added(10**12, "x")]},
    "added_content_a_list": {"added_tokens": [{**added(3, "x"), "content": []}]},
    "pre_tokenizer_a_number": {"pre_tokenizer": 3},
    "steps_a_string": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": "x"}},
    "step_a_number": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [1]}},
    "post_processor_a_list": {"post_processor": [1]},
    "template_of_numbers": {"post_processor": {"type": "TemplateProcessing", "single": [1, 2]}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tokenizer_json_is_an_error_and_not_a_crash(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        read_vocabulary(hostile(tmp_path, **HOSTILE[name]), vocab_size=8)


HOSTILE_FILES = {
    "model_garbage": ("tokenizer.model", b"\x00\xff" * 500),
    "model_empty": ("tokenizer.model", b""),
    "json_deep": ("tokenizer.json", b"[" * 100_000),
    "json_not_utf8": ("tokenizer.json", b'{"a": "\xff"}'),
    "json_a_list": ("tokenizer.json", b"[]"),
    "json_cut": ("tokenizer.json", b'{"model": {'),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_broken_file_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    file, data = HOSTILE_FILES[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        read_vocabulary(tmp_path, vocab_size=8)


def test_directory_in_the_place_of_tokenizer_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(CheckpointError):
        read_vocabulary(tmp_path, vocab_size=8)


@pytest.mark.parametrize("vocab_size", [0, -1, 10**12])
def test_absurd_vocab_size_is_an_error_without_allocating(vocab_size: int, tmp_path: Path) -> None:
    with pytest.raises(ConvertError):
        read_vocabulary(hostile(tmp_path), vocab_size=vocab_size)


CONFIGS = {
    "class_a_number": {"tokenizer_class": 3},
    "prefix_space_a_string": {"add_prefix_space": "yes"},
    "decoder_key_a_word": {"added_tokens_decoder": {"x": {"content": "y"}}},
    "decoder_huge": {"added_tokens_decoder": {"9" * 5000: {"content": "y"}}},
    "decoder_a_list": {"added_tokens_decoder": [1]},
    "template_a_number": {"chat_template": 3},
    "templates_of_numbers": {"chat_template": [1]},
    "template_without_text": {"chat_template": [{"name": 3, "template": "x"}]},
    "bos_a_number": {"bos_token": 3},
    "adding_a_word": {"add_bos_token": "true"},
    "adding_a_number": {"add_eos_token": 1},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_wrong_type_in_tokenizer_config_is_an_error_and_not_a_crash(name: str, tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", CONFIGS[name])
    with pytest.raises(CheckpointError):
        read_vocabulary(hostile(tmp_path), vocab_size=8)


def test_pad_token_id_of_minus_one_means_none(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"pad_token_id": -1, "eos_token_id": [1, 2], "bos_token_id": 3})
    entries = {
        entry.key: entry.value for entry in vocabulary_metadata(read_vocabulary(hostile(tmp_path), vocab_size=4))
    }
    assert "tokenizer.ggml.padding_token_id" not in entries
    assert "tokenizer.ggml.eos_token_id" not in entries
    assert entries["tokenizer.ggml.bos_token_id"] == 3


def test_vocabulary_of_49152_never_adds_bos(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"add_bos_token": True})
    entries = vocabulary_metadata(read_vocabulary(hostile(tmp_path), vocab_size=49152))
    assert [entry.value for entry in entries if entry.key == "tokenizer.ggml.add_bos_token"] == [False]


OLD, NEW = "old {{ messages }}", "new {{ messages }}"


@pytest.mark.parametrize(
    ("files", "default", "note"),
    [
        ({"tokenizer_config.json": {"chat_template": OLD}, "chat_template.jinja": NEW}, NEW, True),
        ({"tokenizer_config.json": {"chat_template": NEW}, "chat_template.jinja": NEW}, NEW, False),
        ({"tokenizer_config.json": {"chat_template": None}, "chat_template.jinja": NEW}, NEW, False),
        ({"tokenizer_config.json": {"bos_token": "<s>"}, "chat_template.jinja": NEW}, NEW, False),
        ({"tokenizer_config.json": {"chat_template": OLD}, "chat_template.json": {"chat_template": NEW}}, OLD, False),
        (
            {
                "tokenizer_config.json": {"chat_template": OLD},
                "chat_template.jinja": NEW,
                "additional_chat_templates/tool_use.jinja": "tools",
            },
            NEW,
            True,
        ),
        ({"chat_template.jinja": NEW}, NEW, False),
        ({"chat_template.json": {"chat_template": NEW}}, NEW, False),
    ],
)
def test_the_chat_template_is_the_one_that_transformers_takes(
    files: dict[str, object], default: str, note: bool, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    hostile(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    vocabulary = read_vocabulary(tmp_path, vocab_size=4)
    assert vocabulary.special.chat_template == default
    said = "takes the chat template of `chat_template.jinja`, and passes over another in `tokenizer_config.json`"
    assert vocabulary.notes == ((said,) if note else ())
    if "chat_template.json" not in files:
        theirs = AutoTokenizer.from_pretrained(tmp_path).chat_template
        assert (theirs["default"] if isinstance(theirs, dict) else theirs) == default
