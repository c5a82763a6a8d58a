"""Qwen's mixtures of experts. Source: conversion/qwen.py, Qwen2MoeModel and Qwen3MoeModel @ 0c1e570.

Experts are stored one by one, or fused, gate above up, as a state dict of transformers 5 holds them. Qwen 2 has one
more, which all tokens go through, weighted by a gate of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, decoder, experts, feed_forward, norm, tied_output
from convert.architecture.family import FUSED_EXPERTS, Facts, Family, Rule
from convert.architecture.metadata import COMMON, u32
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters

_SHARED: Final = "shared_expert_intermediate_size"


def _qwen2(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from _block(h, block)
    yield Rule(f"{block}.ffn_gate_inp_shexp.weight", (1, hidden))
    yield from feed_forward(hidden, h.size(_SHARED), block, suffix="_shexp", biases=False)


def _block(h: Hyperparameters, block: str, *, head_norms: bool = False) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block, head_norms=head_norms, output_bias=False)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield from experts(h, h.size("moe_intermediate_size"), block)


_METADATA: Final = (
    *COMMON,
    u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size"),
    u32(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, _SHARED),
)
_FACTS: Final = Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True)

QWEN2_MOE: Final = Family(
    hf_names=("Qwen2MoeForCausalLM",),
    arch=MODEL_ARCH.QWEN2MOE,
    metadata=_METADATA,
    tensors=decoder(_qwen2, needs_output=True, rope_freqs=False),
    facts=_FACTS,
    parts=FUSED_EXPERTS,
    left_out=tied_output,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
QWEN3_MOE: Final = Family(
    hf_names=("Qwen3MoeForCausalLM",),
    arch=MODEL_ARCH.QWEN3MOE,
    metadata=_METADATA,
    tensors=decoder(partial(_block, head_norms=True), rope_freqs=False),
    facts=_FACTS,
    parts=FUSED_EXPERTS,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
