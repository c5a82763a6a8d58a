"""Qwen3-Next, Qwen3.5 and its mixture, text: three layers of four with a gated delta rule instead of attention.

Source: conversion/qwen.py, Qwen3NextModel, Qwen3_5TextModel and Qwen3_5MoeTextModel @ 0c1e570.

Of the delta rule's heads each key's serves several values', which lie beside one another in the checkpoint. Qwen3-Next
holds all that belongs to a key's head together, and GGUF wants it apart; Qwen3.5 has it apart, and GGUF wants its
values' heads in another order, the first of every key's head, then the second:

    in_proj_qkvz  (keys' heads, q + k + values' heads of it + as many gates, hidden)          Qwen3-Next
    in_proj_qkv   (q of all, k of all, v of all: k0v0 k0v1 k1v0 k1v1 → k0v0 k1v0 k0v1 k1v1)   Qwen3.5

A norm is multiplied by 1 + weight, and GGUF holds the sum; the delta rule's own norm is as it is. A checkpoint may have
a layer that predicts the token behind the next, of which the tensors tell, not the config.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, GGUFValueType, Keys

from convert.architecture.blocks import (
    check_heads,
    embeddings,
    experts,
    feed_forward,
    grouped,
    linear,
    norm,
    output,
    tied_output,
)
from convert.architecture.family import Counted, Facts, Family, Parts, Rule, n_layers
from convert.architecture.metadata import COMMON, U32, Row, Value, computed, head_dim, only, required, u32
from convert.architecture.rope import rope_of
from convert.architecture.rope_back import rotary_part
from convert.checkpoint.columns import SwappedColumns
from convert.checkpoint.decay import Decay
from convert.checkpoint.views import Rows, concatenated
from convert.errors import ConfigError, UnsupportedError
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor

_DELTA: Final = "linear_attention"
_PREDICTING: Final = "mtp_num_hidden_layers"
_SHARED: Final = "shared_expert_intermediate_size"
_EXPERTS: Final = r"((?:model|mtp)\.layers\.\d+\.mlp\.experts)"
_USUAL_SECTIONS: Final = (11, 11, 10, 0)  # what llama.cpp needs said, and transformers takes where it is not


def _n_predicting(h: Hyperparameters) -> int:
    return h.optional_count(_PREDICTING) or 0


def _n_blocks(h: Hyperparameters) -> int:
    return n_layers(h) + _n_predicting(h)


def _kinds(h: Hyperparameters) -> list[str]:
    kinds = h.texts("layer_types")
    if kinds is None:
        every = h.optional_size("full_attention_interval") or 4
        return ["full_attention" if (layer + 1) % every == 0 else _DELTA for layer in range(n_layers(h))]
    if len(kinds) != n_layers(h):
        raise ConfigError(
            f"`layer_types` in {h.where} names the kinds of {len(kinds)} layers, the model has {n_layers(h)}"
        )
    return kinds


def _values_of_a_key(h: Hyperparameters) -> int:
    """Count the values' heads that a key's serves. Raises ConfigError, or UnsupportedError for heads of two sizes."""
    keys, values = h.size("linear_num_key_heads"), h.size("linear_num_value_heads")
    if values % keys:
        raise ConfigError(f"`linear_num_value_heads` {values} is not a multiple of `linear_num_key_heads` {keys}")
    if h.size("linear_key_head_dim") != h.size("linear_value_head_dim"):
        raise UnsupportedError(f"`linear_key_head_dim` in {h.where} is not `linear_value_head_dim`, as in llama.cpp")
    return values // keys


def _in_turn(h: Hyperparameters, tensor: Tensor, size: int) -> Tensor:
    """Take the first values' head of every key's head, then the second: of `size` rows each."""
    return grouped(tensor, h.size("linear_num_key_heads"), (size,) * _values_of_a_key(h))


def _delta(h: Hyperparameters, block: str, *, is_apart: bool) -> Iterator[Rule]:
    hidden, size = h.size("hidden_size"), h.size("linear_key_head_dim")
    n_keys, n_values, kernel = h.size("linear_num_key_heads"), h.size("linear_num_value_heads"), h.size(_KERNEL)
    share, keys, values = _values_of_a_key(h), 2 * n_keys * size, n_values * size
    in_turn: Callable[[Tensor], Tensor] = partial(_in_turn, h, size=1) if is_apart else lambda tensor: tensor

    def values_in_turn(tensor: Tensor) -> Tensor:
        if not is_apart or share == 1:
            return tensor
        rest = tensor.shape[1:]
        parts = Rows(tensor, tensor.name, (keys, *rest)), Rows(tensor, tensor.name, (values, *rest), keys)
        return concatenated(tensor.name, (parts[0], _in_turn(h, parts[1], size)))

    def squeezed(tensor: Tensor) -> Tensor:
        return values_in_turn(Rows(tensor, tensor.name, (keys + values, kernel)))

    def outer(tensor: Tensor) -> Tensor:
        return SwappedColumns(tensor, tensor.name, n_keys, share, size) if is_apart and share > 1 else tensor

    if is_apart:
        yield Rule(f"{block}.attn_qkv.weight", (keys + values, hidden), values_in_turn)
        yield Rule(f"{block}.attn_gate.weight", (values, hidden), partial(_in_turn, h, size=size))
        yield Rule(f"{block}.ssm_beta.weight", (n_values, hidden), in_turn)
        yield Rule(f"{block}.ssm_alpha.weight", (n_values, hidden), in_turn)
    else:
        stored, sizes, of = (
            (keys + 2 * values, hidden),
            (size, size, share * size, share * size),
            f"{block}.ssm_in.weight",
        )
        cut = partial(grouped, n_groups=n_keys, sizes=sizes)
        yield Rule(f"{block}.attn_qkv.weight", stored, partial(cut, taken=slice(3)), of=of)
        yield Rule(f"{block}.attn_gate.weight", stored, partial(cut, taken=slice(3, 4)), of=of)
        yield Rule(f"{block}.ssm_ba.weight", (2 * n_values, hidden))
    yield Rule(f"{block}.ssm_conv1d.weight", (keys + values, 1, kernel), squeezed)
    yield Rule(f"{block}.ssm_dt.bias", (n_values,), in_turn)
    yield Rule(f"{block}.ssm_a", (n_values,), lambda tensor: Decay(in_turn(tensor), tensor.name))
    yield from norm(f"{block}.ssm_norm", size)
    yield Rule(f"{block}.ssm_out.weight", (hidden, values), outer)


def _attention(h: Hyperparameters, block: str) -> Iterator[Rule]:
    """Yield attention whose queries come with a gate each."""
    hidden, size, n_heads = h.size("hidden_size"), head_dim(h), h.size("num_attention_heads")
    n_kv_heads = h.optional_size("num_key_value_heads") or n_heads
    check_heads(h, n_heads, n_kv_heads, size)
    yield from linear(f"{block}.attn_q", 2 * n_heads * size, hidden)
    yield from linear(f"{block}.attn_k", n_kv_heads * size, hidden)
    yield from linear(f"{block}.attn_v", n_kv_heads * size, hidden)
    yield from linear(f"{block}.attn_output", hidden, n_heads * size, no_bias=True)
    yield from norm(f"{block}.attn_q_norm", size, plus_one=True)
    yield from norm(f"{block}.attn_k_norm", size, plus_one=True)


def _dense(h: Hyperparameters, block: str) -> Iterator[Rule]:
    yield from feed_forward(h.size("hidden_size"), h.size("intermediate_size"), block, biases=False)


def _mixture(h: Hyperparameters, block: str) -> Iterator[Rule]:
    yield from experts(h, h.size("moe_intermediate_size"), block)
    yield Rule(f"{block}.ffn_gate_inp_shexp.weight", (1, h.size("hidden_size")))
    yield from feed_forward(h.size("hidden_size"), h.size(_SHARED), block, suffix="_shexp", biases=False)


def _predicting(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield Rule(f"{block}.nextn.eh_proj.weight", (hidden, 2 * hidden))
    for part in ("enorm", "hnorm", "shared_head_norm"):
        yield from norm(f"{block}.nextn.{part}", hidden, plus_one=True)


def _tensors(
    h: Hyperparameters, n_tokens: int, *, feed: Callable[[Hyperparameters, str], Iterator[Rule]], is_apart: bool
) -> Iterator[Rule]:
    del n_tokens
    hidden = h.size("hidden_size")
    yield from embeddings(h)
    for layer, kind in enumerate((*_kinds(h), *("full_attention",) * _n_predicting(h))):
        block = f"blk.{layer}"
        yield from norm(f"{block}.attn_norm", hidden, plus_one=True)
        yield from _delta(h, block, is_apart=is_apart) if kind == _DELTA else _attention(h, block)
        yield from norm(f"{block}.post_attention_norm", hidden, plus_one=True)
        yield from feed(h, block)
    for layer in range(n_layers(h), _n_blocks(h)):
        yield from _predicting(h, f"blk.{layer}")
    yield from norm("output_norm", hidden, plus_one=True)
    yield from output(h)


def _kinds_of_layers(h: Hyperparameters) -> Iterator[Value]:
    if h.get("layer_types") is not None:
        recurrent = (*(kind == _DELTA for kind in _kinds(h)), *(False,) * _n_predicting(h))
        yield _RECURRENT, recurrent, GGUFValueType.ARRAY


def _kinds_of_file(given: Given) -> Mapping[str, Any]:
    recurrent = given.get(_RECURRENT)
    n = given.get(Keys.LLM.BLOCK_COUNT) - given.get(Keys.LLM.NEXTN_PREDICT_LAYERS, 0)
    kinds = [] if recurrent is None else [_DELTA if kind else "full_attention" for kind in recurrent[:n]]
    return {"layer_types": kinds} if kinds else {}


def _layers_of_file(given: Given) -> Mapping[str, Any]:
    n, n_predicting = given.get(Keys.LLM.BLOCK_COUNT), given.get(Keys.LLM.NEXTN_PREDICT_LAYERS, 0)
    return {"num_hidden_layers": n - n_predicting} | ({_PREDICTING: n_predicting} if n_predicting else {})


def _n_rotated(h: Hyperparameters) -> int:
    part = rope_of(h).number("partial_rotary_factor")
    return int(head_dim(h) * (0.25 if part is None else part))


_KERNEL: Final = "linear_conv_kernel_dim"
_RECURRENT: Final = "{arch}.attention.recurrent_layers"
_METADATA: Final = (
    only(("attn_output_gate",), (True,)),
    *COMMON,
    replace(computed(Keys.LLM.BLOCK_COUNT, U32, _n_blocks, _layers_of_file), sure=True),
    u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size"),
    u32(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, _SHARED),
    computed(Keys.LLM.NEXTN_PREDICT_LAYERS, U32, lambda h: _n_predicting(h) or None),
    required(u32(Keys.SSM.CONV_KERNEL, _KERNEL), _KERNEL),
    required(u32(Keys.SSM.STATE_SIZE, "linear_key_head_dim"), "linear_key_head_dim"),
    required(u32(Keys.SSM.GROUP_COUNT, "linear_num_key_heads"), "linear_num_key_heads"),
    required(u32(Keys.SSM.TIME_STEP_RANK, "linear_num_value_heads"), "linear_num_value_heads"),
    computed(
        Keys.SSM.INNER_SIZE,
        U32,
        lambda h: h.size("linear_value_head_dim") * h.size("linear_num_value_heads"),
        lambda given: {"linear_value_head_dim": given.get(Keys.SSM.INNER_SIZE) // given.get(Keys.SSM.TIME_STEP_RANK)},
    ),
    Row(_kinds_of_layers, _RECURRENT, _kinds_of_file, sure=True),
    u32(Keys.LLM.FULL_ATTENTION_INTERVAL, "full_attention_interval", default=4),
    computed(Keys.Rope.DIMENSION_COUNT, U32, _n_rotated, rotary_part()),
)
QWEN3_NEXT: Final = Family(
    hf_names=("Qwen3NextForCausalLM",),
    arch=MODEL_ARCH.QWEN3NEXT,
    metadata=_METADATA,
    tensors=partial(_tensors, feed=_mixture, is_apart=False),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",)),
    parts=(
        Parts(rf"{_EXPERTS}\.gate_up_proj", (r"\1.gate_proj.weight", r"\1.up_proj.weight")),
        Parts(rf"{_EXPERTS}\.down_proj", (r"\1.down_proj.weight",)),
    ),
    renames=(
        (r"^model\.mtp\.", "mtp."),
        (r"^mtp\.layers\.0\.", "model.layers.{n_layers}."),
        (r"^mtp\.fc\.", "blk.{n_layers}.nextn.eh_proj."),
        (r"^mtp\.pre_fc_norm_embedding\.", "blk.{n_layers}.nextn.enorm."),
        (r"^mtp\.pre_fc_norm_hidden\.", "blk.{n_layers}.nextn.hnorm."),
        (r"^mtp\.norm\.", "blk.{n_layers}.nextn.shared_head_norm."),
        (r"\.dt_bias$", ".dt_proj.bias"),
    ),
    left_out=tied_output,
    tokenizer=BYTE_LEVEL_TOKENIZER,
    n_blocks=_n_blocks,
    counted=Counted(_PREDICTING, r"(?:^|\.)mtp\.layers\.(\d+)\."),
)
_SECTIONS: Final = Row(
    lambda h: iter(
        ()
        if h.rope.get("mrope_section") is not None
        else ((Keys.Rope.DIMENSION_SECTIONS, _USUAL_SECTIONS, GGUFValueType.ARRAY),)
    )
)
QWEN3_5: Final = replace(
    QWEN3_NEXT,
    hf_names=("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    arch=MODEL_ARCH.QWEN35,
    metadata=(*_METADATA, _SECTIONS),
    tensors=partial(_tensors, feed=_dense, is_apart=True),
)
QWEN3_5_MOE: Final = replace(
    QWEN3_5,
    hf_names=("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    arch=MODEL_ARCH.QWEN35MOE,
    tensors=partial(_tensors, feed=_mixture, is_apart=True),
)
