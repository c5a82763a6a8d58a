"""InternLM2: Llama with names of its own. Source: conversion/internlm.py, InternLM2Model @ 0c1e570.

Queries, keys and values are one matrix, group by group, which GGUF has as three:

    attention.wqkv    (groups, heads of a group + 2, head_dim) rows: a group's queries, its key, its value
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH

from convert.architecture.blocks import check_heads, decoder, feed_forward, grouped, linear, norm
from convert.architecture.family import Facts, Family, Rule
from convert.architecture.metadata import COMMON, SILU, head_dim, only
from convert.checkpoint.views import interleaved
from convert.tokenizer import INTERNLM2_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor


def _attention(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, size, n_heads = h.size("hidden_size"), head_dim(h), h.size("num_attention_heads")
    n_groups = h.optional_size("num_key_value_heads") or n_heads
    check_heads(h, n_heads, n_groups, size)
    sizes = (n_heads // n_groups * size, size, size)

    def part(tensor: Tensor, index: int) -> Tensor:
        taken = grouped(tensor, n_groups, sizes, slice(index, index + 1))
        return taken if index == len(sizes) - 1 else interleaved(taken, size)

    for index, name in enumerate("qkv"):
        make, of = partial(part, index=index), f"{block}.attn_qkv.weight"
        yield Rule(f"{block}.attn_{name}.weight", (n_groups * sum(sizes), hidden), make, of=of)
    yield from linear(f"{block}.attn_output", hidden, n_heads * size, no_bias=True)


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from _attention(h, block)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield from feed_forward(hidden, h.size("intermediate_size"), block, biases=False)


INTERNLM2: Final = Family(
    hf_names=("InternLM2ForCausalLM",),
    arch=MODEL_ARCH.INTERNLM2,
    metadata=(SILU, only(("bias",), (False,)), *COMMON),
    tensors=decoder(_block, needs_output=True),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    renames=((r"^model\.layers\.(\d+)\.attention\.wqkv\.", r"blk.\1.attn_qkv."),),
    tokenizer=INTERNLM2_TOKENIZER,
)
