"""llama.cpp's name for a BPE pre-tokenizer, from what the tokenizer declares.

The reference hashes the token ids of one text, so a tokenizer with one more token in the wrong place is not known, and
another that happens to agree on that text is. Here the declared steps are compared, as written down in
`pre_tokenizer_table`. What is not in the table is an error that shows it: splitting a text otherwise than the model
learnt it costs quality that nobody notices.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any, Final

from convert.errors import Remedy, TokenizerError, UsageError
from convert.shown import shown
from convert.tokenizer.fast_tokenizer import tokenizer_class
from convert.tokenizer.files import entry, typed
from convert.tokenizer.pre_tokenizer_table import (
    GPT2_REGEX,
    KNOWN_NAMES,
    NFC,
    PRE_TOKENIZERS,
    QWEN2_REGEX,
    PreTokenizerRow,
    Step,
    split,
)

if TYPE_CHECKING:
    from convert.tokenizer.fast_tokenizer import FastTokenizer
    from convert.tokenizer.files import TokenizerFiles

_TOKENIZER: Final = "tokenizer.json"
_MAX_SHOWN_CHARS: Final = 1000
_SENTENCEPIECE_HINT: Final = (
    "it is of the sentencepiece kind: put the tokenizer.model of the model that was fine-tuned into the directory"
)
_NOTHING: Final[tuple[Step, ...]] = ()

Declared = tuple[tuple[Step, ...], tuple[Step, ...], bool]  # normalizer, pre-tokenizer, ignore_merges

# transformers, models/{gpt2,qwen2,gpt_neox}: what a class declares where there is no tokenizer.json.
_OF_CLASS: Final[dict[str, tuple[tuple[Step, ...], tuple[Step, ...]]]] = {
    "GPT2Tokenizer": (_NOTHING, (split(GPT2_REGEX),)),
    "Qwen2Tokenizer": (NFC, (split(QWEN2_REGEX),)),
    "GPTNeoXTokenizer": (NFC, (split(GPT2_REGEX),)),
}


def check_pre_tokenizer_name(name: str) -> None:
    """Raise UsageError if llama.cpp knows no pre-tokenizer of that name."""
    if name not in KNOWN_NAMES:
        close = difflib.get_close_matches(name, KNOWN_NAMES, n=3)
        meant = f"did you mean {' or '.join(close)}? " if close else ""
        raise UsageError(
            f"llama.cpp knows no pre-tokenizer {shown(name)}",
            hint=f"{meant}the names are: {', '.join(sorted(KNOWN_NAMES))}",
        )


def name_pre_tokenizer(files: TokenizerFiles, tokenizer: FastTokenizer, *, asked: str | None) -> str:
    """Return the name for `tokenizer.ggml.pre`: the one asked for, or the one whose row is declared.

    Raises TokenizerError, showing what is declared, if no row is.
    """
    declared = _declared(files)
    tokens = {*tokenizer.base, *(token.content for token in tokenizer.added.values())}
    row = next((row for row in PRE_TOKENIZERS if declared and _matches(row, declared, tokens)), None)
    if asked is not None:
        if _is_sentencepiece_like(files, tokenizer) and (row is None or row.name != asked):
            raise refused_pre_tokenizer(asked, files)
        return asked
    if row is not None:
        return row.name
    message = f"the pre-tokenizer is not one that is known: {_shown_declaration(files)}"
    if _is_sentencepiece_like(files, tokenizer):
        raise TokenizerError(message, hint=_SENTENCEPIECE_HINT)
    raise TokenizerError(
        message, remedies=(Remedy.NAME_PRE_TOKENIZER,), hint=f"known are {', '.join(sorted(KNOWN_NAMES))}"
    )


def refused_pre_tokenizer(name: str, files: TokenizerFiles) -> UsageError:
    """Make the error for a name that a tokenizer has no use for, and would be broken by."""
    return UsageError(
        f"the pre-tokenizer {shown(name)} is for byte-level BPE, and the tokenizer in {shown(files.directory)} is of "
        "the sentencepiece kind, which has none",
        hint=None if files.has_pieces else _SENTENCEPIECE_HINT,
    )


def _is_sentencepiece_like(files: TokenizerFiles, tokenizer: FastTokenizer) -> bool:
    """Whether words begin with `▁`, not with the `Ġ` of a byte-level alphabet, or bytes are pieces of their own."""
    model = (files.tokenizer or {}).get("model")
    if isinstance(model, dict) and model.get("byte_fallback") is True:
        return True
    return any("▁" in token for token in tokenizer.base) and not any("Ġ" in token for token in tokenizer.base)


def _matches(row: PreTokenizerRow, declared: Declared, tokens: set[str]) -> bool:
    normalizer, steps, ignore_merges = declared
    return (
        row.steps == steps
        and normalizer in ((_NOTHING, NFC) if row.normalizer is None else (row.normalizer,))
        and row.ignore_merges in (None, ignore_merges)
        and tokens.issuperset(row.tokens)
    )


def _declared(files: TokenizerFiles) -> Declared | None:
    if files.tokenizer is None:
        return _declared_by_class(files)
    model = typed(files.tokenizer.get("model"), dict, file=_TOKENIZER, key="model")
    ignore_merges = entry(model, "ignore_merges", bool, file=_TOKENIZER, at="model.") or False
    normalizer = _flat(files.tokenizer, "normalizer", "normalizers")
    steps = _flat(files.tokenizer, "pre_tokenizer", "pretokenizers")
    return (
        tuple(_normalizer_step(item) for item in normalizer),
        tuple(step for item in steps for step in _steps(item)),
        ignore_merges,
    )


def _declared_by_class(files: TokenizerFiles) -> Declared | None:
    of_class = _OF_CLASS.get(tokenizer_class(files))
    if of_class is None:
        return None
    normalizer, steps = of_class
    prefix = entry(files.config or {}, "add_prefix_space", bool, file="tokenizer_config.json") or False
    return normalizer, (*steps, ("ByteLevel", prefix)), False


def _flat(tokenizer: dict[str, Any], key: str, inner: str) -> list[dict[str, Any]]:
    """Return the steps of a Sequence, however deep; JSON that was read is never deeper than a program's stack."""
    top = entry(tokenizer, key, dict, file=_TOKENIZER)
    found: list[dict[str, Any]] = []
    waiting = [] if top is None else [top]
    while waiting:
        item = typed(waiting.pop(), dict, file=_TOKENIZER, key=key)
        if item.get("type") == "Sequence":
            waiting += reversed(entry(item, inner, list, file=_TOKENIZER, at=f"{key}.") or [])
        else:
            found.append(item)
    return found


