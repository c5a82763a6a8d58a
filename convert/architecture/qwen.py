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

_FACTS: Final = Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True)

QWEN2: Final = Family(
    hf_names=("Qwen2ForCausalLM",),
    arch=MODEL_ARCH.QWEN2,
    metadata=COMMON,
    tensors=decoder(partial(gated_block, biases=False), rope_freqs=False),
    facts=_FACTS,
    tokenizer=QWEN_TOKENIZER,
)
QWEN3: Final = Family(
    hf_names=("Qwen3ForCausalLM",),
    arch=MODEL_ARCH.QWEN3,
    metadata=COMMON,
    tensors=decoder(partial(gated_block, head_norms=True, biases=False), rope_freqs=False),
    facts=_FACTS,
    tokenizer=QWEN_TOKENIZER,
)
