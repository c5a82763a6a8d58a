"""`config.json` as typed values, as the reference sees them: aliases and defaults resolved, absurd values refused.

The reference reads it through transformers' AutoConfig, which fills in the defaults of the declared `model_type`; a key
that stands in no file then reaches the GGUF. Where transformers refuses the config, the reference takes the JSON as it
stands, and no default is filled in.
Source: conversion/base.py, ModelBase.load_hparams and TextModel.__init__ @ 0c1e570; transformers 5.23,
configuration_*.py and modeling_rope_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from convert.architecture.accepted_config import transformers_accepts
from convert.architecture.transformers_defaults import ALIASES, DEFAULTS
from convert.errors import ConfigError, UnsupportedError

_MAX_SIZE: Final = 1 << 31  # far beyond every published model; keeps a hostile config from asking for unbounded work
_ORIGINAL_LENGTH: Final = "original_max_position_embeddings"
_BASES: Final = ("global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base")
_LAYER_KINDS: Final = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class Fields:
    """Typed access to a JSON object. Of several keys the first that is present counts, null included.

    where: what errors call the object. Raises ConfigError that names key, value and what was wanted.
    """

    values: Mapping[str, Any]
    where: str

    def has(self, *keys: str) -> bool:
        """Whether one of the keys is there, null or not."""
        return any(key in self.values for key in keys)

    def get(self, *keys: str) -> Any:  # noqa: ANN401 - JSON
        """Return the value, whatever it is; None where no key is there."""
        return next((self.values[key] for key in keys if key in self.values), None)

    def size(self, *keys: str, limit: int = _MAX_SIZE) -> int:
        """Return a whole number from 1 to below the limit."""
        value = self.optional_size(*keys, limit=limit)
        if value is None:
            raise ConfigError(f"{self.where} lacks `{keys[0]}`")
        return value

    def optional_size(self, *keys: str, limit: int = _MAX_SIZE) -> int | None:
        """Return a whole number from 1 to below the limit, or None."""
        return self._whole(keys, 1, limit)

    def optional_count(self, *keys: str, limit: int = _MAX_SIZE) -> int | None:
        """Return a whole number from 0 to below the limit, or None."""
        return self._whole(keys, 0, limit)

    def _whole(self, keys: tuple[str, ...], least: int, limit: int) -> int | None:
        value = self.get(*keys)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < limit:
            raise self.wrong(keys, value, f"a whole number from {least} to {limit - 1}")
        return value

    def number(self, *keys: str) -> float | None:
        """Return a number that float32 can hold, or None."""
        value = self.get(*keys)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _fits_float32(value):
            raise self.wrong(keys, value, "a finite number")
        return value

    def flag(self, *keys: str) -> bool:
        """Return true or false; null and nothing are false."""
        value = self.get(*keys)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(keys, value, "true or false")
        return bool(value)

    def text(self, *keys: str) -> str | None:
        """Return a string, or None."""
        value = self.get(*keys)
        if value is not None and not isinstance(value, str):
            raise self.wrong(keys, value, "a string")
        return value

    def mapping(self, *keys: str) -> Mapping[str, Any]:
        """Return an object; an empty one for null and nothing."""
        value = self.get(*keys)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(keys, value, "an object")
        return value or {}

    def wrong(self, keys: tuple[str, ...], value: object, wanted: str) -> ConfigError:
        """Make the error for a value that cannot be."""
        key = next((key for key in keys if key in self.values), keys[0])
        return ConfigError(f"`{key}` in {self.where} is {value!r:.60}, wanted {wanted}")


@dataclass(frozen=True, slots=True)
class Hyperparameters(Fields):
    """What a family needs of `config.json`.

    architecture: the class of transformers that it declares. model_type: None where it says none.
    rope: the rotary parameters, all of them in one object, whichever spelling the config has.
    """

    architecture: str = ""
    model_type: str | None = None
    rope: Fields = field(default_factory=lambda: Fields({}, ""))

    def replaced(self, **changes: object) -> Hyperparameters:
        """Return the same with some keys changed."""
        return replace(self, values={**self.values, **changes})


def read_hyperparameters(config: Mapping[str, Any], *, where: str = "config.json") -> Hyperparameters:
    """Resolve a config that was read; `where` names it in errors.

    Raises ConfigError for a value of the wrong type; UnsupportedError if it declares no architecture.
    """
    architecture = _architecture(config, where)
    model_type = Fields(config, where).text("model_type")
    accepted = transformers_accepts(config)
    values = _filled(config, model_type) if accepted and model_type is not None else dict(config)
    rope = _rope(Fields(config, where), Fields(values, where), fills_in=accepted)
    return Hyperparameters(values, where, architecture, model_type, rope)


def _architecture(config: Mapping[str, Any], where: str) -> str:
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    if names is None:
        hint = 'add for example "architectures": ["LlamaForCausalLM"] if you know what the weights are'
        raise UnsupportedError(f"{where} declares no `architectures`", hint=hint)
    raise ConfigError(f"`architectures` in {where} is {names!r:.80}, wanted a list of names")


def _filled(config: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Give a config as transformers holds it: other names of a key resolved, defaults filled in, the rest derived."""
    aliases = ALIASES[model_type]
    plain = {aliases.get(key, key): value for key, value in config.items()}
    values = {**DEFAULTS[model_type], **plain}
    for key, derive in _DERIVED.get(model_type, {}).items():
        values[key] = derive(values)
    return values


