"""Special token ids, what is added around a text, chat templates: as the reference reads them from the files.

The `gguf` package of PyPI has a reader of the same name that is older than the reference's and says other things (no
ByteLevel post-processor, no BOS from a template, the config wins over the post-processor, no normalizer flags).
Source: gguf-py/gguf/vocab.py, SpecialVocab @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from convert.errors import TokenizerError
from convert.shown import shown
from convert.tokenizer.files import MAX_TOKENS, entry, token_id, typed
from convert.tokenizer.vocabulary import SpecialTokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.tokenizer.files import TokenizerFiles

KINDS: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
CODE_LLAMA_KINDS: Final = ("prefix", "suffix", "middle", "eot")

_TOKENIZER: Final = "tokenizer.json"
_CONFIG: Final = "tokenizer_config.json"
_MODEL_CONFIG: Final = "config.json"
_NO_TOKEN_ID: Final = -1  # Llama 1 and 2 configs say "pad_token_id": -1; the reference refuses them


@dataclass(slots=True)
class _Reading:
    """What is known so far. `config` is a copy of tokenizer_config.json, which the post-processor may correct."""

    config: dict[str, Any]
    kinds: list[str]
    add: dict[str, bool] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    normalizer: dict[str, bool | None] = field(default_factory=dict)


def read_special_tokens(
    files: TokenizerFiles, *, n_tokens: int | None, kinds: tuple[str, ...] = KINDS
) -> SpecialTokens:
    """Read what the tokenizer files say about special tokens.

    n_tokens: an id from config.json that is not below it is left out, as the reference does; None keeps all.
    Raises TokenizerError on wrong types and impossible ids.
    """
    reading = _Reading(config=dict(files.config or {}), kinds=list(kinds))
    tokenizer = files.tokenizer or {}
    if tokenizer:
        _borrow(reading, "bos", reading.config.get("cls_token"))
        _borrow(reading, "eos", reading.config.get("sep_token"))
    _read_normalizer(reading, entry(tokenizer, "normalizer", dict, file=_TOKENIZER))
    _read_post_processor(reading, entry(tokenizer, "post_processor", dict, file=_TOKENIZER))
    default, named, notes = _chat_templates(files)
    _read_config(reading, tokenizer, n_tokens)
    _read_model_config(reading, files.model_config or {}, n_tokens)
    return SpecialTokens(
        ids=tuple(reading.ids.items()),
        add=tuple(reading.add.items()),
        chat_template=default,
        named_chat_templates=named,
        notes=notes,
        normalizer_lowercase=reading.normalizer.get("lowercase"),
        normalizer_strip_accents=reading.normalizer.get("strip_accents"),
    )


def _read_normalizer(reading: _Reading, normalizer: dict[str, Any] | None) -> None:
    kind = (normalizer or {}).get("type")
    if normalizer is None or kind not in ("Lowercase", "StripAccents", "BertNormalizer", "Sequence"):
        return
    if kind == "Sequence":
        for item in _objects(normalizer.get("normalizers"), "normalizer.normalizers"):
            _read_normalizer(reading, item)
    elif kind == "BertNormalizer":
        for key in ("lowercase", "strip_accents"):
            if key in normalizer:
                reading.normalizer[key] = entry(normalizer, key, bool, file=_TOKENIZER, at="normalizer.")
    else:
        reading.normalizer["lowercase" if kind == "Lowercase" else "strip_accents"] = True


def _read_post_processor(reading: _Reading, post_processor: dict[str, Any] | None) -> None:
    if not post_processor:
        return
    processors = [post_processor]
    if "processors" in post_processor:
        processors = _objects(post_processor["processors"], "post_processor.processors")
    for processor in processors:
        kind = processor.get("type")
        if kind == "ByteLevel":
            reading.add.setdefault("bos", False)
            reading.add.setdefault("eos", False)
        elif kind == "RobertaProcessing":
            _read_roberta(reading, processor)
        elif kind == "TemplateProcessing":
            _read_template(reading, processor)


def _borrow(reading: _Reading, kind: str, token: object) -> None:
    """Take the token for this kind where tokenizer_config.json names none; without such a file nothing is kept."""
    key = f"{kind}_token"
    if reading.config and token and not reading.config.get(key):
        reading.config[key] = token


def _read_roberta(reading: _Reading, processor: dict[str, Any]) -> None:
    reading.add.update(bos=True, eos=True, sep=True)
    for kind, fallback in (("cls", "bos_token"), ("sep", "eos_token")):
        pair = entry(processor, kind, list, file=_TOKENIZER, at="post_processor.")
        _borrow(reading, kind, pair[0] if pair else reading.config.get(fallback))


def _read_template(reading: _Reading, processor: dict[str, Any]) -> None:
    """Read which tokens a TemplateProcessing puts around one text, and between two."""
    single = _objects(processor.get("single"), "post_processor.single")
    pair = _objects(processor.get("pair"), "post_processor.pair")
    first = _special_in(single[0]) if len(single) > 1 else None
    last = _special_in(single[-1]) if len(single) > 1 else None
    if first:
        _read_template_first(reading, first)
    if last:
        _read_template_last(reading, last)
    if first and pair and _special_in(pair[0]) == first:
        pair = pair[1:]
    if last and pair and _special_in(pair[-1]) == last:
        pair = pair[:-1]
    if pair and _sequence_in(pair[0]) == "A" and _sequence_in(pair[-1]) == "B":
        eos = reading.config.get("eos_token") if reading.config else last
        _read_template_middle(reading, pair[1:-1], last=last, eos=eos)


def _read_template_first(reading: _Reading, first: str) -> None:
    known = [reading.config.get("bos_token"), reading.config.get("cls_token")]
    if first not in known:
        _borrow(reading, "bos", first)
        _borrow(reading, "cls", first)
    known = [reading.config.get("bos_token"), reading.config.get("cls_token")]
    reading.add["bos"] = first in known or not reading.config


def _read_template_last(reading: _Reading, last: str) -> None:
    """Take the template's last token for EOS; the one that tokenizer_config.json names becomes EOT, or EOM."""
    eos = reading.config.get("eos_token")
    if reading.config and last != eos:
        free = next((kind for kind in ("eot", "eom") if kind not in reading.kinds), None)
        if free is not None:
            reading.kinds.append(free)
            reading.config[f"{free}_token"] = eos
        reading.config["eos_token"] = last
    reading.add["eos"] = True


