"""A byte-level BPE vocabulary of a GGUF file as the parts of a tokenizer.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gguf import Keys, TokenType

from convert.errors import UnsupportedError
from convert.shown import shown
from convert.tokenizer.pre_tokenizer_table import PRE_TOKENIZERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convert.tokenizer.pre_tokenizer_table import PreTokenizerRow, Step

_NO_MORE: Final = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def byte_level_model(values: Mapping[str, Any], texts: Sequence[str], types: Sequence[TokenType]) -> dict[str, Any]:
    """Give normalizer, pre-tokenizer, decoder and model.

    Raises UnsupportedError for a pre-tokenizer that no row of the table describes.
    """
    vocab = {text: number for number, text in enumerate(texts) if types[number] is not TokenType.UNUSED}
    row = _row(values.get(Keys.Tokenizer.PRE), vocab)
    merges = [merge.decode() if isinstance(merge, bytes) else merge for merge in values.get(Keys.Tokenizer.MERGES, ())]
    return {
        "normalizer": _sequence("normalizers", [_normalizer(step) for step in row.normalizer or ()]),
        "pre_tokenizer": _sequence("pretokenizers", [_step(step) for step in row.steps]),
        "decoder": _NO_MORE,
        "model": {
            "type": "BPE",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": bool(row.ignore_merges),
            "vocab": vocab,
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }


def _row(name: object, vocab: Mapping[str, int]) -> PreTokenizerRow:
    named = [row for row in PRE_TOKENIZERS if row.name == name]
    found = next((row for row in named if vocab.keys() >= set(row.tokens)), named[0] if named else None)
    if found is None:
        raise UnsupportedError(
            f"the splitting of the pre-tokenizer {shown(name)} is not known as steps of a tokenizer.json",
            hint="take the tokenizer's files from the model that the file was made of",
        )
    return found


def _sequence(key: str, steps: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not steps:
        return None
    return steps[0] if len(steps) == 1 else {"type": "Sequence", key: list(steps)}


def _step(step: Step) -> dict[str, Any]:
    """Write a step of the table as tokenizers declares it."""
    match step:
        case ("Split", str(regex), behavior):
            return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}
        case ("SplitString", text, behavior):
            return {"type": "Split", "pattern": {"String": text}, "behavior": behavior, "invert": False}
        case ("ByteLevel", prefix):
            return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": False}
        case ("Digits", individual):
            return {"type": "Digits", "individual_digits": individual}
        case ("Punctuation", behavior):
            return {"type": "Punctuation", "behavior": behavior}
    raise AssertionError(step)


def _normalizer(step: Step) -> dict[str, Any]:
    match step:
        case ("NFC",):
            return {"type": "NFC"}
        case ("Replace", text, content):
            return {"type": "Replace", "pattern": {"String": text}, "content": content}
    raise AssertionError(step)
