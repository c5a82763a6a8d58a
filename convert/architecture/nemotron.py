"""Nemotron and Minitron: norms of 1 + weight, a feed-forward without gate.

Source: conversion/nemotron.py, NemotronModel @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, GGUFValueType, Keys, RopeScalingType

from convert.architecture.blocks import attention, decoder, norm, ungated
from convert.architecture.family import Facts, Family
from convert.architecture.metadata import COMMON, F32, U32, Row, Value, computed, f32, u32
from convert.architecture.rope import rope_of
from convert.architecture.rope_back import rope_of_file, rotary_part
from convert.errors import UnsupportedError
from convert.tokenizer import NEMOTRON_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.family import Rule
    from convert.architecture.hyperparameters import Hyperparameters


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden, bias=True, plus_one=True)
    yield from attention(h, block)
    yield from norm(f"{block}.ffn_norm", hidden, bias=True, plus_one=True)
    yield from ungated(hidden, h.size("intermediate_size"), block)


def _n_rotated(h: Hyperparameters) -> int:
    part = rope_of(h).number("partial_rotary_factor")
    return int((0.5 if part is None else part) * h.size("hidden_size")) // h.size("num_attention_heads")


def _scaling(h: Hyperparameters) -> Iterator[Value]:
    """Yield the scaling: the reference takes any factor to be a linear one's."""
    factor = h.number("factor") or rope_of(h).number("factor")
    if factor is not None and rope_of(h).text("rope_type") not in (None, "linear"):
        raise UnsupportedError(f"rope scaling `{rope_of(h).text('rope_type')}` in {h.where}: Nemotron has linear only")
    kind = RopeScalingType.NONE if factor is None else RopeScalingType.LINEAR
    yield Keys.Rope.SCALING_TYPE, kind.value, GGUFValueType.STRING
    if factor is not None:
        yield Keys.Rope.SCALING_FACTOR, factor, F32


NEMOTRON: Final = Family(
    hf_names=("NemotronForCausalLM",),
    arch=MODEL_ARCH.NEMOTRON,
    metadata=(
        *COMMON,
        u32(Keys.LLM.VOCAB_SIZE, "vocab_size"),
        f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
        computed(Keys.Rope.DIMENSION_COUNT, U32, _n_rotated, rotary_part()),
        Row(_scaling, Keys.Rope.SCALING_TYPE, rope_of_file, sure=True),
    ),
    tensors=decoder(_block, bias=True, plus_one=True, needs_output=True),
    facts=Facts(epsilons=("attention.layer_norm_epsilon",), rows_are_heads=True),
    tokenizer=NEMOTRON_TOKENIZER,
)
