"""Llama 4, text. Source: conversion/llama.py, Llama4Model @ 0c1e570.

Every nth layer has experts, which are stored transposed, gate beside up:

    model.layers.L.feed_forward.experts.gate_up_proj   (experts, hidden, 2 x inner)
    model.layers.L.feed_forward.experts.down_proj      (experts, inner, hidden)

What llama.cpp knows of every Llama 4 (src/models/llama4.cpp, load_arch_hparams), a config must not say otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import (
    TRANSPOSED_EXPERTS,
    attention,
    decoder,
    feed_forward,
    norm,
    transposed_experts,
)
from convert.architecture.family import Facts, Family, Rule, n_experts, n_layers
from convert.architecture.llama import LLAMA
from convert.architecture.metadata import Row, changed, meant, only, required, u32
from convert.errors import UnsupportedError
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters
    from convert.architecture.metadata import Value

_EVERY: Final = 4  # has full attention, without rotary embedding
_WITHOUT_HEAD_NORMS: Final = 128  # experts


def _check(h: Hyperparameters) -> Iterator[Value]:
    """Refuse layers in another order, and norms of heads where llama.cpp has none, or the reverse."""
    step, layers = h.size("interleave_moe_layer_step"), range(n_layers(h))
    full = [(layer + 1) % _EVERY == 0 for layer in layers]
    usual: dict[str, object] = {
        "layer_types": ["full_attention" if is_full else "chunked_attention" for is_full in full],
        "no_rope_layers": [int(not is_full) for is_full in full],
        "moe_layers": [layer for layer in layers if (layer + 1) % step == 0],
        "use_qk_norm": n_experts(h) != _WITHOUT_HEAD_NORMS,
    }
    for key, value in usual.items():
        if h.get(key) not in (None, value):
            raise UnsupportedError(f"`{key}` in {h.where} is {h.get(key)!r:.60}, llama.cpp's Llama 4 has {value!r:.60}")
    yield from ()


def _with_dense_size(h: Hyperparameters) -> Hyperparameters:
    return h.replaced(intermediate_size=h.size("intermediate_size_mlp"))


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, inner = h.size("hidden_size"), h.size("intermediate_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block, output_bias=False)
    yield from norm(f"{block}.ffn_norm", hidden)
    if (int(block.rpartition(".")[2]) + 1) % h.size("interleave_moe_layer_step"):
        yield from feed_forward(hidden, h.size("intermediate_size_mlp"), block, biases=False)
    else:
        yield from transposed_experts(h, inner, block, together=inner)
        yield from feed_forward(hidden, inner, block, suffix="_shexp", biases=False)


LLAMA4: Final = Family(
    hf_names=("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    arch=MODEL_ARCH.LLAMA4,
    metadata=(
        Row(_check),
        only(("no_rope_layer_interval",), (_EVERY,)),
        only(("attention_chunk_size",), (8192,)),
        only(("floor_scale",), (8192,)),
        only(("attn_scale",), (0.1,)),
        only(("attn_temperature_tuning",), (True, 4)),  # 4 in the first configs
        *changed(LLAMA.metadata, _with_dense_size, intermediate_size="intermediate_size_mlp"),
        u32(Keys.LLM.INTERLEAVE_MOE_LAYER_STEP, "interleave_moe_layer_step"),
        required(u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "intermediate_size"), "intermediate_size"),
        meant(use_qk_norm=lambda given: given.get(Keys.LLM.EXPERT_COUNT) != _WITHOUT_HEAD_NORMS),
    ),
    tensors=decoder(_block, rope_freqs=True),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    renames=TRANSPOSED_EXPERTS,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
