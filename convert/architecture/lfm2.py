"""LFM2 and its mixture: attention among short convolutions. Source: conversion/lfm2.py @ 0c1e570."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, ExpertGatingFuncType, GGUFValueType, Keys

from convert.architecture.blocks import attention, embeddings, experts, feed_forward, linear, norm, output
from convert.architecture.family import Facts, Family, Parts, Rule, n_experts, n_layers
from convert.architecture.metadata import COMMON, F32, U32, computed, count, f32, head_dim, only, u32
from convert.checkpoint.views import Rows
from convert.errors import ConfigError
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor

_CONVOLUTION: Final = "conv"
_EXPERTS: Final = r"(model\.layers\.\d+\.feed_forward)\.experts"


def _kinds(h: Hyperparameters) -> list[object]:
    kinds = h.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != n_layers(h):
        raise ConfigError(f"`layer_types` in {h.where} does not name the kinds of {n_layers(h)} layers")
    return kinds


def _n_key_heads(h: Hyperparameters) -> tuple[int, ...]:
    """Count the heads of keys in each layer: none where there is a convolution."""
    return tuple(0 if kind == _CONVOLUTION else h.size("num_key_value_heads") for kind in _kinds(h))


def _inner(h: Hyperparameters) -> int:
    """Return the dense feed-forward's size: where the config says so two thirds of its own, times a factor."""
    inner, factor = h.size("block_ff_dim", "intermediate_size"), h.number("block_ffn_dim_multiplier")
    if not h.flag("block_auto_adjust_ff_dim"):
        return inner
    inner, multiple = int(2 * inner / 3), h.size("block_multiple_of")
    inner = inner if factor is None else int(factor * inner)
    return multiple * ((inner + multiple - 1) // multiple)


def _tensors(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    del n_tokens
    hidden, n_dense = h.size("hidden_size"), h.optional_count("num_dense_layers") or 0
    yield from embeddings(h)
    for layer, kind in enumerate(_kinds(h)):
        block = f"blk.{layer}"
        yield from norm(f"{block}.attn_norm", hidden)
        yield from _convolution(h, block) if kind == _CONVOLUTION else _attention(h, block)
        yield from norm(f"{block}.ffn_norm", hidden)
        if n_experts(h) is None or layer < n_dense:
            yield from feed_forward(hidden, _inner(h), block)
        else:
            yield Rule(f"{block}.exp_probs_b.bias", (n_experts(h),))
            yield from experts(h, h.size("moe_intermediate_size"), block, order=("gate", "down", "up"))
    yield from norm("token_embd_norm", hidden)
    yield from output(h)


def _attention(h: Hyperparameters, block: str) -> Iterator[Rule]:
    yield from attention(h, block)
    yield from norm(f"{block}.attn_q_norm", head_dim(h))
    yield from norm(f"{block}.attn_k_norm", head_dim(h))


def _convolution(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, length = h.size("hidden_size"), h.size("conv_L_cache")

    def squeezed(tensor: Tensor) -> Tensor:
        return Rows(tensor, tensor.name, (hidden, length))

    yield Rule(f"{block}.shortconv.conv.weight", (hidden, 1, length), squeezed)
    yield from linear(f"{block}.shortconv.in_proj", 3 * hidden, hidden)
    yield from linear(f"{block}.shortconv.out_proj", hidden, hidden)


def _kinds_of_layers(given: Given) -> Mapping[str, Any]:
    counts = given.get(Keys.Attention.HEAD_COUNT_KV)
    kinds = ["full_attention" if count else _CONVOLUTION for count in counts]
    return {"layer_types": kinds, "num_key_value_heads": max(counts)}


def _inner_of_file(given: Given) -> Mapping[str, Any]:
    inner = given.get(Keys.LLM.FEED_FORWARD_LENGTH)
    return {"intermediate_size": inner, "block_ff_dim": inner, "block_auto_adjust_ff_dim": False}


_ROWS: Final = (
    only(("conv_bias",), (False,)),
    *COMMON,
    computed(Keys.Attention.HEAD_COUNT_KV, GGUFValueType.ARRAY, _n_key_heads, _kinds_of_layers),
)
LFM2: Final = Family(
    hf_names=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    arch=MODEL_ARCH.LFM2,
    metadata=(
        *_ROWS,
        u32(Keys.LLM.VOCAB_SIZE, "vocab_size"),
        u32(Keys.ShortConv.L_CACHE, "conv_L_cache"),
        f32(Keys.Attention.LAYERNORM_RMS_EPS, "norm_eps"),
        computed(Keys.LLM.FEED_FORWARD_LENGTH, U32, _inner, _inner_of_file),
    ),
    tensors=_tensors,
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",)),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
LFM2_MOE: Final = Family(
    hf_names=("Lfm2MoeForCausalLM",),
    arch=MODEL_ARCH.LFM2MOE,
    metadata=(
        only(("use_expert_bias",), (True,)),
        only(("norm_topk_prob",), (True,)),
        *_ROWS,
        u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size"),
        count(Keys.LLM.LEADING_DENSE_BLOCK_COUNT, "num_dense_layers"),
        computed(Keys.LLM.EXPERT_GATING_FUNC, U32, lambda _: int(ExpertGatingFuncType.SIGMOID)),
        u32(Keys.LLM.VOCAB_SIZE, "vocab_size"),
        u32(Keys.ShortConv.L_CACHE, "conv_L_cache"),
        computed(
            Keys.LLM.EXPERT_WEIGHTS_SCALE,
            F32,
            lambda h: _factor(h.number("routed_scaling_factor")),
            ("routed_scaling_factor",),
        ),
    ),
    tensors=_tensors,
    facts=LFM2.facts,
    parts=(
        Parts(rf"{_EXPERTS}\.gate_up_proj", (r"\1.experts.{expert}.w1.weight", r"\1.experts.{expert}.w3.weight")),
        Parts(rf"{_EXPERTS}\.down_proj", (r"\1.experts.{expert}.w2.weight",)),
    ),
    renames=(
        (r"\.expert_bias$", ".expert_bias.bias"),
        (r"^model\.layers\.(\d+)\.feed_forward\.experts\.", r"layers.\1.feed_forward.experts."),
    ),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)


def _factor(value: float | None) -> float | None:
    """Return a factor that the reference leaves out, where it is not 1."""
    return None if value == 1 else value
