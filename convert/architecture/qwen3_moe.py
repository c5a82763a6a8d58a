"""Qwen3-MoE. Source: conversion/qwen.py, Qwen2MoeModel and Qwen3MoeModel @ 0c1e570."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, embeddings, experts, norm, output
from convert.architecture.family import FUSED_EXPERTS, Facts, Family, Rule, n_layers
from convert.architecture.metadata import COMMON, u32
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters


def _tensors(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    del n_tokens
    hidden = h.size("hidden_size")
    yield from embeddings(h)
    for layer in range(n_layers(h)):
        block = f"blk.{layer}"
        yield from norm(f"{block}.attn_norm", hidden)
        yield from attention(h, block, head_norms=True)
        yield from norm(f"{block}.ffn_norm", hidden)
        yield from experts(h, h.size("moe_intermediate_size"), block)
    yield from norm("output_norm", hidden)
    yield from output(h)


QWEN3_MOE: Final = Family(
    hf_names=("Qwen3MoeForCausalLM",),
    arch=MODEL_ARCH.QWEN3MOE,
    metadata=(
        *COMMON,
        u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size"),
        u32(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, "shared_expert_intermediate_size"),
    ),
    tensors=_tensors,
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    parts=FUSED_EXPERTS,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