def _read_template_middle(reading: _Reading, middle: list[dict[str, Any]], *, last: str | None, eos: object) -> None:
    if not middle:
        return
    sep = reading.config.get("sep_token")
    separators = [token for token in (sep, eos) if token is not None]
    add = _special_in(middle[0]) in separators and not last
    if len(middle) == 2:  # noqa: PLR2004 - A eos sep B
        add = add or _special_in(middle[1]) in separators
    reading.add["sep"] = add
    if add:
        _borrow(reading, "sep", eos)


def _read_config(reading: _Reading, tokenizer: dict[str, Any], n_tokens: int | None) -> None:
    """Read `add_*_token` (the post-processor wins over it) and `*_token`, whose id is in tokenizer.json."""
    if not reading.config:
        return
    added = _objects(tokenizer.get("added_tokens"), "added_tokens")
    for kind in reading.kinds:
        add = entry(reading.config, f"add_{kind}_token", bool, file=_CONFIG)
        if add is not None:
            reading.add.setdefault(kind, add)
        content = token_content(reading.config.get(f"{kind}_token"), key=f"{kind}_token")
        match = next((token for token in added if content is not None and token.get("content") == content), None)
        if match is not None:
            number = token_id(match.get("id"), file=_TOKENIZER, key=f"added_tokens.{content}")
            _keep_id(reading, kind, number, n_tokens)


