"""The tokenizer's files, and the `tokenizer.*` metadata they become.

files              the JSON files, typed at the border
sentencepiece_model, sentencepiece_json, byte_level   three kinds of vocabulary
added, special, merges   what stands beside it
pre_tokenizers     how text is cut before BPE, by llama.cpp's names
vocabulary         the result: plain data, and its metadata
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from convert.errors import TokenizerError, UnsupportedError
from convert.tokenizer.byte_level import read_byte_level
from convert.tokenizer.files import TokenizerFiles, read_files
from convert.tokenizer.pre_tokenizers import check_pre_tokenizer
from convert.tokenizer.sentencepiece_json import is_sentencepiece_like, read_sentencepiece_json
from convert.tokenizer.sentencepiece_model import read_sentencepiece
from convert.tokenizer.special import INFILL_ROLES, read_special_tokens
from convert.tokenizer.vocabulary import Vocabulary, vocabulary_metadata

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Vocabulary", "read_vocabulary", "vocabulary_metadata"]

# The reference knows CodeLlama, and SmolLM2 and Granite, by the size of their vocabularies.
_CODE_LLAMA_SIZE: Final = 32016
_CODE_LLAMA_INFILL: Final = {"prefix": 32007, "suffix": 32008, "middle": 32009, "eot": 32010}
_NO_BOS_SIZE: Final = 49152


def read_vocabulary(directory: Path, *, vocab_size: int | None, pre_tokenizer: str | None = None) -> Vocabulary:
    """Read a checkpoint's tokenizer: `tokenizer.model`, else `tokenizer.json`, else `vocab.json` and `merges.txt`.

    vocab_size: the embeddings' rows. pre_tokenizer: llama.cpp's name, where a byte-level BPE's is not recognised.
    Raises TokenizerError for files that are missing, broken or have more tokens than the embeddings rows, UsageError
    for a pre-tokenizer that llama.cpp does not know, UnsupportedError for a tokenizer of another kind.
    Source: conversion/llama.py, LlamaModel.set_vocab @ 0c1e570.
    """
    if pre_tokenizer is not None:
        check_pre_tokenizer(pre_tokenizer)
    files = read_files(directory)
    vocabulary = _read(files, vocab_size, pre_tokenizer)
    prefix = files.tokenizer_config.get("add_prefix_space")
    infill = read_special_tokens(files, roles=INFILL_ROLES, fixed_ids=_CODE_LLAMA_INFILL)
    return replace(
        vocabulary,
        add_space_prefix=prefix if isinstance(prefix, bool) else None,
        infill=infill if vocab_size == _CODE_LLAMA_SIZE else None,
        add_bos=False if vocab_size == _NO_BOS_SIZE else None,
    )


def _read(files: TokenizerFiles, vocab_size: int | None, pre_tokenizer: str | None) -> Vocabulary:
    directory = files.directory
    if (directory / "tokenizer.model").is_file():
        return read_sentencepiece(files, vocab_size)
    if is_sentencepiece_like(files):
        return read_sentencepiece_json(files, vocab_size)
    if files.tokenizer_json is not None or (directory / "vocab.json").is_file():
        return read_byte_level(files, vocab_size, pre_tokenizer)
    if (directory / "tekken.json").is_file():
        hint = "take tokenizer.json and tokenizer_config.json from the model's Hugging Face repository"
        raise UnsupportedError(f"`{directory}` has only Mistral's own tokenizer file, tekken.json", hint=hint)
    raise TokenizerError(
        f"`{directory}` has no tokenizer: looked for tokenizer.model, tokenizer.json, and vocab.json with merges.txt",
        hint="copy the tokenizer's files from the base model; fine-tuning does not change them unless it added tokens",
    )
