"""How TOML's own words become a command's: lists for what is listed with commas, tables for pairs.

types       = ["f16", "q4_k_m"]                        --types=f16,q4_k_m
merge       = [{ adapter = "style", weight = 0.7 }]    --merge=style:0.7
tensor-type = { attn_v = "q8_0" }                      --tensor-type=attn_v=q8_0
override-kv = { "llama.context_length" = 4096 }        --override-kv=llama.context_length=int:4096
imatrix     = { text = "sample.txt", chunks = 100 }    --imatrix=auto --text=sample.txt --chunks=100

All other values are spelled alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from convert.recipe.asked import merge_word

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class SpellingError(ValueError):
    """A value is not what its key takes; the message says what that is. Never leaves this room."""


def in_words(name: str, value: object) -> Mapping[str, object]:
    """Spell a value as the options of a command line, most often the one of its name. Raises SpellingError."""
    spell = _SPELLINGS.get(name)
    return {name: value} if spell is None or isinstance(value, str) else spell(name, value)


def _commas(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, list) or not all(_is(each, (str, int)) for each in value):
        raise SpellingError("a string, or a list of them")
    return {name: ",".join(map(str, value))}


def _adapters(name: str, value: object) -> Mapping[str, object]:
    return {name: [_adapter(each) for each in (value if isinstance(value, list) else [value])]}


def _adapter(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not set(value) <= {"adapter", "weight"} or not _is(value.get("adapter"), str):
        raise SpellingError("a path, or a table of `adapter` and `weight`; or a list of these")
    if not _is(weight := value.get("weight", 1.0), (int, float)):
        raise SpellingError("a number for `weight`")
    return merge_word(value["adapter"], float(weight))


def _pairs(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        return {name: value}
    if not all(_is(each, (str, int, float)) for each in value.values()):
        raise SpellingError("strings or numbers for its values")
    return {name: [f"{key}={each}" for key, each in value.items()]}


def _metadata(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        return {name: value}
    return {name: [f"{key}={_typed(each)}" for key, each in value.items()]}


def _typed(value: object) -> str:
    for kind, type_name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str")):
        if _is(value, kind):
            return f"{type_name}:{str(value).lower() if kind is bool else value}"
    raise SpellingError("strings, numbers, true or false for its values")


def _importance(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict) or not set(value) <= {"text", "chunks"} or not _is(value.get("text"), str):
        raise SpellingError("a path, or a table of `text` and `chunks`")
    return {name: "auto", **value}


def _is(value: object, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))


_SPELLINGS: Final[Mapping[str, Callable[[str, Any], Mapping[str, object]]]] = {
    "types": _commas,
    "prune-layers": _commas,
    "merge": _adapters,
    "tensor-type": _pairs,
    "max-divergence": _pairs,
    "override-kv": _metadata,
    "imatrix": _importance,
}
