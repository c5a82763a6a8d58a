"""`tokenizer.json`, or vocab.json and merges.txt: the model's vocabulary and the tokens added to it, with their ids.

The reference asks transformers' AutoTokenizer, which takes seconds and 200 MB. What it answers follows from the files:
a token that is added keeps the id that the model's vocabulary gives it, or gets the next free one; a later mention of
the same token changes its flags. The ids written in the files say the same, or the files contradict each other.
Source: tokenizers, AddedVocabulary.add_tokens; transformers, PreTrainedTokenizerBase._from_pretrained and
TokenizersBackend.__init__ (5.23; 4.57 differs in names only).
"""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from convert.errors import TokenizerError
from convert.shown import shown
from convert.tokenizer.files import entry, token_id, typed, vocabulary_of
from convert.tokenizer.sentencepiece_model import decoder_id
from convert.tokenizer.special_tokens import token_content

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.tokenizer.files import TokenizerFiles

_TOKENIZER: Final = "tokenizer.json"
_CONFIG: Final = "tokenizer_config.json"
_ADDED: Final = "added_tokens.json"
_MAP: Final = "special_tokens_map.json"
_VOCAB: Final = "vocab.json"

NAMED: Final = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
EXTRA: Final = ("extra_special_tokens", "additional_special_tokens")

# transformers, models/{llama,gemma,gpt2,qwen2,gpt_neox}/tokenization_*.py: the tokens a class has unless the config
# says otherwise. A class that is not here has none.
CLASS_DEFAULTS: Final[dict[str, dict[str, str]]] = {
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GemmaTokenizer": {f"{kind}_token": f"<{kind}>" for kind in ("unk", "bos", "eos", "pad", "mask")},
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
    "GPTNeoXTokenizer": {
        **dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
        "pad_token": "<|padding|>",
    },
}


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token outside the reach of merges. declared_id: what a file says, if it does. file: which."""

    content: str
    special: bool
    normalized: bool
    file: str
    declared_id: int | None = None


@dataclass(frozen=True, slots=True)
class FastTokenizer:
    """What a fast tokenizer knows of its vocabulary.

    base: the model's own token → id. added: id → token, by id; some may be in base too.
    special_ids: of the tokens with a role (BOS, padding, ...) or listed as extra special tokens; not of every added
    token that is marked special.
    """

    base: dict[str, int]
    added: dict[int, AddedToken]
    special_ids: frozenset[int]
    file: str


def tokenizer_class(files: TokenizerFiles) -> str:
    """Return the class named in tokenizer_config.json, without its `Fast`; empty where there is none."""
    return (entry(files.config or {}, "tokenizer_class", str, file=_CONFIG) or "").removesuffix("Fast")


def read_fast_tokenizer(files: TokenizerFiles) -> FastTokenizer:
    """Read the vocabulary with its added tokens.

    Raises TokenizerError on wrong types, an id twice, or an added token whose declared id is not where it goes.
    """
    file, base = _base_vocabulary(files)
    vocabulary = _Added(base)
    for token in _added_tokens(files):
        vocabulary.add(token)
    roles = _special_tokens(files, vocabulary)
    for token in roles:
        if token.content not in vocabulary.ids:
            vocabulary.add(token)
    everything = ChainMap(vocabulary.ids, base)
    special_ids = frozenset(everything[token.content] for token in roles if token.content)
    if not everything:
        raise TokenizerError(f"{shown(file)} has no tokens")
    added = dict(sorted(vocabulary.tokens.items()))
    return FastTokenizer(base=base, added=added, special_ids=special_ids, file=file)


class _Added:
    """The added tokens while they are collected, each at its id."""

    def __init__(self, base: dict[str, int]) -> None:
        self.base = base
        self.ids: dict[str, int] = {}
        self.tokens: dict[int, AddedToken] = {}
        self._base_ids = frozenset(base.values())

    def add(self, token: AddedToken) -> None:
        if not token.content:
            return
        number = self.ids.get(token.content, self.base.get(token.content))
        if number is None:
            number = max(len(self.base), max(self.tokens, default=-1) + 1)
            if number in self._base_ids:
                raise TokenizerError(f"{shown(token.file)}: no id is free for the added token {shown(token.content)}")
        if token.declared_id not in (None, number):
            raise TokenizerError(
                f"{shown(token.file)}: the added token {shown(token.content)} has id {token.declared_id},"
                f" the tokenizers library gives it {number}",
                hint="load the tokenizer with transformers, check its ids, and save it again",
            )
        self.ids[token.content] = number
        self.tokens[number] = token


def _base_vocabulary(files: TokenizerFiles) -> tuple[str, dict[str, int]]:
    if files.tokenizer is not None:
        model = typed(files.tokenizer.get("model"), dict, file=_TOKENIZER, key="model")
        return _TOKENIZER, vocabulary_of(model.get("vocab"), file=_TOKENIZER, key="model.vocab")
    return _VOCAB, vocabulary_of(files.json(_VOCAB), file=_VOCAB, key=_VOCAB)


def _added_tokens(files: TokenizerFiles) -> Iterator[AddedToken]:
    """Yield tokenizer.json's added tokens, then tokenizer_config.json's or, without any there, added_tokens.json's."""
    in_json = entry(files.tokenizer or {}, "added_tokens", list, file=_TOKENIZER) or []
    for item in in_json:
        data = typed(item, dict, file=_TOKENIZER, key="added_tokens")
        content = entry(data, "content", str, file=_TOKENIZER, at="added_tokens.") or ""
        number = token_id(data.get("id"), file=_TOKENIZER, key=f"added_tokens.{content}")
        yield _added_token(data, file=_TOKENIZER, at=f"added_tokens.{content}.", declared_id=number)
    decoder = entry(files.config or {}, "added_tokens_decoder", dict, file=_CONFIG)
    if decoder is not None:
        yield from _from_decoder(decoder)
    else:
        known = {typed(item, dict, file=_TOKENIZER, key="added_tokens").get("content") for item in in_json}
        yield from _from_added_json(files, known)