def _heads(values: Mapping[str, Any]) -> int:
    n_kv_heads: int | None = values["num_key_value_heads"]
    return values["num_attention_heads"] if n_kv_heads is None else n_kv_heads


def _head_dim(values: Mapping[str, Any]) -> int:
    size: int | None = values.get("head_dim")
    return values["hidden_size"] // max(values["num_attention_heads"], 1) if size is None else size


# What a class computes of its own values: transformers 5.23, configuration_*.py, __post_init__.
_DERIVED: Final[Mapping[str, Mapping[str, Callable[[Mapping[str, Any]], Any]]]] = {
    "llama": {"num_key_value_heads": _heads, "head_dim": _head_dim},
    "mistral": {"num_key_value_heads": _heads, "head_dim": _head_dim},
    "mixtral": {"num_key_value_heads": _heads},
    "deepseek_v3": {"num_key_value_heads": _heads, "head_dim": lambda values: values["qk_rope_head_dim"]},
    "qwen3_moe": {"sliding_window": lambda values: (values["use_sliding_window"] and values["sliding_window"]) or None},
    "bloom": {"hidden_size": lambda values: values.get("n_embed") or values["hidden_size"]},
}


def _rope(raw: Fields, values: Fields, *, fills_in: bool) -> Fields:
    """Bring the spellings together: rope_theta and rope_scaling up to transformers 4, rope_parameters since."""
    section = raw.mapping("rope_scaling") or raw.mapping("rope_parameters")
    default = values.mapping("rope_parameters") if fills_in else {}
    where = f"the rope scaling of {raw.where}"
    if any(kind in part for part in (section, default) for kind in _LAYER_KINDS):
        return _rope_by_layer(raw, section, default, where)
    whole = _one_rope(section, values, where, fills_in=fills_in)
    base = values.number(*_BASES) if values.has(*_BASES) else Fields(default, where).number("rope_theta")
    if whole.get("rope_theta") is None and base is not None:
        whole["rope_theta"] = base
    return Fields(whole, where)


def _rope_by_layer(raw: Fields, section: Mapping[str, Any], default: Mapping[str, Any], where: str) -> Fields:
    """Give each kind of layer its own: Gemma 3's local layers have another base than its global ones."""
    by_kind: dict[str, Any] = {}
    bases = {"full_attention": raw.number("rope_theta"), "sliding_attention": raw.number("rope_local_base_freq")}
    is_flat = not any(kind in section for kind in _LAYER_KINDS)
    for kind in _LAYER_KINDS:
        declared = (section if kind == "full_attention" else {}) if is_flat else Fields(section, where).mapping(kind)
        base = {} if bases[kind] is None else {"rope_theta": bases[kind]}
        by_kind[kind] = _numbers({**Fields(default, where).mapping(kind), **base, **declared}, where)
    return Fields(by_kind, where)


def _one_rope(section: Mapping[str, Any], values: Fields, where: str, *, fills_in: bool) -> dict[str, Any]:
    rope = _numbers(section, where)
    kind = rope.get("rope_type")
    if kind == "yarn" or (kind == "llama3" and fills_in):
        rope.setdefault(_ORIGINAL_LENGTH, values.size("max_position_embeddings"))
    return rope


def _numbers(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check a section: its type under its new name, its numbers, and whatever else it has as it stands."""
    rope = dict(section)
    kind = rope.pop("rope_type", rope.pop("type", None))
    fields = Fields(rope, where)
    if kind is not None and not isinstance(kind, str):
        raise fields.wrong(("rope_type",), kind, "a string")
    numbers = {key: number for key, value in rope.items() if (number := _number(fields, key, value)) is not None}
    length = numbers.get(_ORIGINAL_LENGTH, 1)
    if length != int(length) or not 1 <= length < _MAX_SIZE:
        raise fields.wrong((_ORIGINAL_LENGTH,), length, f"a whole number from 1 to {_MAX_SIZE - 1}")
    if _ORIGINAL_LENGTH in numbers:
        numbers[_ORIGINAL_LENGTH] = int(length)
    return numbers if kind is None else {"rope_type": kind, **numbers}


def _number(fields: Fields, key: str, value: object) -> float | None:
    if value is None or isinstance(value, (bool, str, list)):
        return None  # "finetuned": true and the like carry no number
    return fields.number(key)


def _fits_float32(value: float) -> bool:
    return math.isfinite(value) and abs(value) < 3.4e38  # noqa: PLR2004 - just below FLT_MAX
