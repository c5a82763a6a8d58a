"""Byte-level BPE: the vocabulary of Llama 3, GPT-2 and their kin, with merges and the name of its pre-tokenizer.

Source: conversion/base.py, TextModel._set_vocab_gpt2, get_vocab_base @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import TokenType

from convert.errors import TokenizerError, UnsupportedError
from convert.shown import shown
from convert.tokenizer.alphabet import BYTE_OF_CHAR
from convert.tokenizer.fast_tokenizer import read_fast_tokenizer
from convert.tokenizer.files import check_fits, entry, typed
from convert.tokenizer.pre_tokenizer import name_pre_tokenizer
from convert.tokenizer.sentencepiece_model import added_token, pad_token
from convert.tokenizer.special_tokens import read_special_tokens
from convert.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from convert.tokenizer.fast_tokenizer import AddedToken
    from convert.tokenizer.files import TokenizerFiles

_TOKENIZER: Final = "tokenizer.json"
_MERGES: Final = "merges.txt"
_PAIR: Final = 2


def read_byte_level_bpe(files: TokenizerFiles, *, vocab_size: int | None, pre_tokenizer: str | None) -> Vocabulary:
    """Read tokenizer.json, or vocab.json with merges.txt.

    Raises TokenizerError if a file is broken, a token lies at or beyond vocab_size, there are no merges, or the
    pre-tokenizer is not known; UnsupportedError if the model is not BPE.
    """
    _require_bpe(files)
    tokenizer = read_fast_tokenizer(files)
    pre = name_pre_tokenizer(files, tokenizer, asked=pre_tokenizer)
    text_of = {number: content for content, number in tokenizer.base.items()}
    text_of.update((number, token.content) for number, token in tokenizer.added.items())
    last = max(text_of)
    size = last + 1 if vocab_size is None else vocab_size
    check_fits(text_of[last], last, vocab_size=size, file=tokenizer.file)
    byte_level = _decodes_bytes(files)
    entries = [_entry(number, text_of, tokenizer.added, byte_level=byte_level) for number in range(size)]
    tokens, types = zip(*entries, strict=True)
    return Vocabulary(
        model="gpt2",
        pre=pre,
        tokens=tokens,
        token_types=types,
        merges=_merges(files),
        special=read_special_tokens(files, n_tokens=None),
    )


def _require_bpe(files: TokenizerFiles) -> None:
    if files.tokenizer is None:
        return
    model = typed(files.tokenizer.get("model"), dict, file=_TOKENIZER, key="model")
    kind = model.get("type", "BPE" if "merges" in model else None)  # old files do not say
    if kind != "BPE":
        raise UnsupportedError(
            f"`{_TOKENIZER}`: `model.type` is {shown(kind)}, and without tokenizer.model only `BPE` is read",
            hint="put the tokenizer.model that the model was trained with into the directory",
        )


def _entry(
    number: int, text_of: dict[int, str], added: dict[int, AddedToken], *, byte_level: bool
) -> tuple[bytes, TokenType]:
    if number not in text_of:
        pad, _, pad_type = pad_token(number)
        return pad, pad_type
    if number not in added:
        return text_of[number].encode("utf-8"), TokenType.NORMAL
    token = added[number]
    text = _decoded(token.content) if byte_level and not token.normalized else token.content
    text, type_ = added_token(text, special=token.special)
    return text.encode("utf-8"), type_


def _decoded(content: str) -> str:
    """Return an added token as a byte-level decoder gives it back.

    llama.cpp compares such tokens with raw text, and the decoder takes `Ġ` for the space that it stands for. A token
    that is not in that alphabet, or is no UTF-8 when read so (`é` is byte E9), is meant as it stands; the reference
    puts U+FFFD into the latter.
    """
    if not all(char in BYTE_OF_CHAR for char in content):
        return content
    try:
        return bytes(BYTE_OF_CHAR[char] for char in content).decode("utf-8")
    except UnicodeDecodeError:
        return content


def _decodes_bytes(files: TokenizerFiles) -> bool:
    """Whether the decoder is byte-level; the classes that read vocab.json have no other."""
    if files.tokenizer is None:
        return True
    decoder = entry(files.tokenizer, "decoder", dict, file=_TOKENIZER) or {}
    inner = decoder.get("decoders")
    steps = [decoder, *inner] if isinstance(inner, list) else [decoder]
    return any(isinstance(step, dict) and step.get("type") == "ByteLevel" for step in steps)


def _merges(files: TokenizerFiles) -> tuple[str, ...]:
    model = (files.tokenizer or {}).get("model") or {}
    listed = entry(model, "merges", list, file=_TOKENIZER, at="model.") or []
    merges = tuple(_merge(item) for item in listed) or _merges_txt(files)
    if not merges:
        raise TokenizerError(
            f"no merges in `{_TOKENIZER}` nor in `{_MERGES}`: llama.cpp cannot use a BPE vocabulary without them"
        )
    return merges


def _merge(item: object) -> str:
    """Return a merge as "left right"; a pair may have spaces in it, which become `Ġ` (transformers since 4.45)."""
    if isinstance(item, str):
        return item
    pair = typed(item, list, file=_TOKENIZER, key="model.merges")
    if len(pair) != _PAIR or not all(isinstance(part, str) for part in pair):
        raise TokenizerError(f"`{_TOKENIZER}`: `model.merges` has {shown(item)}, wanted two strings")
    return " ".join(part.replace(" ", "Ġ") for part in pair)


def _merges_txt(files: TokenizerFiles) -> tuple[str, ...]:
    lines = (files.text(_MERGES) or "").split("\n")
    if lines[0].strip().startswith("#"):
        lines = lines[1:]
    parts = (line.split() for line in lines)
    return tuple(" ".join(part) for part in parts if len(part) == _PAIR)