def _from_decoder(decoder: dict[str, Any]) -> Iterator[AddedToken]:
    for number, key in sorted((decoder_id(key), key) for key in decoder):
        at = f"added_tokens_decoder.{key}"
        data = typed(decoder[key], dict, file=_CONFIG, key=at)
        yield _added_token(data, file=_CONFIG, at=f"{at}.", declared_id=number)


def _from_added_json(files: TokenizerFiles, known: set[Any]) -> Iterator[AddedToken]:
    special = {token.content for token in _declared_special_tokens(files)}
    added = vocabulary_of(files.json(_ADDED) or {}, file=_ADDED, key=_ADDED)
    for content, number in sorted(added.items(), key=lambda item: item[1]):
        if content not in known:
            marked = content in special
            yield AddedToken(content, special=marked, normalized=not marked, file=_ADDED, declared_id=number)


def _added_token(data: dict[str, Any], *, file: str, at: str, declared_id: int | None = None) -> AddedToken:
    content = typed(data.get("content"), str, file=file, key=f"{at}content")
    special = bool(entry(data, "special", bool, file=file, at=at))
    normalized = entry(data, "normalized", bool, file=file, at=at)
    return AddedToken(
        content,
        special=special,
        normalized=not special if normalized is None else normalized,
        file=file,
        declared_id=declared_id,
    )


def _special_tokens(files: TokenizerFiles, vocabulary: _Added) -> list[AddedToken]:
    """Return the tokens with a role, and those that the tokenizer's class has by default and the vocabulary holds."""
    declared = list(_declared_special_tokens(files))
    said = {*(files.config or {}), *_map(files)}
    for key, content in CLASS_DEFAULTS.get(tokenizer_class(files), {}).items():
        if key not in said and (content in vocabulary.ids or content in vocabulary.base):
            declared.append(AddedToken(content, special=True, normalized=False, file=_CONFIG))
    return declared


def _map(files: TokenizerFiles) -> dict[str, Any]:
    """Return special_tokens_map.json, which counts only where tokenizer_config.json has no `added_tokens_decoder`."""
    return {} if "added_tokens_decoder" in (files.config or {}) else files.json(_MAP) or {}


def _declared_special_tokens(files: TokenizerFiles) -> Iterator[AddedToken]:
    """Yield the tokens with a role: named ones, the model's own `*_token`, then the extra ones."""
    file = _MAP if _map(files) else _CONFIG
    said = {**(files.config or {}), **_map(files)}
    own = [key for key in said if key.endswith("_token") and key not in NAMED and isinstance(said[key], (str, dict))]
    for key in (*NAMED, *own):
        if (content := token_content(said.get(key), key=key)) is not None:
            yield AddedToken(content, special=True, normalized=False, file=file)
    for key in EXTRA:
        value = said.get(key) or []
        values = list(value.values()) if isinstance(value, dict) else typed(value, list, file=file, key=key)
        for item in values:
            if (content := token_content(item, key=key)) is not None:
                yield AddedToken(content, special=True, normalized=False, file=file)
