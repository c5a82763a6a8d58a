"""Mistral's own checkpoints: `consolidated*.safetensors`, `params.json`, `tekken.json` or `tokenizer.model.v*`.

Names and the order of query and key rows are Meta's; fp8 weights have `.qscale_weight` beside them, experts are
`feed_forward.experts.E`. The tensors of an encoder of images are left out.
Source: conversion/mistral.py, MistralModel @ 0c1e570; mistral-inference, args.py.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.index import merge
from convert.checkpoint.json_file import read_json
from convert.checkpoint.layouts.layout import Found, Laid, Layout, Renames, in_order, not_said, renamed
from convert.checkpoint.layouts.meta import META_NAMES, with_halves
from convert.checkpoint.regular_file import of_each
from convert.checkpoint.safetensors_file import read_safetensors
from convert.errors import ConfigError, Remedy, UnsupportedError
from convert.fields import Fields
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.source import Tensor, TensorSource

_EXPERTS: Final = r"layers\.(\d+)\.(?:feed_forward\.|block_sparse_moe\.)?"
_NAMES: Final[Renames] = (
    (_EXPERTS + r"gate\.weight", r"model.layers.\1.block_sparse_moe.gate.weight"),
    (_EXPERTS + r"experts\.(\d+)\.w([123])\.weight", r"model.layers.\1.block_sparse_moe.experts.\2.w\3.weight"),
    *META_NAMES,
)
_NOT_TEXT: Final = re.compile(r"vision_|patch_merger\.|pre_mm_projector_norm|audio_|mm_")
_FP8: Final = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
_HF_FORM: Final = "get the form for transformers: `model*.safetensors` and config.json"


def open_mistral(found: Found) -> Laid:
    """Read params.json and where the tensors lie."""
    params = Fields(read_json(found.beside), shown(found.beside))
    sources = merge(of_each(found.paths, read_safetensors))
    other = [name for name in sources if _NOT_TEXT.match(name)]
    text = {name: source for name, source in sources.items() if name not in set(other)}
    n_heads, width = params.size("n_heads"), params.size("dim")
    head_dim = params.optional_size("head_dim") or width // n_heads
    try:
        config = _config(params, found, text, head_dim)
    except ConfigError as error:
        config = error
    notes = (f"left out: {len(other)} tensors of images or sound",) if other else ()
    return Laid(config, text, partial(_arrange, head_dim=head_dim), notes)


def _config(
    params: Fields, found: Found, sources: Mapping[str, TensorSource], head_dim: int
) -> Mapping[str, Any] | ConfigError:
    if found.stated.config is not None:
        return read_json(found.stated.config)
    if params.has("q_lora_rank", "kv_lora_rank"):
        raise UnsupportedError(f"{params.where} is of a model with latent attention", hint=_HF_FORM)
    _check_sizes(params, sources, head_dim)
    context = found.stated.context or params.optional_size("max_position_embeddings", "max_seq_len")
    if context is None:
        raise not_said("how long a text may be", found.beside, Remedy.GIVE_CONTEXT, Remedy.GIVE_CONFIG)
    words: dict[str, Any] = {
        "hidden_act": "silu",
        "hidden_size": params.size("dim"),
        "intermediate_size": params.size("hidden_dim"),
        "max_position_embeddings": context,
        "num_attention_heads": params.size("n_heads"),
        "num_hidden_layers": params.size("n_layers"),
        "num_key_value_heads": params.optional_size("n_kv_heads") or params.size("n_heads"),
        "rms_norm_eps": params.number("norm_eps"),
        "tie_word_embeddings": params.flag("tied_embeddings"),
        "vocab_size": params.size("vocab_size"),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sliding_window": None,
    }
    heads = {"head_dim": head_dim} if params.has("head_dim") else {}
    return words | heads | _kind(params) | _packing(params)


def _kind(params: Fields) -> dict[str, Any]:
    """Say which class of transformers a model is, and what only that has."""
    theta, moe, yarn = params.number("rope_theta") or 10000.0, params.mapping("moe"), params.mapping("yarn")
    if moe:
        experts = Fields(moe, f"`moe` in {params.where}")
        counts = {"num_local_experts": experts.size("num_experts")}
        counts |= {"num_experts_per_tok": experts.size("num_experts_per_tok")}
        return {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "rope_theta": theta, **counts}
    scaling = params.mapping("llama_4_scaling")
    if bool(scaling) is not bool(yarn):
        raise UnsupportedError(
            f"{params.where} has one of `yarn` and `llama_4_scaling` without the other", hint=_HF_FORM
        )
    if not yarn:
        return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "rope_theta": theta}
    said = Fields(yarn, f"`yarn` in {params.where}")
    # The logarithmic factor counts in full where it is not applied when the model is loaded.
    log_mul = 0.0 if said.flag("apply_scale") else 1.0
    rope = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": said.number("factor"),
        "beta_fast": said.number("beta"),
        "beta_slow": said.number("alpha"),
        "mscale": 1.0,
        "mscale_all_dim": log_mul,
        "original_max_position_embeddings": said.size("original_max_position_embeddings"),
        "llama_4_scaling_beta": Fields(scaling, f"`llama_4_scaling` in {params.where}").number("beta"),
    }
    return {"architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3", "rope_parameters": rope}


def _packing(params: Fields) -> dict[str, Any]:
    packing = params.mapping("quantization")
    if not packing:
        return {}
    said = Fields(packing, f"`quantization` in {params.where}")
    if said.text("qformat_weight") != "fp8_e4m3":
        raise UnsupportedError(
            f"{said.where} is {shown(said.get('qformat_weight'))}, only fp8_e4m3 is read", hint=_HF_FORM
        )
    return {"quantization_config": _FP8}


def _check_sizes(params: Fields, sources: Mapping[str, TensorSource], head_dim: int) -> None:
    """Hold params.json against the first tensors: later errors would speak of a config.json that there is not."""
    width, n_kv = params.size("dim"), params.optional_size("n_kv_heads") or params.size("n_heads")
    wanted = {
        "tok_embeddings.weight": (params.size("vocab_size"), width),
        "layers.0.attention.wq.weight": (params.size("n_heads") * head_dim, width),
        "layers.0.attention.wk.weight": (n_kv * head_dim, width),
        "layers.0.feed_forward.w1.weight": (params.size("hidden_dim"), width),
    }
    for name, shape in wanted.items():
        if name in sources and sources[name].shape != shape:
            raise ConfigError(f"tensor {shown(name)} has shape {sources[name].shape}, {params.where} says {shape}")


def _arrange(tensors: Mapping[str, Tensor], *, head_dim: int) -> dict[str, Tensor]:
    return in_order(with_halves(renamed(name, _NAMES), tensor, head_dim) for name, tensor in tensors.items())


MISTRAL: Final = Layout("Mistral", re.compile(r"consolidated.*\.safetensors"), "params.json", open_mistral)
