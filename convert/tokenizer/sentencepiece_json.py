"""The vocabulary of a sentencepiece-like `tokenizer.json`, for a checkpoint without `tokenizer.model`.

Source: gguf-py/gguf/vocab.py, LlamaHfVocab @ 0c1e570.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from gguf import TokenType

from convert.tokenizer.added import added_vocabulary, named_special_tokens
from convert.tokenizer.byte_level import model_vocab
from convert.tokenizer.files import check_room
from convert.tokenizer.special import read_special_tokens
from convert.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from convert.tokenizer.files import TokenizerFiles

_SCORE: Final = -1000.0
_PAD_SCORE: Final = -10000.0
_BYTE: Final = re.compile("<0x[0-9A-Fa-f]{2}>")


def is_sentencepiece_like(files: TokenizerFiles) -> bool:
    """Whether tokenizer.json is a BPE with byte fallback, as sentencepiece models become."""
    tokenizer = files.tokenizer_json
    if tokenizer is None:
        return False
    model, decoder = tokenizer.get("model"), tokenizer.get("decoder")
    return (
        isinstance(model, Mapping)
        and model.get("type") == "BPE"
        and bool(model.get("byte_fallback", False))
        and isinstance(decoder, Mapping)
        and decoder.get("type") == "Sequence"
    )


def read_sentencepiece_json(files: TokenizerFiles, vocab_size: int | None) -> Vocabulary:
    """Read the vocabulary; ids beyond it, up to the embeddings' rows, become unused `[PADn]` tokens.

    The reference leaves the padding out, and llama.cpp then cannot load the file.
    """
    vocab = model_vocab(files)
    special = set(named_special_tokens(files))
    by_id = {number: token for token, number in vocab.items()}
    added = {token.id: token for token in added_vocabulary(files, vocab).values() if token.id not in by_id}
    size = vocab_size or max([*by_id, *added]) + 1
    check_room(by_id | {token.id: token.content for token in added.values()}, size, files.directory)
    tokens = [f"[PAD{number}]" for number in range(size)]
    types, scores = [TokenType.UNUSED] * size, [_PAD_SCORE] * size
    for number, piece in by_id.items():
        is_byte = _BYTE.fullmatch(piece) is not None
        kind = TokenType.CONTROL if piece in special else TokenType.NORMAL
        tokens[number], types[number], scores[number] = piece, TokenType.BYTE if is_byte else kind, _SCORE
    for number, token in added.items():
        kind = TokenType.CONTROL if token.content in special else TokenType.USER_DEFINED
        tokens[number], types[number], scores[number] = token.content, kind, _SCORE
    return Vocabulary(
        "llama",
        "default",
        tuple(token.encode() for token in tokens),
        tuple(types),
        tuple(scores),
        read_special_tokens(files, n_vocab=size),
    )
