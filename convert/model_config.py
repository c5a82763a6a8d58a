"""`config.json` as typed values: spellings and defaults resolved, absurd values refused.

The reference reads it through transformers' AutoConfig, which fills in the defaults of the declared
`model_type`; a key that stands in no file then reaches the GGUF. The defaults here are those, and hold only
where transformers accepts the config (see `strict_config`).
Source: conversion/base.py, ModelBase.load_hparams and TextModel.__init__ @ 0c1e570;
transformers 5.23, configuration_{llama,mistral,mixtral}.py and modeling_rope_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.json_file import read_json
from convert.errors import ConfigError, UnsupportedError
from convert.strict_config import transformers_accepts

if TYPE_CHECKING:
    from pathlib import Path

# Far beyond every published model; keeps a hostile config from asking for unbounded work.
_MAX_SIZE: Final = 1 << 31
_MAX_LAYERS: Final = 10_000
_MAX_EXPERTS: Final = 10_000
_MAX_VOCABULARY: Final = 1 << 22

_NO_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType({})
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "llama": {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
        },
        "mistral": {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
        },
        "mixtral": {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
    }
)
_ORIGINAL_LENGTH: Final = "original_max_position_embeddings"
_LAYER_NORM_KEYS: Final = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
_FILLS_IN_HEAD_DIM: Final = ("llama", "mistral")  # MixtralConfig leaves it None


@dataclass(frozen=True, slots=True)
class RopeParameters:
    """Rotary position embedding.

    theta: base frequency, None where the config leaves it out. type: "default", "linear",
    "llama3", "yarn", "dynamic", … or None. values: the scaling's own numbers by their config key.
    """

    theta: float | None
    type: str | None
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What the architecture room needs of `config.json`.

    head_dim: None where neither the config nor its defaults give one (see `resolved_head_dim`).
    n_kv_heads, rms_norm_eps, n_experts, n_experts_used: None where absent.
    """

    architecture: str
    model_type: str | None
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int | None
    head_dim: int | None
    vocab_size: int
    context_length: int
    rms_norm_eps: float | None
    rope: RopeParameters
    tie_word_embeddings: bool
    n_experts: int | None
    n_experts_used: int | None
    layer_norm_eps: float | None = None
    is_causal: bool = True

    @property
    def resolved_head_dim(self) -> int:
        """The size of one attention head."""
        return self.head_dim or self.hidden_size // self.n_heads

    @property
    def resolved_kv_heads(self) -> int:
        """The number of key and value heads."""
        return self.n_kv_heads or self.n_heads


def read_model_config(directory: Path) -> ModelConfig:
    """Read `config.json` of a checkpoint directory.

    Raises ConfigError if it is missing, or a value is missing, of the wrong type, zero or huge;
    UnsupportedError if it declares no architecture.
    """
    path = directory / "config.json"
    if not path.is_file():
        hint = "a checkpoint as transformers saves it has one beside its weights; copy it from the base model"
        raise ConfigError(f"`{path}` is missing", hint=hint)
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"`{path}` holds {_kind(raw)}, not an object")
    return parse_model_config(raw, where=str(path))