def _steps(item: dict[str, Any]) -> tuple[Step, ...]:
    """Return a declared step as the table writes it; a ByteLevel that splits becomes that Split and a ByteLevel."""
    kind = item.get("type")
    if kind == "Split":
        return (_split_step(item),)
    if kind == "ByteLevel":
        prefix = entry(item, "add_prefix_space", bool, file=_TOKENIZER, at="pre_tokenizer.")
        step = ("ByteLevel", prefix is not False)
        return (split(GPT2_REGEX), step) if item.get("use_regex", True) else (step,)
    if kind == "Digits":
        return (("Digits", item.get("individual_digits", False)),)
    if kind == "Punctuation":
        return (("Punctuation", item.get("behavior", "Isolated")),)
    return ((json.dumps(item, sort_keys=True),),)


def _split_step(item: dict[str, Any]) -> Step:
    pattern, behavior, invert = item.get("pattern"), item.get("behavior"), item.get("invert", False)
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(pattern, dict) and isinstance(text := pattern.get("String"), str) and invert is False:
        return ("SplitString", text, behavior)
    if (
        not isinstance(regex, str)
        or behavior not in ("Isolated", "Removed")
        or (behavior == "Removed") != (invert is True)
    ):
        return (json.dumps(item, sort_keys=True),)
    # A line break in a class is written as itself or as an escape; matches kept, or all but matches removed, are one.
    return split(regex.replace("\r", r"\r").replace("\n", r"\n"))


def _normalizer_step(item: dict[str, Any]) -> Step:
    if item.get("type") == "NFC":
        return ("NFC",)
    pattern, content = item.get("pattern"), item.get("content")
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if item.get("type") == "Replace" and isinstance(text, str) and isinstance(content, str):
        return ("Replace", text, content)
    return (json.dumps(item, sort_keys=True),)


def _shown_declaration(files: TokenizerFiles) -> str:
    if files.tokenizer is None:
        named = tokenizer_class(files)
        return f"there is no `{_TOKENIZER}`, and tokenizer_config.json " + (
            f"names the class {shown(named)}" if named else "names no class"
        )
    parts = {key: files.tokenizer.get(key) for key in ("normalizer", "pre_tokenizer")}
    text = json.dumps(parts, ensure_ascii=True)
    cut = text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"
    return f"`{_TOKENIZER}` declares {cut}"
