"""EXAONE 3 and 3.5: Llama with names of its own. Source: conversion/exaone.py, ExaoneModel @ 0c1e570."""

from __future__ import annotations

from functools import partial
from typing import Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import decoder, gated_block
from convert.architecture.family import Facts, Family
from convert.architecture.metadata import COMMON, SILU, U32, computed, f32, head_dim
from convert.architecture.rope import rope_of
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

EXAONE: Final = Family(
    hf_names=("ExaoneForCausalLM",),
    arch=MODEL_ARCH.EXAONE,
    metadata=(
        SILU,
        *COMMON,
        computed(
            Keys.Rope.DIMENSION_COUNT,
            U32,
            lambda h: int((rope_of(h).number("partial_rotary_factor") or 1.0) * head_dim(h)),
        ),
        # The reference writes the name of another norm's only, and llama.cpp then finds none.
        f32(Keys.Attention.LAYERNORM_RMS_EPS, "layer_norm_epsilon", "rms_norm_eps"),
    ),
    tensors=decoder(partial(gated_block, biases=False), rope_freqs=True),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
