"""Ministral 3, text: Llama's tensors, YaRN, and queries that grow with the position.

Source: conversion/mistral3.py, Mistral3Model.Ministral3Model @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import decoder, gated_block
from convert.architecture.llama import LLAMA
from convert.architecture.metadata import F32, Row, computed, required
from convert.architecture.rope import rope_of


def _of_rope(key: str, name: str) -> Row:
    row = required(computed(key, F32, lambda h: rope_of(h).number(name)), name)
    return Row(lambda h: row.values(h) if h.get("model_type") == "ministral3" else iter(()))  # not of a Mistral


MINISTRAL3: Final = replace(
    LLAMA,
    hf_names=("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    text_types=("ministral3", "mistral"),
    arch=MODEL_ARCH.MISTRAL3,
    metadata=(
        *LLAMA.metadata,
        _of_rope(Keys.Rope.SCALING_YARN_LOG_MUL, "mscale_all_dim"),
        _of_rope(Keys.Attention.TEMPERATURE_SCALE, "llama_4_scaling_beta"),
    ),
    tensors=decoder(partial(gated_block, interleave=True), rope_freqs=True),
    parts=(),
    renames=(),
)
