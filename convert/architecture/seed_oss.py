"""Seed-OSS: the norm before the feed-forward is called the one behind attention.

Source: conversion/olmo.py, SeedOssModel @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH

from convert.architecture.blocks import attention, decoder, feed_forward, norm
from convert.architecture.family import Facts, Family
from convert.architecture.metadata import COMMON
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.family import Rule
    from convert.architecture.hyperparameters import Hyperparameters


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block)
    yield from norm(f"{block}.post_attention_norm", hidden)
    yield from feed_forward(hidden, h.size("intermediate_size"), block)


SEED_OSS: Final = Family(
    hf_names=("SeedOssForCausalLM",),
    arch=MODEL_ARCH.SEED_OSS,
    metadata=COMMON,
    tensors=decoder(_block),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
