"""What a tokenizer is to GGUF: plain data, and the metadata it becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gguf import GGUFValueType, Keys, TokenType

from convert.gguf_file import KeyValue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Special tokens and how they are used, in the order in which they were found.

    ids: role ("bos", "eos", "unk", …) to token id. adds: role to whether the tokenizer adds it by itself.
    chat_template: one template, a list of named ones, or None. normalizer flags: None where not declared.
    """

    ids: Mapping[str, int] = field(default_factory=dict)
    adds: Mapping[str, bool] = field(default_factory=dict)
    chat_template: str | Sequence[Mapping[str, Any]] | None = None
    lowercases: bool | None = None
    strips_accents: bool | None = None
    merges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer, complete.

    model: "llama" (sentencepiece) or "gpt2" (byte-level BPE). pre: the pre-tokenizer's name.
    tokens, types, scores: by id, one each; scores only for "llama". infill: CodeLlama's extra tokens.
    """

    model: str
    pre: str
    tokens: tuple[bytes, ...]
    types: tuple[TokenType, ...]
    scores: tuple[float, ...] | None
    special: SpecialTokens
    add_space_prefix: bool | None = None
    infill: SpecialTokens | None = None
    add_bos: bool | None = None


def vocabulary_metadata(vocabulary: Vocabulary) -> tuple[KeyValue, ...]:
    """Write a vocabulary as metadata entries, in the reference's order.

    An entry written again keeps its first place, as in the reference; empty strings and arrays are left out.
    Source: conversion/llama.py, LlamaModel.set_vocab; gguf-py/gguf/vocab.py, SpecialVocab.add_to_gguf @ 0c1e570.
    """
    names = Keys.Tokenizer
    entries = [
        _flag(names.ADD_PREFIX, vocabulary.add_space_prefix),
        KeyValue(names.MODEL, vocabulary.model, GGUFValueType.STRING),
        KeyValue(names.PRE, vocabulary.pre, GGUFValueType.STRING),
        _array(names.LIST, vocabulary.tokens),
        _array(names.SCORES, vocabulary.scores or ()),
        _array(names.TOKEN_TYPE, tuple(map(int, vocabulary.types))),
        *_special_entries(vocabulary.special),
    ]
    if vocabulary.infill is not None:
        entries += _special_entries(vocabulary.infill)
    entries.append(_flag(names.ADD_BOS, vocabulary.add_bos))
    return tuple({entry.key: entry for entry in entries if entry is not None}.values())


_ID_KEYS: Mapping[str, str] = {
    "bos": Keys.Tokenizer.BOS_ID,
    "eos": Keys.Tokenizer.EOS_ID,
    "unk": Keys.Tokenizer.UNK_ID,
    "sep": Keys.Tokenizer.SEP_ID,
    "pad": Keys.Tokenizer.PAD_ID,
    "mask": Keys.Tokenizer.MASK_ID,
    "eot": Keys.Tokenizer.EOT_ID,
    "eom": Keys.Tokenizer.EOM_ID,
}
_ADD_KEYS: Mapping[str, str] = {
    "bos": Keys.Tokenizer.ADD_BOS,
    "eos": Keys.Tokenizer.ADD_EOS,
    "sep": Keys.Tokenizer.ADD_SEP,
}


def _special_entries(special: SpecialTokens) -> list[KeyValue | None]:
    entries: list[KeyValue | None] = [_array(Keys.Tokenizer.MERGES, special.merges)]
    # Roles without a key of their own ("cls", CodeLlama's "prefix", …) are passed over, as in the reference.
    entries += [
        KeyValue(_ID_KEYS[role], number, GGUFValueType.UINT32)
        for role, number in special.ids.items()
        if role in _ID_KEYS
    ]
    entries += [_flag(_ADD_KEYS[role], value) for role, value in special.adds.items() if role in _ADD_KEYS]
    entries += _template_entries(special.chat_template)
    entries.append(_flag("tokenizer.ggml.normalizer.lowercase", special.lowercases))
    entries.append(_flag("tokenizer.ggml.normalizer.strip_accents", special.strips_accents))
    return entries


def _template_entries(template: str | Sequence[Mapping[str, Any]] | None) -> list[KeyValue | None]:
    if template is None or isinstance(template, str):
        return [_text(Keys.Tokenizer.CHAT_TEMPLATE, template or "")]
    entries: list[KeyValue | None] = []
    default, names = "", []
    for choice in template:
        name = "".join(letter if letter in _NAME_CHARACTERS else "_" for letter in choice["name"])
        if name == "default":
            default = choice["template"]
        elif name:
            entries.append(_text(Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name), choice["template"]))
            names.append(name)
    # The reference writes the names in the order of a Python set, which changes from run to run; we sort them.
    entries.append(_array(Keys.Tokenizer.CHAT_TEMPLATES, tuple(sorted(set(names)))))
    entries.append(_text(Keys.Tokenizer.CHAT_TEMPLATE, default))
    return entries


def _text(key: str, value: str) -> KeyValue | None:
    return KeyValue(key, value, GGUFValueType.STRING) if value else None


def _flag(key: str, value: bool | None) -> KeyValue | None:  # noqa: FBT001 - the value to write
    return None if value is None else KeyValue(key, value, GGUFValueType.BOOL)


def _array(key: str, values: tuple[Any, ...]) -> KeyValue | None:
    return KeyValue(key, values, GGUFValueType.ARRAY) if values else None
