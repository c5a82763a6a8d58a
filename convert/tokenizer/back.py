"""A GGUF file's `tokenizer.*` metadata as the files of a Hugging Face directory.

    llama    tokenizer.model, and tokenizer.json with the merges that its scores say; without scores the latter only
    gpt2     tokenizer.json, whose splitting is the first row of `pre_tokenizer_table` with the file's name
    both     tokenizer_config.json: tokens with a role, what is added around a text, chat templates

Not in a GGUF, and then as most tokenizers have it: normalizers of byte-level BPE, flags of added tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, Final

from gguf import Keys, TokenType

from convert.errors import UnsupportedError
from convert.shown import shown
from convert.tokenizer.byte_level_back import byte_level_model
from convert.tokenizer.pieces_back import pieces_model, tokenizer_model
from convert.tokenizer.sentencepiece_model import ADDED_SCORE, PAD_SCORE, looks_special
from convert.tokenizer.special_tokens import KINDS
from convert.tokenizer.vocabulary import ADD_TOKEN_KEYS, TOKEN_ID_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.tokenizer.rules import TokenizerRule

_EOS: Final = TOKEN_ID_KEYS["eos"]
_ADDED: Final = (TokenType.CONTROL, TokenType.USER_DEFINED)
_FLAGS: Final = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a file says of its tokens: texts, types and, of a sentencepiece vocabulary, scores, by id."""

    texts: tuple[str, ...]
    types: tuple[TokenType, ...]
    scores: tuple[float, ...]

    def is_pad(self, number: int) -> bool:
        """Whether a token only stands where the embeddings have a row."""
        return self.types[number] is TokenType.UNUSED and self.texts[number] == f"[PAD{number}]"

    def added(self) -> Iterator[int]:
        """Yield the ids of tokens outside the reach of merges."""
        return (number for number, type_ in enumerate(self.types) if type_ in _ADDED)


def stated_elsewhere(values: Mapping[str, Any], rule: TokenizerRule) -> dict[str, dict[str, Any]]:
    """Give what a family's rule reads from files that are not the tokenizer's: file → key → value."""
    found: dict[str, dict[str, Any]] = {}
    for kind, file, key, default in rule.always.stated:
        number = values.get(TOKEN_ID_KEYS[kind])
        if number is not None:  # of a list the first counts, and a list of one does not
            found.setdefault(file, {})[key] = number if default is not None else [number, values.get(_EOS, number)]
    roles = _roles(values, rule)
    named = _named(_tokens(values), roles)
    unnamed = {f"{kind}_token_id": number for kind, number in roles.items() if kind not in named and kind in KINDS}
    return {**found, "config.json": {**unnamed, **found.get("config.json", {})}}


def _roles(values: Mapping[str, Any], rule: TokenizerRule) -> dict[str, int]:
    """Give the ids of tokens with a role, without those that the family's rule says itself."""
    roles = {kind: values[key] for kind, key in TOKEN_ID_KEYS.items() if key in values}
    return {kind: number for kind, number in roles.items() if (kind, number) not in rule.always.ids}


def _named(tokens: Tokens, roles: Mapping[str, int]) -> dict[str, str]:
    """Give the texts of roles that tokenizer_config.json names: tokens kept apart from merges, up to the first other.

    What is behind that is said by config.json too, so that all are found in the file's order.
    """
    first = dict(takewhile(lambda role: _is_added(tokens, role[1]), roles.items()))
    return {kind: tokens.texts[number] for kind, number in first.items()}


