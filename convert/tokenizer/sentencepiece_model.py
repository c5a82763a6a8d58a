"""The vocabulary of a `tokenizer.model`, with the tokens that were added beside it.

Source: conversion/base.py, TextModel._create_vocab_sentencepiece @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import TokenType

from convert.errors import TokenizerError
from convert.tokenizer.added import looks_special
from convert.tokenizer.files import TokenizerFiles, added_tokens_decoder_of, check_room
from convert.tokenizer.special import read_special_tokens
from convert.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

_PAD_SCORE: Final = -10000.0
_ADDED_SCORE: Final = -1000.0
_MAX_MODEL_NBYTES: Final = 256 << 20


def read_sentencepiece(files: TokenizerFiles, vocab_size: int | None) -> Vocabulary:
    """Read `tokenizer.model`; ids that no token has become unused `[PADn]` tokens."""
    processor = _load(files)
    size = vocab_size or processor.vocab_size()
    added = {number: content for content, number in files.added_tokens_json.items()}
    decoder = added_tokens_decoder_of(files)
    pieces = {number: processor.IdToPiece(number) for number in range(processor.vocab_size())}
    check_room(pieces | added | {token.id: token.content for token in decoder}, size, files.directory)
    tokens = [f"[PAD{number}]".encode() for number in range(size)]
    scores = [_PAD_SCORE] * size
    types = [TokenType.UNUSED] * size
    for number, piece in pieces.items():
        tokens[number], scores[number], types[number] = (
            piece.encode(),
            processor.GetScore(number),
            _type(processor, number),
        )
    for number, content in added.items():
        tokens[number], scores[number], types[number] = content.encode(), _ADDED_SCORE, TokenType.USER_DEFINED
    for token in decoder:
        is_control = token.special or looks_special(token.content)
        content = token.content if is_control else token.content.replace("\u2581", " ")
        types[token.id] = TokenType.CONTROL if is_control else TokenType.USER_DEFINED
        tokens[token.id], scores[token.id] = content.encode(), _ADDED_SCORE
    special = read_special_tokens(files, n_vocab=size)
    return Vocabulary("llama", "default", tuple(tokens), tuple(types), tuple(scores), special)


def _load(files: TokenizerFiles) -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor  # noqa: PLC0415

    path = files.directory / "tokenizer.model"
    if path.stat().st_size > _MAX_MODEL_NBYTES:
        raise TokenizerError(f"`{path}` has {path.stat().st_size} bytes, too many for a tokenizer")
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromFile(str(path))
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            f"`{path}` is not a sentencepiece model: {str(error).strip().splitlines()[-1]}",
            hint="it may be a git-lfs pointer or a tiktoken file; take it again from the base model",
        ) from error
    return processor


def _type(processor: SentencePieceProcessor, number: int) -> TokenType:
    if processor.IsUnknown(number):
        return TokenType.UNKNOWN
    if processor.IsControl(number):
        return TokenType.CONTROL
    if processor.IsUnused(number):
        return TokenType.UNUSED
    return TokenType.BYTE if processor.IsByte(number) else TokenType.NORMAL