def parse_model_config(raw: Mapping[str, Any], *, where: str = "config.json") -> ModelConfig:
    """Resolve a config already read; `where` names it in errors."""
    values = _Values(raw, where)
    architecture = _architecture(raw, where)
    model_type = values.text("model_type")
    is_strict = transformers_accepts(raw)
    values.defaults = _DEFAULTS[model_type] if model_type is not None and is_strict else _NO_DEFAULTS
    hidden_size, n_heads = values.size("hidden_size"), values.size("num_attention_heads")
    head_dim = values.optional_size("head_dim")
    if hidden_size % n_heads and head_dim is None:
        raise ConfigError(
            f"`hidden_size` {hidden_size} is not a multiple of `num_attention_heads` {n_heads} in {where}"
        )
    if head_dim is None and is_strict and model_type in _FILLS_IN_HEAD_DIM:
        head_dim = hidden_size // n_heads
    n_kv_heads = values.optional_size("num_key_value_heads")
    if n_kv_heads is None and is_strict and model_type == "llama":
        n_kv_heads = n_heads
    config = ModelConfig(
        architecture=architecture,
        model_type=model_type,
        n_layers=values.size("num_hidden_layers", limit=_MAX_LAYERS),
        hidden_size=hidden_size,
        intermediate_size=values.size("intermediate_size"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=values.size("vocab_size", limit=_MAX_VOCABULARY),
        context_length=values.size("max_position_embeddings"),
        rms_norm_eps=values.number("rms_norm_eps"),
        rope=_rope_parameters(values, fills_in_length=is_strict),
        layer_norm_eps=next((values.number(key) for key in _LAYER_NORM_KEYS if key in raw), None),
        is_causal=raw.get("is_causal") is not False,
        tie_word_embeddings=values.flag("tie_word_embeddings"),
        n_experts=values.optional_size("num_local_experts", limit=_MAX_EXPERTS),
        n_experts_used=values.optional_size("num_experts_per_tok", limit=_MAX_EXPERTS),
    )
    _check_heads(config, where)
    return config


class _Values:
    """Typed access to a config's keys; an error names the key."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where
        self.defaults: Mapping[str, Any] = _NO_DEFAULTS

    def get(self, key: str) -> Any:  # noqa: ANN401 - JSON
        return self.raw[key] if key in self.raw else self.defaults.get(key)

    def wrong(self, key: str, value: object, wanted: str) -> ConfigError:
        return ConfigError(f"`{key}` in {self.where} is {value!r:.60}, wanted {wanted}")

    def size(self, key: str, *, limit: int = _MAX_SIZE) -> int:
        value = self.optional_size(key, limit=limit)
        if value is None:
            raise ConfigError(f"{self.where} lacks `{key}`")
        return value

    def optional_size(self, key: str, *, limit: int = _MAX_SIZE) -> int | None:
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < limit:
            raise self.wrong(key, value, f"a whole number from 1 to {limit - 1}")
        return value

    def number(self, key: str) -> float | None:
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _fits_float32(value):
            raise self.wrong(key, value, "a finite number")
        return value

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return bool(value)

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, value, "a string")
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(key, value, "an object")
        return value or _NO_DEFAULTS


def _fits_float32(value: float) -> bool:
    return math.isfinite(value) and abs(value) < 3.4e38  # noqa: PLR2004 - just below FLT_MAX


def _kind(value: object) -> str:
    return {list: "an array", str: "a string", type(None): "null"}.get(type(value), "a number")


def _architecture(raw: Mapping[str, Any], where: str) -> str:
    names = raw.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    if names is None:
        hint = 'add for example "architectures": ["LlamaForCausalLM"] if you know what the weights are'
        raise UnsupportedError(f"{where} declares no `architectures`", hint=hint)
    raise ConfigError(f"`architectures` in {where} is {names!r:.80}, wanted a list of names")


def _rope_parameters(values: _Values, *, fills_in_length: bool) -> RopeParameters:
    # Both spellings: rope_theta + rope_scaling {"type": …} up to transformers 4, rope_parameters since.
    section = dict(values.mapping("rope_scaling") or values.mapping("rope_parameters"))
    rope_type = section.pop("rope_type", section.pop("type", None))
    if rope_type is not None and not isinstance(rope_type, str):
        raise values.wrong("rope_type", rope_type, "a string")
    scaling = _Values(section, f"the rope scaling of {values.where}")
    numbers = {
        key: number for key, value in section.items() if (number := _rope_number(scaling, key, value)) is not None
    }
    if rope_type == "yarn" or (rope_type == "llama3" and fills_in_length):
        numbers.setdefault(_ORIGINAL_LENGTH, values.size("max_position_embeddings"))
    if numbers.get(_ORIGINAL_LENGTH, 1) != int(numbers.get(_ORIGINAL_LENGTH, 1)) or not (
        1 <= numbers.get(_ORIGINAL_LENGTH, 1) < _MAX_SIZE
    ):
        raise scaling.wrong(_ORIGINAL_LENGTH, numbers[_ORIGINAL_LENGTH], f"a whole number from 1 to {_MAX_SIZE - 1}")
    theta = numbers.pop("rope_theta", None)
    if rope_type is not None and rope_type.lower() == "llama3":
        rope_type = "llama3"  # as the reference compares it
    return RopeParameters(values.number("rope_theta") if theta is None else theta, rope_type, MappingProxyType(numbers))


def _rope_number(scaling: _Values, key: str, value: object) -> float | None:
    if value is None or isinstance(value, (bool, str, list)):
        return None  # "finetuned": true and the like carry no number
    return scaling.number(key)


def _check_heads(config: ModelConfig, where: str) -> None:
    if config.n_heads % config.resolved_kv_heads:
        raise ConfigError(
            f"`num_attention_heads` {config.n_heads} is not a multiple of `num_key_value_heads` "
            f"{config.resolved_kv_heads} in {where}"
        )
    if config.resolved_head_dim % 2:
        raise ConfigError(f"the head size {config.resolved_head_dim} in {where} is odd; rotary embedding needs pairs")
    if config.n_experts_used and config.n_experts and config.n_experts_used > config.n_experts:
        raise ConfigError(
            f"`num_experts_per_tok` {config.n_experts_used} exceeds `num_local_experts` {config.n_experts} in {where}"
        )
