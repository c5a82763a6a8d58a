"""Whether transformers accepts a `config.json`, decided from the types of its values.

It matters because the reference reads the config through transformers, which fills in its defaults, and where that
refuses takes the JSON as it stands: no default then reaches the GGUF.
Source: conversion/base.py, ModelBase.load_hparams @ 0c1e570; transformers 5.23, configuration_*.py (see
`transformers_defaults`) and modeling_rope_utils.py (the keys that each kind of scaling must have).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from convert.architecture.transformers_defaults import CHECKS_HEADS, COMMON_TYPES, DEFAULTS, TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

_DTYPES: Final = ("float16", "bfloat16", "float32", "float64", "half", "float", "double")
_LAYER_TYPES: Final = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention")
# rope type → keys that must be there; `original_max_position_embeddings` is filled in.
_ROPE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_PLAIN: Final[Mapping[str, type]] = {
    "int": int, "float": float, "bool": bool, "str": str, "dict": dict, "None": type(None),
}  # fmt: skip
_ITEMS: Final[Mapping[str, type]] = {"list[int]": int, "list[str]": str}


def transformers_accepts(config: Mapping[str, Any]) -> bool:
    """Say whether AutoConfig would read this config, rather than refuse it."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in TYPES:
        return False
    types = {**COMMON_TYPES, **TYPES[model_type], "rope_scaling": ("dict", "None")}
    if not all(_is_of(config[key], taken) for key, taken in types.items() if key in config):
        return False
    return _dtype_is_known(config) and _rope_is_whole(config) and _layers_fit(config) and _heads_fit(config, model_type)


def _is_of(value: object, types: tuple[str, ...]) -> bool:
    """Compare exactly: True is no int here, and 1 no float."""
    if isinstance(value, list):
        return any(name in _ITEMS and all(type(item) is _ITEMS[name] for item in value) for name in types)
    return any(type(value) is _PLAIN.get(name) for name in types)


def _heads_fit(config: Mapping[str, Any], model_type: str) -> bool:
    values = {**DEFAULTS[model_type], **config}
    return model_type not in CHECKS_HEADS or values["hidden_size"] % (values["num_attention_heads"] or 1) == 0


def _dtype_is_known(config: Mapping[str, Any]) -> bool:
    dtype = config.get("dtype", config.get("torch_dtype"))
    return dtype is None or isinstance(dtype, dict) or dtype in _DTYPES


def _rope_is_whole(config: Mapping[str, Any]) -> bool:
    section = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if any(kind in section for kind in _LAYER_TYPES):
        return all(_section_is_whole(part) for kind, part in section.items() if kind in _LAYER_TYPES)
    return _section_is_whole(section)


def _section_is_whole(section: object) -> bool:
    if not isinstance(section, dict):
        return False
    kind = section.get("rope_type", section.get("type", "default"))
    return all(key in section for key in _ROPE_KEYS.get(kind, ())) if isinstance(kind, str) else False


def _layers_fit(config: Mapping[str, Any]) -> bool:
    layers = config.get("layer_types")
    if layers is None:
        return True
    if not isinstance(layers, list) or len(layers) != config.get("num_hidden_layers"):
        return False
    # A Mistral whose layers differ is read as another class, which leaves head_dim open.
    known = _LAYER_TYPES if config.get("model_type") != "mistral" else ("full_attention",)
    return all(layer in known for layer in layers)
