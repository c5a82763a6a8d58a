"""Vocabularies of bytes and ranks, as tiktoken has them: what tokenizer.json and its config would say of them.

    tokenizer.model   Meta's, Llama 3: a line a token, its bytes in base64 and its rank. Special tokens stand in no file
    tekken.json       Mistral's: the same as JSON; its special tokens have the first ids

A merge is any pair of tokens whose bytes together are a third, by the rank of that; so a merge of the lowest rank first
makes the tokens that tiktoken makes.
Source: transformers 5.23, convert_slow_tokenizer.py, TikTokenConverter; 4.45.2, convert_llama_weights_to_hf.py;
mistral-common 1.13, tokens/tokenizers/tekken.py.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, Final

from convert.errors import TokenizerError
from convert.shown import shown
from convert.tokenizer.alphabet import CHAR_OF_BYTE
from convert.tokenizer.pre_tokenizer_table import LLAMA3_REGEX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_TOKENS: Final = 1 << 20
MAX_TOKEN_NBYTES: Final = 1 << 10  # the longest in use is a run of 128 spaces
TIKTOKEN_LINE: Final = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,9})\r?\n?")
# What Meta's tokenizers add behind the ranks, by whether the rope is scaled: Llama 3, and 3.1 to 3.3.
_N_LLAMA_3_SPECIAL: Final = 256
_LLAMA_3: Final = (
    *("<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(4))),
    *("<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"),
    *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)),
)
_LLAMA_3_1: Final = (
    *("<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(2))),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", *(f"<|reserved_special_token_{i}|>" for i in range(3, 248))),
)
LLAMA_3_ROLES: Final = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
TEKKEN_ROLES: Final = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
# Of tekken.json without a list of them: mistral-common, Tekkenizer.DEPRECATED_SPECIAL_TOKENS.
_TEKKEN_SPECIAL: Final = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


def of_tiktoken(data: bytes, config: Mapping[str, Any], *, file: str) -> dict[str, Any]:
    """Say what tokenizer.json would of Meta's `tokenizer.model`.

    config: the model's, whose rope tells Llama 3 and 3.1 apart.
    Raises TokenizerError for lines that are not a token and a rank, or ranks that do not count from 0.
    """
    lines = data.splitlines(keepends=True)
    if len(lines) > MAX_TOKENS:
        raise TokenizerError(f"{shown(file)} has {len(lines)} lines, at most {MAX_TOKENS} are read")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        match = TIKTOKEN_LINE.fullmatch(line)
        if match is None:
            raise TokenizerError(f"{shown(file)}: line {number} is not a token in base64 and its rank")
        ranks[_decoded(match[1].decode(), file)] = int(match[2])
    _check_ranks(ranks, len(lines), file)
    special = _LLAMA_3_1 if _is_scaled(config) else _LLAMA_3
    assert len(special) == _N_LLAMA_3_SPECIAL  # noqa: S101 - of our own table
    named = {name: len(ranks) + place for place, name in enumerate(special)}
    return _tokenizer(ranks, named, first=0, pattern=LLAMA3_REGEX, bos="<|begin_of_text|>")


def of_tekken(values: Mapping[str, Any], *, file: str) -> dict[str, Any]:
    """Say what tokenizer.json would of `tekken.json`.

    Raises TokenizerError for values that are missing or of another type, or ranks that do not count from 0.
    """
    config = _typed(values.get("config"), dict, file, "config")
    n_special = _size(config.get("default_num_special_tokens"), file, "config.default_num_special_tokens")
    n_tokens = _size(config.get("default_vocab_size"), file, "config.default_vocab_size") - n_special
    vocabulary = _typed(values.get("vocab"), list, file, "vocab")[: max(n_tokens, 0)]
    ranks = {_decoded(_typed(token.get("token_bytes"), str, file, "vocab.token_bytes"), file): token.get("rank")
             for token in (_typed(token, dict, file, "vocab") for token in vocabulary)}  # fmt: skip
    _check_ranks(ranks, n_tokens, file)
    pattern = _typed(config.get("pattern"), str, file, "config.pattern")
    return _tokenizer(ranks, _tekken_special(values, n_special, file), first=n_special, pattern=pattern, bos="<s>")


def _tekken_special(values: Mapping[str, Any], n_special: int, file: str) -> dict[str, int]:
    listed = values.get("special_tokens")
    names: Sequence[str] = _TEKKEN_SPECIAL
    if listed is not None:
        tokens = [_typed(token, dict, file, "special_tokens") for token in _typed(listed, list, file, "special_tokens")]
        names = [_typed(token.get("token_str"), str, file, "special_tokens.token_str") for token in tokens]
        if [token.get("rank") for token in tokens] != list(range(len(tokens))):
            raise TokenizerError(f"{shown(file)}: the ranks of `special_tokens` do not count from 0")
    named = {name: place for place, name in enumerate(names)}
    named |= {f"<SPECIAL_{place}>": place for place in range(len(names), n_special)}
    if len(named) != n_special or "<s>" not in named:
        raise TokenizerError(f"{shown(file)} has {len(named)} special tokens with `<s>`, its config says {n_special}")
    return named


def _tokenizer(
    ranks: Mapping[bytes, int], special: Mapping[str, int], *, first: int, pattern: str, bos: str
) -> dict[str, Any]:
    by_rank = sorted(ranks, key=lambda token: ranks[token])
    ordinary = {_text(token): first + rank for rank, token in enumerate(by_rank)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    texts = [{"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB")]
    start = [{"SpecialToken": {"id": bos, "type_id": place}} for place in range(2)]
    template = {
        "type": "TemplateProcessing",
        "single": [start[0], texts[0]],
        "pair": [start[0], texts[0], start[1], texts[1]],
        "special_tokens": {bos: {"id": bos, "ids": [special[bos]], "tokens": [bos]}},
    }
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": name, **flags} for name, number in special.items()],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {"type": "Sequence", "processors": [byte_level | {"trim_offsets": False}, template]},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": ({**special, **ordinary} if first else ordinary),
            "merges": [[_text(left), _text(right)] for left, right in _merges(by_rank, ranks)],
        },
    }


def _merges(by_rank: Iterable[bytes], ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """List the pairs that make each token, in the order of ranks: of the token, of the left part, of the right."""
    merges: list[tuple[bytes, bytes]] = []
    for token in by_rank:
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [(left, right) for left, right in cuts if left in ranks and right in ranks]
        merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def _check_ranks(ranks: Mapping[bytes, Any], n_wanted: int, file: str) -> None:
    if len(ranks) != n_wanted or set(ranks.values()) != set(range(n_wanted)):
        raise TokenizerError(f"{shown(file)}: {len(ranks)} tokens, whose ranks are not 0 to {n_wanted - 1}, each once")


def _is_scaled(config: Mapping[str, Any]) -> bool:
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    return isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) == "llama3"


def _decoded(text: str, file: str) -> bytes:
    try:
        token = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise TokenizerError(f"{shown(file)}: {shown(text)} is not base64") from error
    if not 0 < len(token) <= MAX_TOKEN_NBYTES:
        raise TokenizerError(f"{shown(file)}: a token of {len(token)} bytes, wanted 1 to {MAX_TOKEN_NBYTES}")
    return token


def _text(token: bytes) -> str:
    return "".join(CHAR_OF_BYTE[byte] for byte in token)


def _typed(value: Any, wanted: type, file: str, key: str) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(value, wanted):
        raise TokenizerError(f"{shown(file)}: {shown(key)} is {shown(value)}, wanted {_KINDS[wanted]}")
    return value


def _size(value: object, file: str, key: str) -> int:
    if type(value) is not int or not 0 < value < MAX_TOKENS:
        raise TokenizerError(f"{shown(file)}: {shown(key)} is {shown(value)}, wanted 1 to {MAX_TOKENS - 1}")
    return value


_KINDS: Final[dict[type, str]] = {dict: "an object", list: "a list", str: "a string"}
