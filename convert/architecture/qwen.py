"""Qwen 2, 2.5 and 3, dense. Source: conversion/qwen.py, Qwen2Model and Qwen3Model @ 0c1e570.

Qwen 2 has biases on query, key and value; Qwen 3 has norms on the heads of queries and keys instead.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from gguf import MODEL_ARCH

from convert.architecture.blocks import decoder, gated_block
from convert.architecture.family import Facts, Family
from convert.architecture.metadata import COMMON
from convert.tokenizer import QWEN_TOKENIZER

_BARE: Final = ((r"^(embed_tokens|layers|norm)\.", r"model.\1."),)  # as a model without a head names its tensors
_FACTS: Final = Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True)

QWEN2: Final = Family(
    hf_names=("Qwen2ForCausalLM", "Qwen2Model"),
    arch=MODEL_ARCH.QWEN2,
    metadata=COMMON,
    tensors=decoder(partial(gated_block, biases=False)),
    facts=_FACTS,
    renames=_BARE,
    tokenizer=QWEN_TOKENIZER,
)
QWEN3: Final = Family(
    hf_names=("Qwen3ForCausalLM", "Qwen3Model"),
    arch=MODEL_ARCH.QWEN3,
    metadata=COMMON,
    tensors=decoder(partial(gated_block, head_norms=True, biases=False)),
    facts=_FACTS,
    renames=_BARE,
    tokenizer=QWEN_TOKENIZER,
)
