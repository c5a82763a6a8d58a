"""Cohere's Command R and R+, and Command R7B. Source: conversion/command_r.py @ 0c1e570.

Attention and feed-forward run side by side, behind one norm; the output matrix is the embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, GGUFValueType, Keys

from convert.architecture.blocks import attention, decoder, feed_forward, norm
from convert.architecture.family import Facts, Family, Rule, n_layers
from convert.architecture.metadata import (
    COMMON,
    NO_SCALING,
    U32,
    Row,
    Value,
    changed,
    computed,
    f32,
    head_dim,
    kinds_of_windows,
    only,
    u32,
)
from convert.architecture.rope_back import rotary_part
from convert.errors import UnsupportedError
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters

_EVERY: Final = 4  # src/models/cohere2.cpp, load_swa_pattern @ 0c1e570
_WITH_HEAD_NORMS: Final = 64  # src/models/command-r.cpp: models with as many layers have them @ 0c1e570


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    n_heads = h.size("num_attention_heads")
    yield from norm(f"{block}.attn_norm", h.size("hidden_size"))
    yield from attention(h, block)
    if h.flag("use_qk_norm"):
        yield Rule(f"{block}.attn_q_norm.weight", (n_heads, head_dim(h)))
        yield Rule(f"{block}.attn_k_norm.weight", (h.optional_size("num_key_value_heads") or n_heads, head_dim(h)))
    yield from feed_forward(h.size("hidden_size"), h.size("intermediate_size"), block)


def _check_head_norms(h: Hyperparameters) -> Iterator[Value]:
    if h.flag("use_qk_norm") != (n_layers(h) >= _WITH_HEAD_NORMS):
        raise UnsupportedError(
            f"`use_qk_norm` in {h.where} is {h.flag('use_qk_norm')}, and the layers are {n_layers(h)}:"
            f" llama.cpp takes models of {_WITH_HEAD_NORMS} layers and more to have norms of heads, and no others"
        )
    yield from ()


def _trained_length(h: Hyperparameters) -> Hyperparameters:
    return h.replaced(max_position_embeddings=h.get("model_max_length", "max_position_embeddings"))


def _pattern(h: Hyperparameters) -> tuple[bool, ...] | None:
    """Say which layers have a window, where it is not all but every fourth, as llama.cpp takes it to be."""
    kinds = h.get("layer_types")
    pattern = tuple(kind == "sliding_attention" for kind in kinds) if isinstance(kinds, list) else ()
    usual = tuple((index + 1) % _EVERY != 0 for index in range(len(pattern)))
    return None if pattern == usual else pattern


def _n_rotated(h: Hyperparameters) -> int:
    part = h.number("rotary_pct")  # which transformers 5 does not know: the whole head
    return int((1.0 if part is None else part) * (h.size("hidden_size") // h.size("num_attention_heads")))


_TIED: Final = only(("tie_word_embeddings",), (True,))  # llama.cpp looks for no other output matrix

COHERE: Final = Family(
    hf_names=("CohereForCausalLM",),
    arch=MODEL_ARCH.COMMAND_R,
    metadata=(
        _TIED,
        Row(_check_head_norms),
        *changed(COMMON, _trained_length),
        f32(Keys.LLM.LOGIT_SCALE, "logit_scale"),
        NO_SCALING,
    ),
    tensors=decoder(_block),
    facts=Facts(epsilons=("attention.layer_norm_epsilon",), rows_are_heads=True),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
COHERE2: Final = Family(
    hf_names=("Cohere2ForCausalLM",),
    arch=MODEL_ARCH.COHERE2,
    metadata=(
        _TIED,
        *COMMON,
        f32(Keys.LLM.LOGIT_SCALE, "logit_scale"),
        u32(Keys.Attention.SLIDING_WINDOW, "sliding_window"),
        u32(Keys.LLM.VOCAB_SIZE, "vocab_size"),
        computed(Keys.Rope.DIMENSION_COUNT, U32, _n_rotated, rotary_part("rotary_pct")),
        NO_SCALING,
        computed(Keys.Attention.SLIDING_WINDOW_PATTERN, GGUFValueType.ARRAY, _pattern, kinds_of_windows),
    ),
    tensors=decoder(_block),
    facts=Facts(epsilons=("attention.layer_norm_epsilon",), rows_are_heads=True),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
