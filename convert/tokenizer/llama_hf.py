"""`tokenizer.json` of the sentencepiece-like kind, where `tokenizer.model` is missing.

Source: conversion/base.py, TextModel._set_vocab_llama_hf; gguf-py/gguf/vocab.py, LlamaHfVocab @ 0c1e570.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gguf import TokenType

from convert.tokenizer.fast_tokenizer import read_fast_tokenizer
from convert.tokenizer.files import check_fits
from convert.tokenizer.sentencepiece_model import ADDED_SCORE, pad_token
from convert.tokenizer.special_tokens import read_special_tokens
from convert.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from convert.tokenizer.fast_tokenizer import FastTokenizer
    from convert.tokenizer.files import TokenizerFiles

_BYTE_PIECE: Final = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def is_llama_hf(files: TokenizerFiles) -> bool:
    """Whether tokenizer.json is a BPE with byte fallback, whose decoder is a sequence."""
    tokenizer = files.tokenizer or {}
    model, decoder = tokenizer.get("model"), tokenizer.get("decoder")
    if not isinstance(model, dict) or not isinstance(decoder, dict):
        return False
    return model.get("type") == "BPE" and model.get("byte_fallback") is True and decoder.get("type") == "Sequence"


def read_llama_hf(files: TokenizerFiles, *, vocab_size: int | None) -> Vocabulary:
    """Read a sentencepiece-like tokenizer.json; every score is -1000.

    Embeddings with more rows than there are tokens get pad tokens; the reference forgets them here, and llama.cpp
    cannot load what it writes.
    """
    tokenizer = read_fast_tokenizer(files)
    found = _tokens(tokenizer)
    last = max(found, default=-1)
    size = last + 1 if vocab_size is None else vocab_size
    check_fits(found[last][0].decode() if found else "", last, vocab_size=size, file=tokenizer.file)
    entries = [(*found[number], ADDED_SCORE) if number in found else _pad(number) for number in range(size)]
    tokens, types, scores = zip(*entries, strict=True)
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=tokens,
        scores=scores,
        token_types=types,
        special=read_special_tokens(files, n_tokens=size),
    )


def _tokens(tokenizer: FastTokenizer) -> dict[int, tuple[bytes, TokenType]]:
    """Return id → text and type. Parity: a token is CONTROL by its role; one that is only marked special is not."""
    found = {
        number: (content.encode("utf-8"), _base_type(content, special=number in tokenizer.special_ids))
        for content, number in tokenizer.base.items()
    }
    n_base = len(tokenizer.base)
    for number, token in tokenizer.added.items():
        if number >= n_base:
            type_ = TokenType.CONTROL if number in tokenizer.special_ids else TokenType.USER_DEFINED
            found[number] = token.content.encode("utf-8"), type_
    return found


def _base_type(content: str, *, special: bool) -> TokenType:
    if _BYTE_PIECE.fullmatch(content):
        return TokenType.BYTE
    return TokenType.CONTROL if special else TokenType.NORMAL


def _pad(number: int) -> tuple[bytes, TokenType, float]:
    text, score, type_ = pad_token(number)
    return text, type_, score
