"""Llama, Mistral and Mixtral: one GGUF architecture.

Mixtral's experts are saved in two ways. One by one, as `from_pretrained` and `save_pretrained` know them:

    model.layers.L.block_sparse_moe.experts.E.{w1,w2,w3}.weight, and …block_sparse_moe.gate.weight

and fused, as a state dict of transformers 5 holds them:

    model.layers.L.mlp.experts.gate_up_proj   (experts, 2 x inner, hidden): w1 above w3
    model.layers.L.mlp.experts.down_proj      (experts, hidden, inner): w2

Source: conversion/llama.py, LlamaModel @ 0c1e570; transformers 5.23, modeling_mixtral.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, decoder, experts, gated_block, norm
from convert.architecture.family import Facts, Family, Parts, Rule, n_experts
from convert.architecture.metadata import COMMON, SILU, U32, computed, f32, head_dim, required, u32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters

_MOE: Final = r"(model\.layers\.\d+)\.mlp"


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    if n_experts(h) is None:
        yield from gated_block(h, block, interleave=True)
        return
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block, interleave=True)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield from experts(h, h.size("intermediate_size"), block, order=("gate", "down", "up"))


# Of the families whose class in the reference is made of Llama's.
LLAMA_ROWS: Final = (
    *COMMON,
    required(f32(Keys.Attention.LAYERNORM_RMS_EPS, "rms_norm_eps"), "rms_norm_eps"),
    u32(Keys.LLM.VOCAB_SIZE, "vocab_size"),
    computed(Keys.Rope.DIMENSION_COUNT, U32, head_dim, ("head_dim",)),
)

LLAMA: Final = Family(
    hf_names=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "LlamaModel"),
    arch=MODEL_ARCH.LLAMA,
    metadata=(SILU, *LLAMA_ROWS),
    tensors=decoder(_block, rope_freqs=True),
    parts=(
        Parts(
            rf"{_MOE}\.experts\.gate_up_proj",
            (r"\1.block_sparse_moe.experts.{expert}.w1.weight", r"\1.block_sparse_moe.experts.{expert}.w3.weight"),
        ),
        Parts(rf"{_MOE}\.experts\.down_proj", (r"\1.block_sparse_moe.experts.{expert}.w2.weight",)),
        Parts(rf"{_MOE}\.gate\.weight", (r"\1.block_sparse_moe.gate.weight",)),
    ),
    facts=Facts(n_rotary_tables=2, epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    renames=((r"^model\.layers\.(\d+)\.block_sparse_moe\.experts\.", r"layers.\1.feed_forward.experts."),),
)
