"""`config.json` as the reference sees it: transformers' defaults filled in, spellings resolved, values read by type.

Source: conversion/base.py, load_hparams, find_hparam, get_model_architecture and TextModel.__init__ @ 0c1e570.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from convert.architecture.transformers_config import as_transformers
from convert.errors import ConfigError, UnsupportedError
from convert.fields import MAX_SIZE, Fields

# Far beyond every published model; keeps a hostile config from asking for unbounded work.
MAX_LAYERS: Final = 10_000
MAX_EXPERTS: Final = 10_000
MAX_VOCABULARY: Final = 1 << 22

_SHARDED: Final = "FSDP"  # how accelerate calls the class of a model that it has wrapped
_ABSENT: Final = object()

# Where other models than plain language models keep the text model's config (load_hparams).
_TEXT_CONFIGS: Final = (
    ("llm_config",),
    ("lm_config",),
    ("thinker_config", "text_config"),
    ("language_config",),
    ("lfm",),
)
# Spelled at the root, and mirrored into the rope parameters where these lack the key (TextModel.__init__).
_THETA: Final = ("global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base")
_LOCAL_THETA: Final = (
    "local_rope_theta",
    "rope_local_theta",
    "rope_theta_local",
    "swa_rope_theta",
    "rope_local_base_freq",
)
_ROTARY_PART: Final = ("partial_rotary_factor", "rope_pct", "rope_percent")
_LENGTH: Final = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True)
class Rope(Fields):
    """The rotary embedding's parameters: those of all layers, or an object for each kind of layer."""

    def original_length(self) -> int | None:
        """Give the context length before scaling; it may be written 8192.0."""
        length = self.number(_LENGTH)
        if length is not None and (length != int(length) or not 1 <= length < MAX_SIZE):
            raise self.wrong((_LENGTH,), f"a whole number from 1 to {MAX_SIZE - 1}")
        return None if length is None else int(length)

    @property
    def full_attention(self) -> Rope:
        """Those of the layers with full attention, which are those of all layers where no kinds are told apart."""
        if "full_attention" not in self.values:
            return self
        return Rope(self.mapping("full_attention"), self.where, asked=self.asked)

    @property
    def sliding_attention(self) -> Rope:
        """Those of the layers with sliding attention; empty where no kinds are told apart."""
        return Rope(self.mapping("sliding_attention"), self.where, asked=self.asked)


@dataclass(frozen=True, slots=True)
class Hyperparameters(Fields):
    """What a family reads: the text model's values at the root, and beside them what all families need.

    is_accepted: transformers takes the config, so the defaults of `model_type` are filled in.
    rope: the reference's rope_parameters, spellings at the root mirrored in.
    """

    architecture: str
    model_type: str | None
    is_accepted: bool
    rope: Rope

    @property
    def is_whole(self) -> bool:
        """Whether the config is of more than a text model, whose own config is a part of it."""
        return "text_config" in self.values

    def replaced(self, **changes: Any) -> Hyperparameters:  # noqa: ANN401 - JSON
        """Give the same with other values under these keys; `rope` stays."""
        return replace(self, values={**self.values, **changes})


def read_hyperparameters(config: Mapping[str, Any], *, where: str = "config.json") -> Hyperparameters:
    """Resolve a config already read; `where` names it in errors.

    Raises ConfigError for a value of a wrong type or an absurd one, UnsupportedError if it declares no architecture.
    """
    model_type = Fields(config, where).text("model_type")
    architecture = _architecture(config, where)
    _check_layers(config, where)
    resolved = as_transformers(config)
    values = _with_text_config(config if resolved is None else resolved, where)
    _check_theta(config, where)
    return Hyperparameters(
        values=values,
        where=where,
        architecture=architecture,
        model_type=model_type,
        is_accepted=resolved is not None,
        rope=_rope(Fields(values, where)),
    )


def architectures(config: Mapping[str, Any], where: str) -> tuple[str, str | None]:
    """Name the class of the text model, and that of the whole, which is the same where there is one; None: not said.

    Raises ConfigError, or UnsupportedError if none is declared.
    """
    names = config.get("architectures")
    outer = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    return _architecture(config, where), outer.removeprefix(_SHARDED) if outer else None


def _architecture(config: Mapping[str, Any], where: str) -> str:
    of_text = _inner_config(config).get("architectures")
    names = config.get("architectures") if of_text is None else of_text
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0].removeprefix(_SHARDED)
    if names is None:
        hint = 'add for example "architectures": ["LlamaForCausalLM"] if you know what the weights are'
        raise UnsupportedError(f"{where} declares no `architectures`", hint=hint)
    raise ConfigError(f"`architectures` in {where} is {names!r:.80}, wanted a list of names")


def _check_layers(config: Mapping[str, Any], where: str) -> None:
    """Refuse what a list of layers cannot be made of, before one is."""
    for fields in (Fields(config, where), Fields(_inner_config(config), where)):
        n_layers = fields.get("num_hidden_layers")
        if isinstance(n_layers, int) and n_layers >= MAX_LAYERS:
            raise fields.wrong(("num_hidden_layers",), f"a whole number from 1 to {MAX_LAYERS - 1}")
        if fields.get("per_layer_config") is not None:
            raise UnsupportedError(f"{where} gives layers a config of their own (`per_layer_config`)")


def _text_config(config: Mapping[str, Any]) -> object:
    """Give the text model's config, `_ABSENT` where the root is it; the last spelling counts, as there."""
    found = config.get("text_config", _ABSENT)
    for first, *rest in _TEXT_CONFIGS:
        if first in config:
            found = config[first]
            for key in rest:
                found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _inner_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text_config = _text_config(config)
    return text_config if isinstance(text_config, Mapping) else {}


def _with_text_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    text_config = _text_config(config)
    if text_config is _ABSENT:
        return dict(config)
    if not isinstance(text_config, Mapping):
        raise ConfigError(f"`text_config` in {where} is {text_config!r:.60}, wanted an object")
    return {**config, **text_config}


def _check_theta(config: Mapping[str, Any], where: str) -> None:
    """Name a wrong base frequency where it stands: at the root, before it is moved."""
    fields = Fields({**config, **_inner_config(config)}, where)
    stated = fields.get("rope_scaling") or fields.get("rope_parameters")
    if not isinstance(stated, Mapping) or "rope_theta" not in stated:
        fields.number(*_THETA)


def _rope(fields: Fields) -> Rope:
    spelling = "rope_parameters" if "rope_parameters" in fields.values else "rope_scaling"
    values = dict(fields.mapping(spelling)) if fields.get(spelling) else {}
    rope = Rope(values, f"the rope scaling of {fields.where}")
    if "full_attention" not in values and "sliding_attention" not in values:
        _mirror(fields, values)
    rope.text("rope_type")
    return rope


def _mirror(fields: Fields, values: dict[str, Any]) -> None:
    if fields.get(*_LOCAL_THETA) is not None:
        values["sliding_attention"] = {"rope_theta": fields.get(*_LOCAL_THETA)}
    mirrored = {
        "rope_theta": fields.get(*_THETA),
        "rope_type": values.get("type"),
        "partial_rotary_factor": fields.get(*_ROTARY_PART),
        _LENGTH: fields.get(_LENGTH),
    }
    values |= {key: value for key, value in mirrored.items() if key not in values and value is not None}
