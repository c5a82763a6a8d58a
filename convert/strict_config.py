"""Whether transformers accepts a Llama, Mistral or Mixtral `config.json`, decided from the types of its values.

It matters because the reference reads the config through transformers, which fills in its defaults, and where that
refuses takes the JSON as it stands: no default then reaches the GGUF.
Source: conversion/base.py, ModelBase.load_hparams @ 0c1e570; transformers 5.23, the configuration_*.py of the three and
modeling_rope_utils.py (the keys that each kind of scaling must have).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_NONE: Final = type(None)
_Types = tuple[type, ...]

_COMMON: Final[Mapping[str, _Types]] = {
    "vocab_size": (int,),
    "hidden_size": (int,),
    "intermediate_size": (int,),
    "num_hidden_layers": (int,),
    "num_attention_heads": (int,),
    "max_position_embeddings": (int,),
    "hidden_act": (str,),
    "initializer_range": (float,),
    "rms_norm_eps": (float,),
    "use_cache": (bool,),
    "tie_word_embeddings": (bool,),
    "is_encoder_decoder": (bool,),
    "output_hidden_states": (bool, _NONE),
    "return_dict": (bool, _NONE),
    "pad_token_id": (int, _NONE),
    "bos_token_id": (int, _NONE),
    "eos_token_id": (int, list, _NONE),
    "head_dim": (int, _NONE),
    "rope_scaling": (dict, _NONE),
    "rope_parameters": (dict, _NONE),
}
_OF_TYPE: Final[Mapping[str, Mapping[str, _Types]]] = {
    "llama": {
        "num_key_value_heads": (int, _NONE),
        "pretraining_tp": (int, _NONE),
        "attention_bias": (bool,),
        "mlp_bias": (bool,),
        "attention_dropout": (int, float, _NONE),
    },
    "mistral": {
        "num_key_value_heads": (int,),
        "sliding_window": (int, _NONE),
        "attention_dropout": (int, float),
    },
    "mixtral": {
        "num_key_value_heads": (int,),
        "sliding_window": (int, _NONE),
        "attention_dropout": (int, float),
        "num_experts_per_tok": (int,),
        "num_local_experts": (int,),
        "output_router_logits": (bool,),
        "router_aux_loss_coef": (float,),
        "router_jitter_noise": (float,),
    },
}
_DTYPES: Final = ("float16", "bfloat16", "float32", "float64", "half", "float", "double")
_LAYER_TYPES: Final = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention")

# rope type → keys that must be there; `original_max_position_embeddings` is filled in.
_ROPE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


def transformers_accepts(raw: Mapping[str, Any]) -> bool:
    """Say whether AutoConfig would read this config, rather than refuse it."""
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in _OF_TYPE:
        return False
    types = {**_COMMON, **_OF_TYPE[model_type]}
    # Exactly these types: True is no int here, and 1 no float.
    if any(type(raw[key]) not in accepted for key, accepted in types.items() if key in raw):
        return False
    return (
        _dtype_is_known(raw) and _list_is_of_ints(raw.get("eos_token_id")) and _rope_is_whole(raw) and _layers_fit(raw)
    )


def _dtype_is_known(raw: Mapping[str, Any]) -> bool:
    dtype = raw.get("dtype", raw.get("torch_dtype"))
    return dtype is None or isinstance(dtype, dict) or dtype in _DTYPES


def _list_is_of_ints(value: object) -> bool:
    return not isinstance(value, list) or all(type(item) is int for item in value)


def _rope_is_whole(raw: Mapping[str, Any]) -> bool:
    section = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    kind = section.get("rope_type", section.get("type", "default"))
    return all(key in section for key in _ROPE_KEYS.get(kind, ())) if isinstance(kind, str) else False


def _layers_fit(raw: Mapping[str, Any]) -> bool:
    layers = raw.get("layer_types")
    if layers is None:
        return True
    if not isinstance(layers, list) or len(layers) != raw.get("num_hidden_layers"):
        return False
    # A Mistral whose layers differ is read as another class, which leaves head_dim open.
    known = _LAYER_TYPES if raw.get("model_type") != "mistral" else ("full_attention",)
    return all(layer in known for layer in layers)
