"""gpt-oss, whose experts stay MXFP4 where they are packed so. Source: conversion/gpt_oss.py, GptOssModel @ 0c1e570.

Its experts are stored transposed, gate and up column by column:

    model.layers.L.mlp.experts.gate_up_proj   (experts, hidden, 2 x inner): gate 0, up 0, gate 1, up 1 …, and a bias
    model.layers.L.mlp.experts.down_proj      (experts, inner, hidden), and a bias
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import TRANSPOSED_EXPERTS, attention, decoder, norm, transposed_experts, turned
from convert.architecture.family import Facts, Family, Rule, n_experts
from convert.architecture.metadata import COMMON, only, required, u32, window_period
from convert.checkpoint.columns import Columns
from convert.checkpoint.packed.mxfp4 import Mxfp4Blocks, Mxfp4Tensor
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.blocks import Make
    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, inner, count = h.size("hidden_size"), h.size("intermediate_size"), n_experts(h) or 0
    yield from norm(f"{block}.attn_norm", hidden)
    for rule in attention(h, block):
        yield replace(rule, required=True)  # biases too
    yield Rule(f"{block}.attn_sinks.weight", (h.size("num_attention_heads"),))
    yield from norm(f"{block}.post_attention_norm", hidden)
    yield Rule(f"{block}.ffn_gate_inp.bias", (count,))
    yield from transposed_experts(h, inner, block, together=1, turn=_turned)
    gate_up = f"{block}.ffn_gate_exps.bias"
    yield Rule(gate_up, (count, 2 * inner), _every_second(0))
    yield Rule(f"{block}.ffn_up_exps.bias", (count, 2 * inner), _every_second(1), of=gate_up)
    yield Rule(f"{block}.ffn_down_exps.bias", (count, hidden))


def _turned(tensor: Tensor, period: int = 1, first: int = 0) -> Tensor:
    if isinstance(tensor, Mxfp4Tensor):
        return Mxfp4Blocks(tensor, tensor.name, period, first)
    return turned(tensor, period, first)


def _every_second(first: int) -> Make:
    return lambda tensor: Columns(tensor, tensor.name, 2, first, 1)


GPT_OSS: Final = Family(
    hf_names=("GptOssForCausalLM",),
    arch=MODEL_ARCH.GPT_OSS,
    metadata=(
        only(("swiglu_alpha",), (1.702,)),
        only(("swiglu_limit",), (7.0,)),
        *COMMON,
        required(u32(Keys.Attention.SLIDING_WINDOW, "sliding_window"), "sliding_window"),
        u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "intermediate_size"),
        window_period(2),
    ),
    tensors=decoder(_block, needs_output=True, rope_freqs=False),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    renames=((r"\.sinks$", ".sinks.weight"), *TRANSPOSED_EXPERTS),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
