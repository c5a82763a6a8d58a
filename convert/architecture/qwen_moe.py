"""Qwen's mixtures of experts. Source: conversion/qwen.py, Qwen2MoeModel and Qwen3MoeModel @ 0c1e570.

Experts are stored one by one, or fused, gate above up, as a state dict of transformers 5 holds them. Qwen 2 has one
more, which all tokens go through, weighted by a gate of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import (
    FUSED_EXPERTS,
    attention,
    embeddings,
    experts,
    feed_forward,
    norm,
    output,
    output_of_its_own,
    tied_output,
)
from convert.architecture.family import Facts, Family, Rule, n_layers
from convert.architecture.metadata import COMMON, activation, u32
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters

_SHARED: Final = "shared_expert_intermediate_size"


def _qwen2(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    del n_tokens
    yield from _tensors(h, head_norms=False)
    yield from output_of_its_own(h)
    for layer in range(n_layers(h)):
        yield Rule(f"blk.{layer}.ffn_gate_inp_shexp.weight", (1, h.size("hidden_size")))
        yield from feed_forward(h.size("hidden_size"), h.size(_SHARED), f"blk.{layer}", suffix="_shexp", biases=False)


def _qwen3(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    del n_tokens
    yield from _tensors(h, head_norms=True)
    yield from output(h)


def _tensors(h: Hyperparameters, *, head_norms: bool) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from embeddings(h)
    for layer in range(n_layers(h)):
        block = f"blk.{layer}"
        yield from norm(f"{block}.attn_norm", hidden)
        yield from attention(h, block, head_norms=head_norms, output_bias=False)
        yield from norm(f"{block}.ffn_norm", hidden)
        yield from experts(h, h.size("moe_intermediate_size"), block)
    yield from norm("output_norm", hidden)


_METADATA: Final = (
    activation("silu"),
    *COMMON,
    u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size"),
    u32(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, _SHARED),
)
_FACTS: Final = Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True)

QWEN2_MOE: Final = Family(
    hf_names=("Qwen2MoeForCausalLM",),
    arch=MODEL_ARCH.QWEN2MOE,
    metadata=_METADATA,
    tensors=_qwen2,
    facts=_FACTS,
    parts=FUSED_EXPERTS,
    left_out=tied_output,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
QWEN3_MOE: Final = Family(
    hf_names=("Qwen3MoeForCausalLM",),
    arch=MODEL_ARCH.QWEN3MOE,
    metadata=_METADATA,
    tensors=_qwen3,
    facts=_FACTS,
    parts=FUSED_EXPERTS,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
