"""The vocabulary as plain data, and the `tokenizer.*` metadata that says it in a GGUF file.

The order of the entries is the order in which the reference converter first adds each key; adding a key again changes
its value and keeps its place (a Python dict does the same), and empty strings and arrays are not written.
Source: conversion/llama.py, LlamaModel.set_vocab; gguf-py/gguf/vocab.py, SpecialVocab.add_to_gguf; gguf_writer.py
@ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_letters, digits
from typing import TYPE_CHECKING, Final, Literal

from gguf import GGUFValueType, Keys

from convert.gguf_file import KeyValue

if TYPE_CHECKING:
    from gguf import TokenType

TOKEN_ID_KEYS: Final[dict[str, str]] = {
    "bos": Keys.Tokenizer.BOS_ID,
    "eos": Keys.Tokenizer.EOS_ID,
    "unk": Keys.Tokenizer.UNK_ID,
    "sep": Keys.Tokenizer.SEP_ID,
    "pad": Keys.Tokenizer.PAD_ID,
    "mask": Keys.Tokenizer.MASK_ID,
    "eot": Keys.Tokenizer.EOT_ID,
    "eom": Keys.Tokenizer.EOM_ID,
}
"""Parity: the reference has no key for `cls`, and none that it writes for `prefix`, `suffix` and `middle`."""

ADD_TOKEN_KEYS: Final[dict[str, str]] = {
    "bos": Keys.Tokenizer.ADD_BOS,
    "eos": Keys.Tokenizer.ADD_EOS,
    "sep": Keys.Tokenizer.ADD_SEP,
}

# The `gguf` package of PyPI has no name for these two yet: gguf-py/gguf/constants.py, Keys.Tokenizer @ 0c1e570.
NORMALIZER_LOWERCASE_KEY: Final = "tokenizer.ggml.normalizer.lowercase"
NORMALIZER_STRIP_ACCENTS_KEY: Final = "tokenizer.ggml.normalizer.strip_accents"

_NAME_CHARS: Final = frozenset(ascii_letters + digits)


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What the tokenizer files say about special tokens, beyond the tokens themselves.

    ids, add: by kind (`bos`, `eos`, ...), in the order found. named_chat_templates: name (unfiltered), template.
    notes: a line each, for the plan to show.
    """

    ids: tuple[tuple[str, int], ...] = ()
    add: tuple[tuple[str, bool], ...] = ()
    chat_template: str | None = None
    named_chat_templates: tuple[tuple[str, str], ...] = ()
    add_space_prefix: bool | None = None
    normalizer_lowercase: bool | None = None
    normalizer_strip_accents: bool | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Everything that a GGUF file says about a tokenizer.

    model: `llama` (sentencepiece-like) or `gpt2` (byte-level BPE). pre: llama.cpp's name of the pre-tokenizer.
    tokens: a token's id is its index; scores and token_types are parallel to it; a byte-level vocabulary has no scores.
    merges: "left right", by rank; none for `llama`.
    add_space_prefix: written first; prefix_after_tokens: the same, written later.
    late: special tokens that the reference adds after all the rest. remarks: a line each, for the plan to show.
    """

    model: Literal["llama", "gpt2"]
    pre: str
    tokens: tuple[bytes, ...]
    token_types: tuple[TokenType, ...]
    scores: tuple[float, ...] | None = None
    merges: tuple[str, ...] = ()
    add_space_prefix: bool | None = None
    prefix_after_tokens: bool | None = None
    special: SpecialTokens = SpecialTokens()
    late: SpecialTokens = SpecialTokens()
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """All there is to say, for the plan to show."""
        return (*self.remarks, *self.special.notes)


def vocabulary_metadata(vocabulary: Vocabulary) -> tuple[KeyValue, ...]:
    """Return the `tokenizer.*` entries, in the reference's order."""
    entries: dict[str, KeyValue] = {}
    _put(entries, Keys.Tokenizer.ADD_PREFIX, vocabulary.add_space_prefix)
    _put(entries, Keys.Tokenizer.MODEL, vocabulary.model)
    _put(entries, Keys.Tokenizer.PRE, vocabulary.pre)
    _put_array(entries, Keys.Tokenizer.LIST, vocabulary.tokens, GGUFValueType.STRING)
    _put_array(entries, Keys.Tokenizer.SCORES, vocabulary.scores or (), GGUFValueType.FLOAT32)
    _put_array(entries, Keys.Tokenizer.TOKEN_TYPE, tuple(map(int, vocabulary.token_types)), GGUFValueType.INT32)
    _put_array(entries, Keys.Tokenizer.MERGES, vocabulary.merges, GGUFValueType.STRING)
    _put(entries, Keys.Tokenizer.ADD_PREFIX, vocabulary.prefix_after_tokens)
    _put_special(entries, vocabulary.special)
    _put_special(entries, vocabulary.late)
    return tuple(entries.values())


def _put_special(entries: dict[str, KeyValue], special: SpecialTokens) -> None:
    for kind, token_id in special.ids:
        if kind in TOKEN_ID_KEYS:
            _put(entries, TOKEN_ID_KEYS[kind], token_id)
    for kind, add in special.add:
        if kind in ADD_TOKEN_KEYS:
            _put(entries, ADD_TOKEN_KEYS[kind], add)
    _put_chat_templates(entries, special)
    _put(entries, Keys.Tokenizer.ADD_PREFIX, special.add_space_prefix)
    _put(entries, NORMALIZER_LOWERCASE_KEY, special.normalizer_lowercase)
    _put(entries, NORMALIZER_STRIP_ACCENTS_KEY, special.normalizer_strip_accents)


def _put_chat_templates(entries: dict[str, KeyValue], special: SpecialTokens) -> None:
    names: dict[str, None] = {}  # unique, in order; the reference's order is that of a Python set, different each run
    for raw_name, template in special.named_chat_templates:
        name = "".join(char if char in _NAME_CHARS else "_" for char in raw_name)
        names[name] = None
        _put(entries, Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name), template)
    _put_array(entries, Keys.Tokenizer.CHAT_TEMPLATES, tuple(names), GGUFValueType.STRING)
    _put(entries, Keys.Tokenizer.CHAT_TEMPLATE, special.chat_template)


def _put(entries: dict[str, KeyValue], key: str, value: str | int | bool | None) -> None:  # noqa: FBT001 - it is a value
    if value is None or value == "":
        return
    if isinstance(value, bool):
        type_ = GGUFValueType.BOOL
    else:
        type_ = GGUFValueType.STRING if isinstance(value, str) else GGUFValueType.UINT32
    entries[key] = KeyValue(key, value, type_)


def _put_array(entries: dict[str, KeyValue], key: str, value: tuple[object, ...], item_type: GGUFValueType) -> None:
    if value:
        entries[key] = KeyValue(key, value, GGUFValueType.ARRAY, item_type)
