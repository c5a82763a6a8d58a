"""Gemma 3, text. Source: conversion/gemma.py, Gemma3Model @ 0c1e570.

A norm is multiplied by 1 + weight, and GGUF holds the sum; rows of the embeddings beyond the tokenizer's are cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import cut_embeddings, norm
from convert.architecture.family import Facts, Family, Rule, n_layers
from convert.architecture.gemma import SCALE_OF_QUERIES, gemma_layer
from convert.architecture.metadata import COMMON, F32, U32, computed, f32, u32, window_period
from convert.architecture.rope import rope_base
from convert.architecture.rope_back import rope_of_file
from convert.errors import UnsupportedError
from convert.tokenizer import GEMMA_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters


def _tensors(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from cut_embeddings(h, n_tokens)
    for layer in range(n_layers(h)):
        yield from gemma_layer(h, f"blk.{layer}", head_norms=True)
    yield from norm("output_norm", hidden, plus_one=True)
    yield Rule("output.weight", (None, hidden), required=False)


def _final_softcap(h: Hyperparameters) -> float | None:
    if h.number("attn_logit_softcapping") is not None:
        raise UnsupportedError(f"`attn_logit_softcapping` in {h.where}: Gemma 3 has none")
    return h.number("final_logit_softcapping") or None


def _window(h: Hyperparameters) -> int | None:
    return None if h.get("sliding_window_pattern") == 1 else h.size("sliding_window")


GEMMA3: Final = Family(
    hf_names=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    arch=MODEL_ARCH.GEMMA3,
    metadata=(
        *COMMON,
        u32(Keys.LLM.CONTEXT_LENGTH, "max_position_embeddings", default=131072),
        u32(Keys.Attention.HEAD_COUNT, "num_attention_heads", default=8),
        f32(Keys.Attention.LAYERNORM_RMS_EPS, "rms_norm_eps", default=1e-6),
        u32(Keys.Attention.KEY_LENGTH, "head_dim", default=256),
        u32(Keys.Attention.VALUE_LENGTH, "head_dim", default=256),
        computed(Keys.Rope.FREQ_BASE, F32, lambda h: rope_base(h) or 1e6, rope_of_file),
        computed(Keys.LLM.FINAL_LOGIT_SOFTCAPPING, F32, _final_softcap, ("final_logit_softcapping",)),
        computed(Keys.Attention.SLIDING_WINDOW, U32, _window, ("sliding_window",)),
        u32(Keys.Attention.HEAD_COUNT_KV, "num_key_value_heads", default=4),
        window_period(6),  # src/models/gemma3.cpp, llama_model_gemma3::load_arch_hparams @ 0c1e570
        SCALE_OF_QUERIES,
    ),
    tensors=_tensors,
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    tokenizer=GEMMA_TOKENIZER,
)
