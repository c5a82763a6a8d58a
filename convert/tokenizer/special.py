"""Special tokens, what the tokenizer adds by itself, merges and chat templates, from a tokenizer's JSON files.

The `gguf` package's SpecialVocab is older than the reference's; the rules here are the reference's.
Source: gguf-py/gguf/vocab.py, SpecialVocab @ 0c1e570.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.json_file import read_json
from convert.tokenizer.files import TokenizerFiles, added_tokens_of, read_text
from convert.tokenizer.merges import read_merges
from convert.tokenizer.vocabulary import SpecialTokens

if TYPE_CHECKING:
    from pathlib import Path

ROLES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ABSENT: Final = object()
INFILL_ROLES: Final = ("prefix", "suffix", "middle", "eot")


def read_special_tokens(
    files: TokenizerFiles,
    *,
    n_vocab: int | None = None,
    with_merges: bool = False,
    roles: Sequence[str] = ROLES,
    fixed_ids: Mapping[str, int] | None = None,
) -> SpecialTokens:
    """Gather the special tokens, by the reference's order of precedence.

    n_vocab: ids from here on are passed over. fixed_ids: taken for roles that no file names.
    """
    reading = _Reading(files, roles, n_vocab)
    if files.tokenizer_json is not None:
        reading.read_post_processor()
        reading.read_normalizer(files.tokenizer_json.get("normalizer"))
    if files.tokenizer_config:
        reading.read_tokenizer_config()
    for role in reading.roles:
        reading.set_id(role, files.model_config.get(f"{role}_token_id"))
    for role, number in (fixed_ids or {}).items():
        reading.set_id(role, number)
    return SpecialTokens(
        ids=reading.ids,
        adds=reading.adds,
        chat_template=read_chat_template(files),
        lowercases=reading.lowercases,
        strips_accents=reading.strips_accents,
        merges=read_merges(files) if with_merges else (),
    )


def read_chat_template(files: TokenizerFiles) -> str | Sequence[Mapping[str, Any]] | None:
    """Find the chat template: in tokenizer_config.json, else chat_template.jinja, else chat_template.json.

    Without tokenizer_config.json there is none: so the reference has it.
    """
    if not files.tokenizer_config:
        return None
    template = files.tokenizer_config.get("chat_template", _ABSENT)
    if template is _ABSENT:
        template = _template_file(files.directory)
    if template is None or isinstance(template, str):
        return template
    if isinstance(template, list):
        return [_named_template(choice, files) for choice in template if _has_template(choice)]
    raise files.wrong("tokenizer_config.json", "chat_template", "a string or a list of named templates")


def _has_template(choice: object) -> bool:
    return not isinstance(choice, Mapping) or choice.get("template") is not None


def _named_template(choice: object, files: TokenizerFiles) -> Mapping[str, Any]:
    if (
        isinstance(choice, Mapping)
        and isinstance(choice.get("template"), str)
        and isinstance(choice.get("name", ""), str)
    ):
        return {"name": choice.get("name", ""), "template": choice["template"]}
    raise files.wrong("tokenizer_config.json", "chat_template", "a list of objects with `name` and `template`")


def _template_file(directory: Path) -> object:
    if (directory / "chat_template.jinja").is_file():
        template = read_text(directory / "chat_template.jinja")
        others = sorted((directory / "additional_chat_templates").glob("*.jinja"))
        named = [{"name": path.stem, "template": read_text(path)} for path in others]
        return [{"name": "default", "template": template}, *named] if named else template
    if (directory / "chat_template.json").is_file():
        return read_json(directory / "chat_template.json").get("chat_template")
    return None


class _Reading:
    """What the files have said so far: they speak in turn, and for most things the first word stands."""

    def __init__(self, files: TokenizerFiles, roles: Sequence[str], n_vocab: int | None) -> None:
        self.files = files
        self.roles = list(roles)
        self.n_vocab = n_vocab
        self.config: dict[str, Any] = dict(files.tokenizer_config)
        self.ids: dict[str, int] = {}
        self.adds: dict[str, bool] = {}
        self.lowercases: bool | None = None
        self.strips_accents: bool | None = None

    def set_id(self, role: str, number: object) -> None:
        """Take an id for a role that has none yet; what is no id, or out of range, is passed over."""
        if isinstance(number, bool) or not isinstance(number, int):
            return  # Llama 3 lists several eos ids in config.json; the tokenizer's own one counts
        if number < 0:
            return  # -1 meant "none" in early Llama configs; the reference refuses them
        if self.n_vocab is None or number < self.n_vocab:
            self.ids.setdefault(role, number)

    def read_tokenizer_config(self) -> None:
        """Take ids of the named tokens, and what is to be added, where the post-processor has not said it."""
        numbers: dict[str, int] = {}
        for token in added_tokens_of(self.files):
            numbers.setdefault(token.content, token.id)
        for role in self.roles:
            adds = self.config.get(f"add_{role}_token")
            if isinstance(adds, bool):
                self.adds.setdefault(role, adds)
            content = _content(self.config.get(f"{role}_token"))
            if content is not None:
                self.set_id(role, numbers.get(content))

    def read_normalizer(self, normalizer: object) -> None:
        """Take the two flags that GGUF has a place for, from a normalizer or a sequence of them."""
        if not isinstance(normalizer, Mapping):
            return
        kind = normalizer.get("type")
        if kind == "Lowercase":
            self.lowercases = True
        elif kind == "StripAccents":
            self.strips_accents = True
        elif kind == "BertNormalizer":
            self.lowercases = _flag(normalizer.get("lowercase"), self.lowercases)
            self.strips_accents = _flag(normalizer.get("strip_accents"), self.strips_accents)
        elif kind == "Sequence":
            for part in _list(normalizer.get("normalizers")):
                self.read_normalizer(part)

    def read_post_processor(self) -> None:
        """Take what the post-processor adds around a text."""
        self._default("bos_token", "cls_token")
        self._default("eos_token", "sep_token")
        post_processor = (self.files.tokenizer_json or {}).get("post_processor")
        if not isinstance(post_processor, Mapping) or not post_processor:
            return
        for processor in _list(post_processor.get("processors", [post_processor])):
            kind = processor.get("type") if isinstance(processor, Mapping) else None
            if kind == "ByteLevel":
                self.adds.setdefault("bos", False)
                self.adds.setdefault("eos", False)
            elif kind == "RobertaProcessing":
                self.adds |= {"bos": True, "eos": True, "sep": True}
                self._read_roberta(processor)
            elif kind == "TemplateProcessing":
                self._read_template(processor)

    def _read_roberta(self, processor: Mapping[str, Any]) -> None:
        for role in ("cls", "sep"):
            named = _list(processor.get(role))
            if self.config and not self.config.get(f"{role}_token") and named:
                self.config[f"{role}_token"] = named[0]

    def _default(self, key: str, other: str) -> None:
        if self.config and not self.config.get(key) and self.config.get(other):
            self.config[key] = self.config[other]

    def _read_template(self, processor: Mapping[str, Any]) -> None:
        single, pair = _list(processor.get("single")), _list(processor.get("pair"))
        first = last = None
        if len(single) > 1:
            first, last = _special_id(single[0]), _special_id(single[-1])
            if first:
                self._read_first(first)
            if last:
                self._read_last(last)
        if pair:
            self._read_pair(pair, first, last)

    def _read_first(self, first: str) -> None:
        if not self.config:
            self.adds["bos"] = True
            return
        if first not in (self.config.get("bos_token"), self.config.get("cls_token")):
            self.config["bos_token"] = self.config.get("bos_token") or first
            self.config["cls_token"] = self.config.get("cls_token") or first
        self.adds["bos"] = first in (self.config.get("bos_token"), self.config.get("cls_token"))

    def _read_last(self, last: str) -> None:
        if self.config and last != self.config.get("eos_token"):
            # The template ends texts with another token than eos: that one becomes eos, the old one end of turn.
            spare = next((role for role in ("eot", "eom") if role not in self.roles), None)
            if spare is not None:
                self.roles.append(spare)
                self.config[f"{spare}_token"] = self.config.get("eos_token")
            self.config["eos_token"] = last
        self.adds["eos"] = True

    def _read_pair(self, pair: list[Any], first: str | None, last: str | None) -> None:
        start = 1 if first and _special_id(pair[0]) == first else 0
        stop = -1 if last and _special_id(pair[-1]) == last else None
        middle = pair[start:stop]
        if not middle or (_sequence_id(middle[0]), _sequence_id(middle[-1])) != ("A", "B") or len(middle) < 3:  # noqa: PLR2004
            return
        separators = (self.config.get("sep_token"), self.config.get("eos_token"))
        between = [_special_id(part) for part in middle[1:-1]]
        adds = bool(between[0]) and between[0] in separators and not last
        if len(between) == 2:  # noqa: PLR2004 - A [sep] [eos] B
            adds = adds or (bool(between[1]) and between[1] in separators)
        self.adds["sep"] = adds
        if adds and not self.config.get("sep_token") and self.config:
            self.config["sep_token"] = self.config.get("eos_token")


def _content(entry: object) -> str | None:
    if isinstance(entry, Mapping):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _special_id(part: object) -> str | None:
    entry = part.get("SpecialToken") if isinstance(part, Mapping) else None
    number = entry.get("id") if isinstance(entry, Mapping) else None
    return number if isinstance(number, str) else None


def _sequence_id(part: object) -> str | None:
    entry = part.get("Sequence") if isinstance(part, Mapping) else None
    number = entry.get("id") if isinstance(entry, Mapping) else None
    return number if isinstance(number, str) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _flag(value: object, otherwise: bool | None) -> bool | None:  # noqa: FBT001 - a flag's value
    return value if isinstance(value, bool) else otherwise
