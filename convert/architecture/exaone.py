"""EXAONE 3 and 3.5: Llama with names of its own. Source: conversion/exaone.py, ExaoneModel @ 0c1e570."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import decoder, gated_block
from convert.architecture.family import Facts, Family, n_layers
from convert.architecture.metadata import COMMON, F32, SILU, U32, computed, f32, head_dim
from convert.architecture.rope import rope_of
from convert.architecture.rope_back import rotary_part
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.architecture.given import Given

_RMS_EPS: Final = Keys.Attention.LAYERNORM_RMS_EPS


def _epsilon_of_file(given: Given) -> Mapping[str, Any]:
    """Read the epsilon that a config says by Llama's name too."""
    return {"rms_norm_eps": given.get(_RMS_EPS)} if given.is_early(_RMS_EPS) else {}


EXAONE: Final = Family(
    hf_names=("ExaoneForCausalLM",),
    arch=MODEL_ARCH.EXAONE,
    metadata=(
        SILU,
        *COMMON,
        computed(Keys.LLM.BLOCK_COUNT, U32, n_layers, ("num_layers",)),
        computed(
            Keys.Attention.LAYERNORM_EPS,
            F32,
            lambda h: h.number("layer_norm_epsilon"),
            lambda given: {"layer_norm_epsilon": given.get(Keys.Attention.LAYERNORM_EPS)},
        ),
        computed(
            Keys.Rope.DIMENSION_COUNT,
            U32,
            lambda h: int((rope_of(h).number("partial_rotary_factor") or 1.0) * head_dim(h)),
            rotary_part(),
        ),
        # The reference writes the name of another norm's only, and llama.cpp then finds none.
        replace(f32(_RMS_EPS, "layer_norm_epsilon", "rms_norm_eps"), back=_epsilon_of_file),
    ),
    tensors=decoder(partial(gated_block, biases=False), rope_freqs=True),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
