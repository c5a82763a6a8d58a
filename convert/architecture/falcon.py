"""Falcon 7B, 40B, 180B and 11B. Source: conversion/falcon.py @ 0c1e570.

Queries, keys and values are one matrix, group by group of the queries that share a key; GGUF has all queries, then all
keys, then all values. Falcon RW is another network (ALiBi, biases, one part behind the other), which llama.cpp has not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, GGUFValueType, Keys

from convert.architecture.blocks import decoder, linear, norm, one_after_the_other, ungated
from convert.architecture.family import Facts, Family
from convert.architecture.metadata import BLOCK_COUNT, ROPE_BEYOND_DEFAULTS, U32, computed, f32, only, u32
from convert.errors import ConfigError
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.family import Rule
    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters

_HEADS: Final = ("num_attention_heads", "n_head")


def _n_key_heads(h: Hyperparameters) -> int:
    """Count the heads of keys: one, unless the config is of 40B's kind, whatever transformers 5 fills in."""
    if h.flag("new_decoder_architecture") or h.get("multi_query") is False:
        return h.optional_size("num_kv_heads", "n_head_kv") or h.size(*_HEADS)
    return 1


def _inner(h: Hyperparameters) -> int:
    return h.optional_size("ffn_hidden_size") or 4 * h.size("hidden_size")


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, n_heads, n_keys = h.size("hidden_size"), h.size(*_HEADS), _n_key_heads(h)
    if hidden % n_heads or n_heads % n_keys:
        raise ConfigError(f"{n_heads} heads and {n_keys} of keys do not divide `hidden_size` {hidden} in {h.where}")
    head, n_groups = hidden // n_heads, n_keys
    make = one_after_the_other(n_groups, (n_heads // n_groups * head, head, head))
    yield from norm(f"{block}.attn_norm", hidden, bias=True)
    if h.flag("new_decoder_architecture") and h.get("num_ln_in_parallel_attn") != 1:
        yield from norm(f"{block}.attn_norm_2", hidden, bias=True)
    yield from linear(f"{block}.attn_qkv", hidden + 2 * n_keys * head, hidden, make)
    yield from linear(f"{block}.attn_output", hidden, hidden)
    yield from ungated(hidden, _inner(h), block)


def _key_heads(given: Given) -> Mapping[str, Any]:
    """Tell 40B's kind from 7B's: by its many heads of keys."""
    norms = 2 if "blk.0.attn_norm_2.weight" in given.tensors else 1
    n_heads = given.get(Keys.Attention.HEAD_COUNT_KV)
    return {"new_decoder_architecture": True, "num_kv_heads": n_heads, "num_ln_in_parallel_attn": norms}


FALCON: Final = Family(
    hf_names=("FalconForCausalLM", "RWForCausalLM"),
    arch=MODEL_ARCH.FALCON,
    metadata=(
        only(("alibi",), (False,)),
        only(("parallel_attn",), (True,)),
        only(("bias",), (False,)),
        computed(Keys.LLM.CONTEXT_LENGTH, U32, lambda _: 2048),  # of all of them, says the reference
        computed(Keys.LLM.TENSOR_DATA_LAYOUT, GGUFValueType.STRING, lambda _: "jploski"),
        u32(Keys.LLM.EMBEDDING_LENGTH, "hidden_size"),
        computed(Keys.LLM.FEED_FORWARD_LENGTH, U32, _inner, ("ffn_hidden_size",)),
        BLOCK_COUNT,
        u32(Keys.Attention.HEAD_COUNT, *_HEADS),
        computed(Keys.Attention.HEAD_COUNT_KV, U32, _n_key_heads, _key_heads),
        f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_epsilon"),
        computed(Keys.General.FILE_TYPE, U32, lambda _: 0),
        ROPE_BEYOND_DEFAULTS,
    ),
    tensors=decoder(_block, bias=True),
    not_beside=(("attn_norm_2.weight", r"\.input_layernorm\."),),
    facts=Facts(epsilons=("attention.layer_norm_epsilon",)),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
