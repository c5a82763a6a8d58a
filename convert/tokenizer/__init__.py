"""The tokenizer of a checkpoint directory, as the `tokenizer.*` metadata of a GGUF file.

    directory ── files ──▶ tokenizer.model  ── sentencepiece_model ──▶┐
                       ──▶ tokenizer.json   ── llama_hf ─────────────▶├─ Vocabulary ── vocabulary_metadata ──▶ KeyValues
                       ──▶ vocab and merges ── byte_level_bpe ───────▶┘
                       ──▶ special_tokens (ids, flags, chat templates)

`tokenizer.model` wins over tokenizer.json, as in the reference.
Source: conversion/llama.py, LlamaModel.set_vocab @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from convert.checkpoint.regular_file import shown
from convert.errors import TokenizerError, UnsupportedError, UsageError
from convert.tokenizer.byte_level_bpe import read_byte_level_bpe
from convert.tokenizer.files import MAX_TOKENS, TokenizerFiles, entry
from convert.tokenizer.llama_hf import is_llama_hf, read_llama_hf
from convert.tokenizer.pre_tokenizer import check_pre_tokenizer_name
from convert.tokenizer.sentencepiece_model import read_sentencepiece
from convert.tokenizer.special_tokens import CODE_LLAMA_KINDS, read_special_tokens
from convert.tokenizer.vocabulary import SpecialTokens, Vocabulary, vocabulary_metadata

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SpecialTokens", "Vocabulary", "read_vocabulary", "vocabulary_metadata"]

CODE_LLAMA_VOCAB_SIZE: Final = 32016
CODE_LLAMA_EOT_ID: Final = 32010
GRANITE_VOCAB_SIZE: Final = 49152  # also SmolLM2's

_LOOKED_FOR: Final = "tokenizer.model, tokenizer.json, or vocab.json with merges.txt"


def read_vocabulary(
    directory: Path, *, vocab_size: int | None, pre_tokenizer: str | None = None, model_directory: Path | None = None
) -> Vocabulary:
    """Read the tokenizer of a Llama, Mistral or Mixtral checkpoint.

    vocab_size: rows of the embeddings; None takes as many as there are tokens. pre_tokenizer: llama.cpp's name for the
    splitting of a byte-level BPE, instead of the one that is declared. model_directory: where config.json is, if not
    beside the tokenizer.
    Raises TokenizerError if the files are missing, broken, or contradict the model; UnsupportedError for a kind that
    is not read; UsageError for a name that llama.cpp does not know or this tokenizer has no use for.
    Source: conversion/llama.py, LlamaModel.set_vocab @ 0c1e570.
    """
    if pre_tokenizer is not None:
        check_pre_tokenizer_name(pre_tokenizer)
    if vocab_size is not None and not 0 < vocab_size <= MAX_TOKENS:
        raise TokenizerError(f"config.json says vocab_size {shown(vocab_size)}, wanted 1 to {MAX_TOKENS}")
    files = TokenizerFiles(directory, model_directory)
    vocabulary = _read(files, vocab_size=vocab_size, pre_tokenizer=pre_tokenizer)
    prefix = entry(files.config or {}, "add_prefix_space", bool, file="tokenizer_config.json")
    return replace(vocabulary, add_space_prefix=prefix, late=_late(files, vocab_size))


def _read(files: TokenizerFiles, *, vocab_size: int | None, pre_tokenizer: str | None) -> Vocabulary:
    _require_files(files)
    if files.has("tokenizer.model") or is_llama_hf(files):
        if pre_tokenizer is not None:
            raise UsageError(
                f"--pre-tokenizer {pre_tokenizer} is for byte-level BPE, and the tokenizer in {shown(files.directory)}"
                " is of the sentencepiece kind, which has none"
            )
        read = read_sentencepiece if files.has("tokenizer.model") else read_llama_hf
        return read(files, vocab_size=vocab_size)
    return read_byte_level_bpe(files, vocab_size=vocab_size, pre_tokenizer=pre_tokenizer)


def _require_files(files: TokenizerFiles) -> None:
    if files.has("tekken.json") and not files.has("tokenizer.json"):
        raise UnsupportedError(
            f"{shown(files.directory)} has its tokenizer as tekken.json only, which is not read",
            hint="get tokenizer.json from the model's repository on the Hub, or let transformers write it:"
            " AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        )
    if not (files.has("tokenizer.model") or files.has("tokenizer.json") or files.has("vocab.json")):
        raise TokenizerError(
            f"no tokenizer in {shown(files.directory)}: looked for {_LOOKED_FOR}",
            hint="copy the tokenizer files of the model that was fine-tuned into the directory",
        )


def _late(files: TokenizerFiles, vocab_size: int | None) -> SpecialTokens:
    """Return what the reference adds last: rules that it keys on the vocabulary's size."""
    if vocab_size == CODE_LLAMA_VOCAB_SIZE:
        special = read_special_tokens(files, n_tokens=None, kinds=CODE_LLAMA_KINDS)
        ids = special.ids if "eot" in dict(special.ids) else (*special.ids, ("eot", CODE_LLAMA_EOT_ID))
        return replace(special, ids=ids)
    if vocab_size == GRANITE_VOCAB_SIZE:
        return SpecialTokens(add=(("bos", False),))
    return SpecialTokens()
