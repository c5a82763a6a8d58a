"""MiniCPM 1 and 2: Llama with factors of its own. Source: conversion/minicpm.py, MiniCPMModel @ 0c1e570."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import decoder, gated_block
from convert.architecture.family import Facts, Family
from convert.architecture.metadata import COMMON, F32, computed, f32, required
from convert.errors import ConfigError
from convert.tokenizer import SENTENCEPIECE_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters


def _residual(h: Hyperparameters) -> float:
    depth = h.number("scale_depth")
    if depth is None:
        raise ConfigError(f"{h.where} lacks `scale_depth`")
    return float(depth / h.size("num_hidden_layers") ** 0.5)


def _depth(given: Given) -> Mapping[str, Any]:
    scale = given.get(Keys.LLM.RESIDUAL_SCALE) * given.said("num_hidden_layers") ** 0.5
    return {"scale_depth": float(f"{scale:.6g}")}


def _base_size(given: Given) -> Mapping[str, Any]:
    return {"dim_model_base": round(given.said("hidden_size") / given.get(Keys.LLM.LOGIT_SCALE))}


MINICPM: Final = Family(
    hf_names=("MiniCPMForCausalLM",),
    arch=MODEL_ARCH.MINICPM,
    metadata=(
        *COMMON,
        required(f32(Keys.LLM.EMBEDDING_SCALE, "scale_emb"), "scale_emb"),
        computed(Keys.LLM.RESIDUAL_SCALE, F32, _residual, _depth),
        computed(Keys.LLM.LOGIT_SCALE, F32, lambda h: h.size("hidden_size") / h.size("dim_model_base"), _base_size),
    ),
    tensors=decoder(partial(gated_block, interleave=True), rope_freqs=True),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    tokenizer=SENTENCEPIECE_TOKENIZER,
)
