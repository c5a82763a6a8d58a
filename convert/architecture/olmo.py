"""OLMo, OLMo 2 and 3, and OLMoE. Source: conversion/olmo.py @ 0c1e570."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, decoder, embeddings, experts, feed_forward, norm, output
from convert.architecture.family import FUSED_EXPERTS, Facts, Family, Rule, n_layers
from convert.architecture.metadata import COMMON, F32, WINDOWS, computed, f32, head_dim, only
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters


def _olmo(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    """Yield OLMo's rules: its norms have no weights."""
    del n_tokens
    yield from embeddings(h)
    for layer in range(n_layers(h)):
        yield from attention(h, f"blk.{layer}", interleave=True)
        yield from feed_forward(h.size("hidden_size"), h.size("intermediate_size"), f"blk.{layer}")
    yield from output(h)


def whole_norms(h: Hyperparameters, block: str) -> Iterator[Rule]:
    """Yield norms of queries and keys that go over all heads."""
    n_heads = h.size("num_attention_heads")
    yield from norm(f"{block}.attn_q_norm", n_heads * head_dim(h))
    yield from norm(f"{block}.attn_k_norm", (h.optional_size("num_key_value_heads") or n_heads) * head_dim(h))


def _norms_behind(h: Hyperparameters, block: str) -> Iterator[Rule]:
    """Yield OLMo 2's block, whose norms are behind attention and feed-forward."""
    hidden = h.size("hidden_size")
    yield from attention(h, block)
    yield from whole_norms(h, block)
    yield from norm(f"{block}.post_attention_norm", hidden)
    yield from feed_forward(hidden, h.size("intermediate_size"), block)
    yield from norm(f"{block}.post_ffw_norm", hidden)


def _sparse(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block)
    yield from whole_norms(h, block)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield from experts(h, h.size("intermediate_size"), block)


OLMO: Final = Family(
    hf_names=("OlmoForCausalLM", "OLMoForCausalLM"),
    arch=MODEL_ARCH.OLMO,
    metadata=(
        *COMMON,
        computed(Keys.Attention.LAYERNORM_EPS, F32, lambda _: 1e-5),
        f32(Keys.Attention.CLAMP_KQV, "clip_qkv"),
    ),
    tensors=_olmo,
    facts=Facts(epsilons=("attention.layer_norm_epsilon",), rows_are_heads=True),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
OLMO2: Final = Family(
    hf_names=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    arch=MODEL_ARCH.OLMO2,
    metadata=(*COMMON, WINDOWS),
    tensors=decoder(_norms_behind, needs_output=True),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
OLMOE: Final = Family(
    hf_names=("OlmoeForCausalLM",),
    arch=MODEL_ARCH.OLMOE,
    metadata=(
        only(("norm_topk_prob",), (False,)),
        only(("clip_qkv",)),
        *COMMON,
        computed(Keys.Attention.LAYERNORM_RMS_EPS, F32, lambda _: 1e-5),
    ),
    tensors=decoder(_sparse, needs_output=True),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    parts=FUSED_EXPERTS,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
