"""Baichuan and Baichuan 2: Llama with queries, keys and values in one matrix. Source: conversion/baichuan.py @ 0c1e570.

llama.cpp tells by the number of layers what positions are: rotary in the 7B, ALiBi in the 13B, nothing in others
(src/models/baichuan.cpp). The reference's `modify_tensors` calls itself without end.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, GGUFValueType, Keys

from convert.architecture.blocks import decoder, gated_block, vocabulary_size
from convert.architecture.family import N_LAYERS, Facts, Family, Parts, Rule
from convert.architecture.metadata import COMMON, SILU, U32, computed, head_dim, only
from convert.checkpoint.normalized import Normalized
from convert.tokenizer import SENTENCEPIECE_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor
    from convert.checkpoint.views import Constant

_LAYERS: Final = (32, 40)
# Baichuan 2's, whose own code divides each row of the output by its length (modeling_baichuan.py, NormHead).
_VOCABULARY_OF_2: Final = 125696


def _tensors(h: Hyperparameters, n_tokens: int) -> Iterator[Rule | Constant]:
    is_second = vocabulary_size(h) == _VOCABULARY_OF_2
    for rule in decoder(partial(gated_block, interleave=True, biases=False), needs_output=True)(h, n_tokens):
        is_output = isinstance(rule, Rule) and rule.name == "output.weight"
        yield Rule(rule.name, rule.shape, _normalized) if isinstance(rule, Rule) and is_output and is_second else rule


def _normalized(tensor: Tensor) -> Tensor:
    return Normalized(tensor, tensor.name)


BAICHUAN: Final = Family(
    hf_names=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    arch=MODEL_ARCH.BAICHUAN,
    metadata=(
        SILU,
        only(N_LAYERS, _LAYERS),
        *COMMON,
        computed(Keys.LLM.TENSOR_DATA_LAYOUT, GGUFValueType.STRING, lambda _: "Meta AI original pth"),
        computed(Keys.Rope.DIMENSION_COUNT, U32, head_dim),
    ),
    tensors=_tensors,
    parts=(
        Parts(
            r"(model\.layers\.\d+\.self_attn)\.W_pack\.weight",
            (r"\1.q_proj.weight", r"\1.k_proj.weight", r"\1.v_proj.weight"),
        ),
    ),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    tokenizer=SENTENCEPIECE_TOKENIZER,
)