def _read_model_config(reading: _Reading, config: Mapping[str, Any], n_tokens: int | None) -> None:
    for kind in reading.kinds:
        key = f"{kind}_token_id"
        value = config.get(key)
        if value is None and isinstance(config.get("text_config"), dict):
            value = config["text_config"].get(key)
        if value is None or isinstance(value, list):  # a list is for generation: every token that ends a text
            continue
        number = typed(value, int, file=_MODEL_CONFIG, key=key)
        if number == _NO_TOKEN_ID:
            continue
        if not 0 <= number < MAX_TOKENS:
            raise TokenizerError(f"`config.json`: `{key}` is {shown(number)}, wanted 0 to {MAX_TOKENS - 1}")
        _keep_id(reading, kind, number, n_tokens)


def _keep_id(reading: _Reading, kind: str, number: int, n_tokens: int | None) -> None:
    if n_tokens is None or number < n_tokens:
        reading.ids.setdefault(kind, number)


def token_content(value: object, *, key: str) -> str | None:
    """Return a token's text from tokenizer_config.json, where it is a string or an object; None where there is none."""
    if value is None or isinstance(value, str):
        return value
    return entry(typed(value, dict, file=_CONFIG, key=key), "content", str, file=_CONFIG, at=f"{key}.")


def _chat_templates(files: TokenizerFiles) -> tuple[str | None, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return the default template, the others by name, and notes.

    chat_template.jinja with additional_chat_templates/*.jinja wins; then `chat_template` in tokenizer_config.json,
    even as null; then chat_template.json. So does transformers 5.23 (tokenization_utils_base.py, from_pretrained),
    with a tokenizer_config.json or without; the reference takes tokenizer_config.json's first, and none without it.
    """
    config = files.config or {}
    file, template = _chat_template_beside(files, has_config="chat_template" in config)
    notes: tuple[str, ...] = ()
    if "chat_template" in config:
        if template is None:
            file, template = _CONFIG, config["chat_template"]
        elif config["chat_template"] not in (None, template):
            notes = (f"takes the chat template of `{file}`, and passes over another in `{_CONFIG}`",)
    if template is None or isinstance(template, str):
        return template, (), notes
    return *_named_templates(typed(template, list, file=file, key="chat_template"), file), notes


def _chat_template_beside(files: TokenizerFiles, *, has_config: bool) -> tuple[str, object]:
    text = files.text("chat_template.jinja")
    if text is None:
        beside = None if has_config else files.json("chat_template.json")
        return "chat_template.json", (beside or {}).get("chat_template")
    folder = files.directory / "additional_chat_templates"
    others = sorted(path.name for path in folder.glob("*.jinja")) if folder.is_dir() else []
    if not others:
        return "chat_template.jinja", text
    named: list[dict[str, str | None]] = [{"name": "default", "template": text}]
    named += [{"name": name.removesuffix(".jinja"), "template": files.text(f"{folder.name}/{name}")} for name in others]
    return "chat_template.jinja", named


def _named_templates(templates: list[Any], file: str) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    default = None
    named = []
    for item in templates:
        choice = typed(item, dict, file=file, key="chat_template")
        name = entry(choice, "name", str, file=file, at="chat_template.") or ""
        template = entry(choice, "template", str, file=file, at="chat_template.")
        if not name or template is None:
            continue
        if name == "default":
            default = template
        else:
            named.append((name, template))
    return default, tuple(named)


def _objects(value: object, key: str) -> list[dict[str, Any]]:
    items = [] if value is None else typed(value, list, file=_TOKENIZER, key=key)
    return [typed(item, dict, file=_TOKENIZER, key=key) for item in items]


def _special_in(item: dict[str, Any]) -> str | None:
    return _id_in(item, "SpecialToken")


def _sequence_in(item: dict[str, Any]) -> str | None:
    return _id_in(item, "Sequence")


def _id_in(item: dict[str, Any], kind: str) -> str | None:
    inner = entry(item, kind, dict, file=_TOKENIZER, at="post_processor.")
    return None if inner is None else entry(inner, "id", str, file=_TOKENIZER, at=f"post_processor.{kind}.")
