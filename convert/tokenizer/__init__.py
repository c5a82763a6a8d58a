"""The tokenizer of a checkpoint directory, as the `tokenizer.*` metadata of a GGUF file.

    directory ── files ──▶ tokenizer.model  ── sentencepiece_model ──▶┐
                       ──▶ tokenizer.json   ── llama_hf ─────────────▶├─ Vocabulary ── vocabulary_metadata ──▶ KeyValues
                       ──▶ bytes and ranks  ── ranked ──▶ tokenizer.json
                       ──▶ vocab and merges ── byte_level_bpe ───────▶┘
                       ──▶ special_tokens (ids, flags, chat templates)

Which of them serve a family, and in which order, its TokenizerRule says. The way back: back, with pieces_back and
byte_level_back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from convert.errors import Remedy, TokenizerError
from convert.shown import shown, shown_list
from convert.tokenizer.byte_level_bpe import read_byte_level_bpe
from convert.tokenizer.files import MAX_TOKENS, TokenizerFiles, entry, token_id
from convert.tokenizer.llama_hf import is_llama_hf, read_llama_hf
from convert.tokenizer.pre_tokenizer import check_pre_tokenizer_name, refused_pre_tokenizer
from convert.tokenizer.rules import (
    BYTE_LEVEL_TOKENIZER,
    ERNIE_TOKENIZER,
    GEMMA_1_TOKENIZER,
    GEMMA_TOKENIZER,
    GLM4_MOE_TOKENIZER,
    GLM4_TOKENIZER,
    HUNYUAN_TOKENIZER,
    LLAMA_TOKENIZER,
    NEMOTRON_TOKENIZER,
    PHI_TOKENIZER,
    QWEN_TOKENIZER,
    SENTENCEPIECE_TOKENIZER,
    LateTokens,
    SpacePrefix,
    TokenizerKind,
    TokenizerRule,
)
from convert.tokenizer.sentencepiece_model import read_sentencepiece
from convert.tokenizer.special_tokens import read_special_tokens
from convert.tokenizer.vocabulary import SpecialTokens, Vocabulary, vocabulary_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = [
    "BYTE_LEVEL_TOKENIZER",
    "ERNIE_TOKENIZER",
    "GEMMA_1_TOKENIZER",
    "GEMMA_TOKENIZER",
    "GLM4_MOE_TOKENIZER",
    "GLM4_TOKENIZER",
    "HUNYUAN_TOKENIZER",
    "LLAMA_TOKENIZER",
    "NEMOTRON_TOKENIZER",
    "PHI_TOKENIZER",
    "QWEN_TOKENIZER",
    "SENTENCEPIECE_TOKENIZER",
    "SpecialTokens",
    "TokenizerFiles",
    "TokenizerRule",
    "Vocabulary",
    "read_vocabulary",
    "vocabulary_metadata",
]

_FLAGS: Final = ("lstrip", "rstrip", "single_word")
_LOOKED_FOR: Final = "tokenizer.model, tokenizer.json, or vocab.json with merges.txt"


def read_vocabulary(
    directory: Path,
    *,
    vocab_size: int | None,
    rule: TokenizerRule = LLAMA_TOKENIZER,
    pre_tokenizer: str | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> Vocabulary:
    """Read the tokenizer of a checkpoint as its family's rule says.

    vocab_size: rows of the embeddings; None takes as many as there are tokens. pre_tokenizer: llama.cpp's name for the
    splitting of a byte-level BPE, instead of the one that is declared. model_config: the model's config.json, if it
    was read already.
    Raises TokenizerError if the files are missing, broken, or contradict the model; UnsupportedError for a kind that
    is not read; UsageError for a name that llama.cpp does not know or this tokenizer has no use for.
    """
    if pre_tokenizer is not None:
        check_pre_tokenizer_name(pre_tokenizer)
    if vocab_size is not None and not 0 < vocab_size <= MAX_TOKENS:
        raise TokenizerError(f"config.json says vocab_size {shown(vocab_size)}, wanted 1 to {MAX_TOKENS}")
    files = TokenizerFiles(directory, model_config)
    _require_files(files)
    kind = next((kind for kind in rule.kinds if _is_there(files, kind)), TokenizerKind.BYTE_LEVEL)
    vocabulary = _read(files, kind, rule, vocab_size=vocab_size, pre_tokenizer=pre_tokenizer)
    vocabulary = replace(vocabulary, remarks=(*_remarks(files), *vocabulary.remarks))
    vocabulary = _with_named(vocabulary, rule)
    late = _late(files, rule.late.get(vocab_size or 0, rule.always))
    prefix = entry(files.config or {}, "add_prefix_space", bool, file="tokenizer_config.json")
    if rule.space_prefix is SpacePrefix.AS_DECLARED:
        vocabulary = replace(vocabulary, add_space_prefix=prefix)
    elif rule.space_prefix is SpacePrefix.AS_DECLARED_AFTER:
        late = replace(late, add_space_prefix=prefix)
    elif rule.space_prefix is SpacePrefix.NEVER_AFTER_PIECES and kind is TokenizerKind.SENTENCEPIECE:
        late = replace(late, add_space_prefix=False)
    return replace(vocabulary, late=late)


def _is_there(files: TokenizerFiles, kind: TokenizerKind) -> bool:
    if kind is TokenizerKind.SENTENCEPIECE:
        return files.has_pieces
    return is_llama_hf(files) if kind is TokenizerKind.LLAMA_HF else True


def _read(
    files: TokenizerFiles,
    kind: TokenizerKind,
    rule: TokenizerRule,
    *,
    vocab_size: int | None,
    pre_tokenizer: str | None,
) -> Vocabulary:
    if kind is TokenizerKind.BYTE_LEVEL:
        return read_byte_level_bpe(files, vocab_size=vocab_size, pre_tokenizer=pre_tokenizer)
    if pre_tokenizer is not None:
        raise refused_pre_tokenizer(pre_tokenizer, files)
    if kind is TokenizerKind.SENTENCEPIECE:
        return read_sentencepiece(files, vocab_size=vocab_size, may_lack=rule.may_lack, as_marked=rule.as_marked)
    return read_llama_hf(files, vocab_size=vocab_size)


def _require_files(files: TokenizerFiles) -> None:
    if not any(map(files.has, (files.model_name, "tokenizer.json", "vocab.json", "tekken.json"))):
        raise TokenizerError(
            f"no tokenizer in {shown(files.directory)}: looked for {_LOOKED_FOR}",
            remedies=(Remedy.GIVE_TOKENIZER,),
            hint="or copy the tokenizer files of the model that was fine-tuned into the directory",
        )


def _remarks(files: TokenizerFiles) -> Iterator[str]:
    if files.has_tiktoken and not files.is_ranked:
        yield "passes over tokenizer.model, which is Meta's tiktoken file"
    in_json = entry(files.tokenizer or {}, "added_tokens", list, file="tokenizer.json") or []
    decoder = entry(files.config or {}, "added_tokens_decoder", dict, file="tokenizer_config.json") or {}
    tokens = [token for token in (*in_json, *decoder.values()) if isinstance(token, dict)]
    heedless = {str(token.get("content")): None for token in tokens if any(token.get(flag) is True for flag in _FLAGS)}
    if heedless:
        yield f"llama.cpp does not heed `lstrip`, `rstrip` and `single_word` of added tokens: {shown_list([*heedless])}"


def _with_named(vocabulary: Vocabulary, rule: TokenizerRule) -> Vocabulary:
    """Give the kinds of special tokens that the files do not name to the tokens with the rule's texts."""
    special, added = vocabulary.special, dict(vocabulary.special.ids)
    for kind, text in rule.named:
        if text.encode() not in vocabulary.tokens:
            raise TokenizerError(
                f"the tokenizer lacks the token {shown(text)}, which the family's models end turns with"
            )
        added.setdefault(kind, vocabulary.tokens.index(text.encode()))
    return replace(vocabulary, special=replace(special, ids=tuple(added.items())))


def _late(files: TokenizerFiles, wanted: LateTokens) -> SpecialTokens:
    special = read_special_tokens(files, n_tokens=None, kinds=wanted.kinds) if wanted.kinds else SpecialTokens()
    found = dict(special.ids)
    ids = (*special.ids, *((kind, number) for kind, number in wanted.ids if kind not in found), *_stated(files, wanted))
    return replace(special, ids=ids, add=(*special.add, *wanted.add))


def _stated(files: TokenizerFiles, wanted: LateTokens) -> Iterator[tuple[str, int]]:
    for kind, file, key, default in wanted.stated:
        config = files.model_config if file == "config.json" else files.json(file)
        value = (config or {}).get(key, default)
        if isinstance(value, list):
            value = value[0] if len(value) > 1 else None
        elif default is None:
            value = None
        if value is not None:
            yield kind, token_id(value, file=file, key=key)
