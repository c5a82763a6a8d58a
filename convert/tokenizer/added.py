"""Tokens beside a fast tokenizer's own vocabulary, as transformers puts them together from several files.

Source: transformers 5.23, tokenization_utils_base.py and tokenization_utils_tokenizers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.json_file import read_json
from convert.tokenizer.files import AddedToken, TokenizerFiles, added_tokens_decoder_of, added_tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMED: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# What a tokenizer class takes where tokenizer_config.json names no token.
_CLASS_DEFAULTS: Final[Mapping[str, Mapping[str, str]]] = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
}


def looks_special(content: str) -> bool:
    """Whether a token is a control token by its looks: some models do not mark theirs.

    Source: conversion/base.py, TextModel.does_token_look_special @ 0c1e570.
    """
    return (
        content in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (content.startswith("<|") and content.endswith("|>"))
        or (content.startswith("<\uff5c") and content.endswith("\uff5c>"))
        or (content.startswith("<unused") and content.endswith(">"))
    )


def named_special_tokens(files: TokenizerFiles) -> tuple[str, ...]:
    """Return the tokens that have a role, or are listed as further special ones, in transformers' order."""
    config = _with_special_tokens_map(files)
    kind = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    defaults = _CLASS_DEFAULTS.get(kind, {})
    named = [_content(config[key]) if key in config else defaults.get(key) for key in _NAMED]
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    listed = [_content(token) for token in extra] if isinstance(extra, list) else []
    return tuple(dict.fromkeys(token for token in (*named, *listed) if token is not None))


def added_vocabulary(files: TokenizerFiles, vocab: Mapping[str, int]) -> dict[str, AddedToken]:
    """Gather every added token, by content; `vocab` is the model's own.

    tokenizer.json says first, tokenizer_config.json (or, where it lists none, added_tokens.json) overrides its flags,
    and a token with a role is special.
    """
    added = {token.content: token for token in added_tokens_of(files)}
    added |= {token.content: _with_known_id(token, added, vocab) for token in _later_tokens(files)}
    for content in named_special_tokens(files):
        number = added[content].id if content in added else vocab.get(content)
        if number is not None:
            added[content] = AddedToken(number, content, special=True, normalized=_normalized(added.get(content)))
    return added


def _normalized(token: AddedToken | None) -> bool:
    return token.normalized if token is not None else False


def _later_tokens(files: TokenizerFiles) -> Iterator[AddedToken]:
    if files.tokenizer_config.get("added_tokens_decoder"):
        yield from added_tokens_decoder_of(files)
        return
    special = set(named_special_tokens(files))
    for content, number in files.added_tokens_json.items():
        yield AddedToken(number, content, content in special, content not in special)


def _with_known_id(token: AddedToken, added: Mapping[str, AddedToken], vocab: Mapping[str, int]) -> AddedToken:
    # A token that is known already keeps its id; only its flags are taken.
    number = added[token.content].id if token.content in added else vocab.get(token.content, token.id)
    return AddedToken(number, token.content, token.special, token.normalized)


def _with_special_tokens_map(files: TokenizerFiles) -> Mapping[str, Any]:
    path = files.directory / "special_tokens_map.json"
    if files.tokenizer_config.get("added_tokens_decoder") or not path.is_file():
        return files.tokenizer_config
    return {**files.tokenizer_config, **read_json(path)}


def _content(entry: object) -> str | None:
    if isinstance(entry, Mapping):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None
