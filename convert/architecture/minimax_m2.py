"""MiniMax-M2. Source: conversion/minimax.py, MiniMaxM2Model @ 0c1e570; experts are saved as Mixtral's are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, ExpertGatingFuncType, Keys

from convert.architecture.blocks import attention, decoder, experts, norm
from convert.architecture.family import Facts, Family, Parts, Rule
from convert.architecture.metadata import COMMON, U32, computed, head_dim, late_gating, u32
from convert.architecture.olmo import whole_norms
from convert.architecture.rope import rope_of
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters

_MOE: Final = r"(model\.layers\.\d+)\.mlp"


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block)
    yield from whole_norms(h, block)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield Rule(f"{block}.exp_probs_b.bias", (h.size("num_local_experts"),))
    yield from experts(h, h.size("intermediate_size"), block, order=("gate", "down", "up"))


def _n_rotated(h: Hyperparameters) -> int:
    """Count what of a head is rotated; transformers 5 saves its share instead."""
    part, count = rope_of(h).number("partial_rotary_factor"), h.optional_size("rotary_dim")
    return int(head_dim(h) * (1.0 if part is None else part)) if count is None else count


def _gating(h: Hyperparameters) -> int | None:
    # transformers scores experts by a sigmoid and saves no `scoring_func`; llama.cpp must be told.
    return None if h.get("scoring_func") is not None else int(ExpertGatingFuncType.SIGMOID)


MINIMAX_M2: Final = Family(
    hf_names=("MiniMaxM2ForCausalLM",),
    arch=MODEL_ARCH.MINIMAXM2,
    metadata=(
        *COMMON,
        late_gating(_gating),
        u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "intermediate_size"),
        computed(Keys.Rope.DIMENSION_COUNT, U32, _n_rotated, ("rotary_dim",)),
    ),
    tensors=decoder(_block, needs_output=True),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    parts=(
        Parts(
            rf"{_MOE}\.experts\.gate_up_proj",
            (r"\1.block_sparse_moe.experts.{expert}.w1.weight", r"\1.block_sparse_moe.experts.{expert}.w3.weight"),
        ),
        Parts(rf"{_MOE}\.experts\.down_proj", (r"\1.block_sparse_moe.experts.{expert}.w2.weight",)),
        Parts(rf"{_MOE}\.gate\.weight", (r"\1.block_sparse_moe.gate.weight",)),
    ),
    renames=((r"\.mlp\.e_score_correction\.", ".block_sparse_moe.e_score_correction."),),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
