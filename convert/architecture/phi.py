"""Phi-2, and Phi-3, 3.5, 4, their minis and PhiMoE. Source: conversion/phi.py @ 0c1e570.

Phi-3 holds queries, keys and values in one matrix, gate and up in another, which GGUF has as they are. Long contexts
have factors for each rotary frequency, one list below the original length and one beyond, and a factor on the result.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, check_heads, decoder, experts, linear, norm, tied_output
from convert.architecture.family import N_EXPERTS, Facts, Family, Parts, Rule
from convert.architecture.hyperparameters import MAX_EXPERTS
from convert.architecture.metadata import (
    BLOCK_COUNT,
    BOOL,
    F32,
    GELU,
    ROPE_BASE,
    ROPE_BEYOND_DEFAULTS,
    U32,
    Row,
    computed,
    f32,
    head_dim,
    only,
    required,
    u32,
)
from convert.architecture.rope import rope_of
from convert.architecture.rope_back import in_scaling, rotary_part
from convert.checkpoint.views import Constant
from convert.errors import ConfigError, UnsupportedError
from convert.tokenizer import BYTE_LEVEL_TOKENIZER, PHI_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters

_CONTEXT: Final = ("n_positions", "max_position_embeddings")
_LONG: Final = ("longrope", "su", "yarn")  # the names that the factors have had in Phi-3's configs
_MOE: Final = r"(model\.layers\.\d+)\.mlp"


def _rotary_size(h: Hyperparameters) -> int:
    part = rope_of(h).number("partial_rotary_factor")
    return int((1.0 if part is None else part) * h.size("hidden_size")) // h.size("num_attention_heads")


def _original_length(h: Hyperparameters) -> int:
    return rope_of(h).original_length() or h.size(*_CONTEXT)


def _n_kv_heads(h: Hyperparameters) -> int:
    return h.optional_size("num_key_value_heads") or h.size("num_attention_heads")


def _factors(h: Hyperparameters) -> Iterator[Constant]:
    """Yield the rotary factors. Raises UnsupportedError for another scaling, ConfigError for lists that do not fit."""
    if not _has_factors(h):
        return
    for kind in ("long", "short"):
        values = rope_of(h).get(f"{kind}_factor")
        size = _rotary_size(h) // 2
        if not (isinstance(values, list) and len(values) == size and all(type(v) in (int, float) for v in values)):
            raise ConfigError(f"`{kind}_factor` in {h.where} is {values!r:.60}, wanted {size} numbers")
        yield Constant(f"rope_factors_{kind}.weight", np.array(values, "<f4").tobytes())


def _has_factors(h: Hyperparameters) -> bool:
    kind, is_long = rope_of(h).text("rope_type"), bool(rope_of(h).get("long_factor"))
    if kind not in ((None, "default", *_LONG) if is_long else (None, "default")):
        raise UnsupportedError(f"rope scaling `{kind}` in {h.where}, wanted `longrope` with its factors")
    return is_long


def _scale(h: Hyperparameters) -> float | None:
    """Give what sines and cosines are multiplied by. transformers, _compute_longrope_parameters."""
    if not _has_factors(h):
        return None
    rope, length = rope_of(h), _original_length(h)
    stated, ratio = rope.number("attention_factor"), rope.number("factor")
    ratio = h.size(*_CONTEXT) / length if ratio is None else ratio
    if stated is not None or ratio <= 1.0:
        return 1.0 if stated is None else stated
    return 0.1 * math.log(ratio) + 1.0 if rope.get("rope_type") == "yarn" else _root(ratio, length)


def _root(ratio: float, length: int) -> float:
    return math.sqrt(1 + math.log(ratio) / math.log(length))


def _scale_of_mixture(h: Hyperparameters) -> float | None:
    """Give PhiMoE's, which its config says; the reference writes Phi-3's instead."""
    if not _has_factors(h):
        return None
    long, short = rope_of(h).number("long_mscale"), rope_of(h).number("short_mscale")
    if long != short:
        raise UnsupportedError(f"`long_mscale` {long} and `short_mscale` {short} in {h.where}: GGUF's key holds one")
    return _scale(h) if long is None else long


def _phi3(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, inner, n_heads, size = h.size("hidden_size"), h.size("intermediate_size"), _n_heads(h), head_dim(h)
    yield from norm(f"{block}.attn_norm", hidden)
    yield from linear(f"{block}.attn_qkv", (n_heads + 2 * _n_kv_heads(h)) * size, hidden, no_bias=True)
    yield from linear(f"{block}.attn_output", hidden, n_heads * size, no_bias=True)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield from linear(f"{block}.ffn_up", 2 * inner, hidden, no_bias=True)
    yield from linear(f"{block}.ffn_down", hidden, inner, no_bias=True)


def _n_heads(h: Hyperparameters) -> int:
    n_heads = h.size("num_attention_heads")
    check_heads(h, n_heads, _n_kv_heads(h), head_dim(h))
    return n_heads


def _phi2(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, inner = h.size("hidden_size"), h.size("intermediate_size")
    yield from norm(f"{block}.attn_norm", hidden, bias=True)
    yield from attention(h, block)
    yield from linear(f"{block}.ffn_up", inner, hidden, needs_bias=True)
    yield from linear(f"{block}.ffn_down", hidden, inner, needs_bias=True)


def _mixture(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden, bias=True)
    yield from attention(h, block)
    yield from norm(f"{block}.ffn_norm", hidden, bias=True)
    yield from experts(h, h.size("intermediate_size"), block, order=("gate", "down", "up"))


def _with_factors(
    block: Callable[[Hyperparameters, str], Iterator[Rule | Constant]], *, biases: bool = False
) -> Callable[[Hyperparameters, int], Iterator[Rule | Constant]]:
    rules = decoder(block, bias=biases, needs_output=biases)

    def of_model(h: Hyperparameters, n_tokens: int) -> Iterator[Rule | Constant]:
        yield from _factors(h)
        yield from rules(h, n_tokens)
        if biases:
            yield Rule("output.bias", (h.size("vocab_size"),))

    return of_model


def _metadata(*, context: Row) -> tuple[Row, ...]:
    return (
        context,
        u32(Keys.LLM.EMBEDDING_LENGTH, "hidden_size", "n_embd"),
        u32(Keys.LLM.FEED_FORWARD_LENGTH, "intermediate_size"),
        BLOCK_COUNT,
        u32(Keys.Attention.HEAD_COUNT, "num_attention_heads", "n_head"),
        computed(Keys.Attention.HEAD_COUNT_KV, U32, _n_kv_heads, ("num_key_value_heads",)),
    )


def _window_of_file(given: Given) -> Mapping[str, Any]:
    return {"sliding_window": given.get(Keys.Attention.SLIDING_WINDOW) or None}


_ATTENTION_FACTOR: Final = in_scaling(Keys.Rope.SCALING_ATTN_FACTOR, "attention_factor")
_FACTORS_OF_MIXTURE: Final = in_scaling(Keys.Rope.SCALING_ATTN_FACTOR, "long_mscale", also=("short_mscale",))
_PHI3_METADATA: Final = (
    u32(Keys.LLM.CONTEXT_LENGTH, *_CONTEXT),
    *_metadata(context=computed(Keys.Rope.SCALING_ORIG_CTX_LEN, U32, _original_length)),
    required(f32(Keys.Attention.LAYERNORM_RMS_EPS, "rms_norm_eps"), "rms_norm_eps"),
    computed(Keys.Rope.DIMENSION_COUNT, U32, _rotary_size, rotary_part()),
    required(ROPE_BASE, "rope_theta"),
    computed(Keys.General.FILE_TYPE, U32, lambda _: 0),
    # 0 tells Phi-4 from the others
    computed(Keys.Attention.SLIDING_WINDOW, U32, lambda h: h.optional_size("sliding_window") or 0, _window_of_file),
)

PHI2: Final = Family(
    hf_names=("PhiForCausalLM",),
    arch=MODEL_ARCH.PHI2,
    metadata=(
        GELU,
        only(("qk_layernorm",), (False,)),
        *_metadata(context=u32(Keys.LLM.CONTEXT_LENGTH, *_CONTEXT)),
        f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_epsilon", "layer_norm_eps"),
        computed(Keys.Rope.DIMENSION_COUNT, U32, _rotary_size, rotary_part()),
        computed(Keys.General.FILE_TYPE, U32, lambda _: 0),
        computed(Keys.Tokenizer.ADD_BOS, BOOL, lambda _: False),
        ROPE_BEYOND_DEFAULTS,
    ),
    tensors=_with_factors(_phi2, biases=True),
    facts=Facts(epsilons=("attention.layer_norm_epsilon",), rows_are_heads=True),
    left_out=tied_output,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
PHI3: Final = Family(
    hf_names=("Phi3ForCausalLM",),
    arch=MODEL_ARCH.PHI3,
    first=(computed(Keys.Rope.SCALING_ATTN_FACTOR, F32, _scale, _ATTENTION_FACTOR),),
    metadata=_PHI3_METADATA,
    tensors=_with_factors(_phi3),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",)),
    tokenizer=PHI_TOKENIZER,
)
PHI_MOE: Final = Family(
    hf_names=("PhiMoEForCausalLM", "PhimoeForCausalLM"),
    arch=MODEL_ARCH.PHIMOE,
    first=(replace(computed(Keys.Rope.SCALING_ATTN_FACTOR, F32, _scale_of_mixture, _FACTORS_OF_MIXTURE), sure=True),),
    metadata=(
        *_PHI3_METADATA,
        u32(Keys.LLM.EXPERT_USED_COUNT, "num_experts_per_tok", "num_experts_per_token", limit=MAX_EXPERTS),
        u32(Keys.LLM.EXPERT_COUNT, *N_EXPERTS, limit=MAX_EXPERTS),
    ),
    tensors=_with_factors(_mixture, biases=True),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    parts=(
        Parts(
            rf"{_MOE}\.experts\.gate_up_proj",
            (r"\1.block_sparse_moe.experts.{expert}.w1.weight", r"\1.block_sparse_moe.experts.{expert}.w3.weight"),
        ),
        Parts(rf"{_MOE}\.experts\.down_proj", (r"\1.block_sparse_moe.experts.{expert}.w2.weight",)),
        Parts(rf"{_MOE}\.router\.weight", (r"\1.block_sparse_moe.gate.weight",)),
    ),
    left_out=tied_output,
    tokenizer=PHI_TOKENIZER,
)