def tokenizer_files(values: Mapping[str, Any], rule: TokenizerRule, *, with_json: bool = True) -> dict[str, bytes]:
    """Give the files, by name. values: the metadata. with_json: tokenizer.json beside a tokenizer.model.

    rule: the family's, whose readers say some tokens themselves.

    Raises UnsupportedError for a kind of tokenizer, or a name of a pre-tokenizer, that is not written.
    """
    tokens = _tokens(values)
    roles = _roles(values, rule)
    adds = {kind: values[key] for kind, key in ADD_TOKEN_KEYS.items() if key in values}
    config = _config(values, tokens, roles, adds)
    files: dict[str, bytes] = {}
    if values.get(Keys.Tokenizer.MODEL) == "llama":
        prefix = values.get(Keys.Tokenizer.ADD_PREFIX, True)
        declared = pieces_model(tokens.texts, tokens.types, tokens.scores, roles.get("unk"), prefix=prefix)
        if set(tokens.scores) - {ADDED_SCORE, PAD_SCORE}:
            files["tokenizer.model"] = tokenizer_model(*_pieces(tokens), roles, prefix=prefix)
            decoder, marked = _beside_pieces(tokens)
            config["added_tokens_decoder"] = decoder
            files |= {"added_tokens.json": _json(marked)} if marked else {}
        else:
            others = [number for number in tokens.added() if number not in roles.values()]
            control = [tokens.texts[number] for number in others if tokens.types[number] is TokenType.CONTROL]
            config |= {"additional_special_tokens": control} if control else {}
            declared["model"]["vocab"] = dict(zip(_texts_of_model(tokens), count()))
    else:
        declared = byte_level_model(values, tokens.texts, tokens.types)
    if with_json or "tokenizer.model" not in files:
        added = [{"id": number, **_added(tokens, number)} for number in tokens.added()]
        around = _post_processor(config, roles, adds)
        whole = {"version": "1.0", "added_tokens": added, **declared, "post_processor": around}
        files["tokenizer.json"] = json.dumps(whole, ensure_ascii=False).encode("utf-8", "surrogatepass")
    files["tokenizer_config.json"] = _json(config)
    return files


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _tokens(values: Mapping[str, Any]) -> Tokens:
    model = values.get(Keys.Tokenizer.MODEL)
    if model not in ("llama", "gpt2"):
        raise UnsupportedError(f"the file's tokenizer is of the kind {shown(model)}, which does not go back to files")
    texts = values.get(Keys.Tokenizer.LIST, ())
    types, scores = values.get(Keys.Tokenizer.TOKEN_TYPE), values.get(Keys.Tokenizer.SCORES)
    try:
        return Tokens(
            tuple(text.decode("utf-8") if isinstance(text, bytes) else text for text in texts),
            tuple(map(TokenType, types or (TokenType.NORMAL,) * len(texts))),
            tuple(scores or (0.0,) * len(texts)),
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise UnsupportedError(f"the file's tokens cannot be written as text: {error}") from error


def _added(tokens: Tokens, number: int) -> dict[str, Any]:
    return {"content": tokens.texts[number], **_FLAGS, "special": tokens.types[number] is TokenType.CONTROL}


def _config(
    values: Mapping[str, Any], tokens: Tokens, roles: Mapping[str, int], adds: Mapping[str, bool]
) -> dict[str, Any]:
    """Make tokenizer_config.json. A token that is not kept apart from merges has its role in config.json alone."""
    named = {f"{kind}_token": text for kind, text in _named(tokens, roles).items()}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"add_{kind}_token": add for kind, add in adds.items()},
        **named,
    }
    if (prefix := values.get(Keys.Tokenizer.ADD_PREFIX)) is not None:
        config["add_prefix_space"] = prefix
    if (templates := _templates(values)) is not None:
        config["chat_template"] = templates
    return config


def _is_added(tokens: Tokens, number: int) -> bool:
    return number < len(tokens.types) and tokens.types[number] in _ADDED


def _templates(values: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    default = values.get(Keys.Tokenizer.CHAT_TEMPLATE)
    names = [
        name.decode() if isinstance(name, bytes) else name for name in values.get(Keys.Tokenizer.CHAT_TEMPLATES, ())
    ]
    if not names:
        return default
    listed = {
        "default": default,
        **{name: values.get(Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name)) for name in names},
    }
    return [{"name": name, "template": text} for name, text in listed.items() if text is not None]


def _pieces(tokens: Tokens) -> tuple[list[str], list[TokenType], list[float]]:
    """Give the tokens that stand in tokenizer.model: up to the last that is neither added nor a pad."""
    numbers = [
        number for number in range(len(tokens.texts)) if not (tokens.is_pad(number) or _is_beside(tokens, number))
    ]
    end = max(numbers, default=-1) + 1
    return list(tokens.texts[:end]), list(tokens.types[:end]), list(tokens.scores[:end])


def _texts_of_model(tokens: Tokens) -> tuple[str, ...]:
    """Give the texts before the tokens that were added behind all others."""
    kept = [number for number, type_ in enumerate(tokens.types) if type_ not in _ADDED and not tokens.is_pad(number)]
    return tokens.texts[: max(kept, default=-1) + 1]


def _is_beside(tokens: Tokens, number: int) -> bool:
    """Whether a token was added beside tokenizer.model."""
    return tokens.types[number] in _ADDED and tokens.scores[number] == ADDED_SCORE


def _beside_pieces(tokens: Tokens) -> tuple[dict[str, Any], dict[str, int]]:
    """Give `added_tokens_decoder`, and what added_tokens.json must hold: there a look does not make a control token."""
    beside = [number for number in range(len(tokens.texts)) if _is_beside(tokens, number)]
    marked = {
        number
        for number in beside
        if tokens.types[number] is TokenType.USER_DEFINED and looks_special(tokens.texts[number])
    }
    decoder = {str(number): _added(tokens, number) for number in beside if number not in marked}
    return decoder, {tokens.texts[number]: number for number in beside if number in marked}


def _post_processor(
    config: Mapping[str, Any], roles: Mapping[str, int], adds: Mapping[str, bool]
) -> dict[str, Any] | None:
    """Put BOS before a text, and EOS behind, where the file says so."""
    ends = {kind: config.get(f"{kind}_token") for kind in ("bos", "eos") if adds.get(kind)}
    first, last = ([_special(ends[kind])] if ends.get(kind) else [] for kind in ("bos", "eos"))
    if not first and not last:
        return None
    one, other = ({"Sequence": {"id": id_, "type_id": 0}} for id_ in "AB")
    between = first if "sep" in adds else []  # as published tokenizers have it, whose readers then find no separator
    tokens = {text: {"id": text, "ids": [roles[kind]], "tokens": [text]} for kind, text in ends.items() if text}
    return {
        "type": "TemplateProcessing",
        "single": [*first, one, *last],
        "pair": [*first, one, *between, other, *last],
        "special_tokens": tokens,
    }


def _special(text: object) -> dict[str, Any]:
    return {"SpecialToken": {"id": text, "type_id": 0}}
