"""The vocabulary of a byte-level BPE: `tokenizer.json`, or `vocab.json` and `merges.txt`.

Source: conversion/base.py, TextModel.get_vocab_base and _set_vocab_gpt2 @ 0c1e570.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gguf import TokenType

from convert.checkpoint.json_file import read_json
from convert.errors import CheckpointError, TokenizerError
from convert.tokenizer.added import added_vocabulary, looks_special
from convert.tokenizer.files import AddedToken, TokenizerFiles, check_room
from convert.tokenizer.pre_tokenizers import recognise_pre_tokenizer
from convert.tokenizer.special import read_special_tokens
from convert.tokenizer.vocabulary import Vocabulary

_MAX_VOCABULARY_NBYTES: Final = 256 << 20


def read_byte_level(files: TokenizerFiles, vocab_size: int | None, pre_tokenizer: str | None) -> Vocabulary:
    """Read the vocabulary; ids that no token has become unused `[PADn]` tokens."""
    vocab = model_vocab(files)
    added = {token.id: token for token in added_vocabulary(files, vocab).values()}
    by_id = {number: token for token, number in vocab.items()} | {
        number: token.content for number, token in added.items()
    }
    size = vocab_size or max(by_id) + 1
    check_room(by_id, size, files.directory)
    pre = pre_tokenizer or recognise_pre_tokenizer(files)
    tokens, types = [], []
    for number in range(size):
        token, kind = _token(number, by_id, added)
        tokens.append(token.encode())
        types.append(kind)
    special = read_special_tokens(files, with_merges=True)
    return Vocabulary("gpt2", pre, tuple(tokens), tuple(types), None, special)


def model_vocab(files: TokenizerFiles) -> Mapping[str, int]:
    """Return the model's own vocabulary, token to id; raises TokenizerError if it is missing or malformed."""
    if files.tokenizer_json is not None:
        model = files.tokenizer_json.get("model")
        vocab: Any = model.get("vocab") if isinstance(model, Mapping) else None
        file, key = "tokenizer.json", "model.vocab"
    else:
        file, key = "vocab.json", "the top level"
        vocab = _read_vocab_json(files)
    if not isinstance(vocab, Mapping) or not vocab:
        raise files.wrong(file, key, "an object of tokens and ids; only BPE vocabularies are read")
    if not all(type(number) is int and 0 <= number < 1 << 31 for number in vocab.values()):
        raise files.wrong(file, key, "an object whose values are ids")
    if len(set(vocab.values())) < len(vocab):
        raise TokenizerError(f"`{key}` in `{files.directory / file}` gives two tokens one id")
    return vocab


def _read_vocab_json(files: TokenizerFiles) -> object:
    try:
        return read_json(files.directory / "vocab.json", max_nbytes=_MAX_VOCABULARY_NBYTES)
    except CheckpointError as error:
        raise TokenizerError(error.message, hint=error.hint) from error


def _token(number: int, by_id: Mapping[int, str], added: Mapping[int, AddedToken]) -> tuple[str, TokenType]:
    if number not in by_id:
        return f"[PAD{number}]", TokenType.UNUSED
    token = added.get(number)
    if token is None:
        return by_id[number], TokenType.NORMAL
    # llama.cpp wants added tokens as they stand in a text, so one that is not normalized is decoded.
    content = token.content if token.normalized else decode_byte_level(token.content)
    if token.special or looks_special(content):
        return content, TokenType.CONTROL
    return content.replace("\u2581", " "), TokenType.USER_DEFINED


def decode_byte_level(content: str) -> str:
    """Turn a token's byte-level spelling into text, as the tokenizers library's ByteLevel decoder does.

    A content with any character that spells no byte is text already.
    """
    if not all(letter in _BYTE_OF for letter in content):
        return content
    return bytes(_BYTE_OF[letter] for letter in content).decode(errors="replace")


def _byte_alphabet() -> dict[str, int]:
    # GPT-2's: printable Latin-1 characters spell themselves, the other bytes take characters from 256 on.
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    spelled = {chr(byte): byte for byte in printable}
    return spelled | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF: Final = _byte_alphabet()
