"""StarCoder 2. Source: conversion/starcoder.py, StarCoder2Model @ 0c1e570."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH

from convert.architecture.blocks import attention, decoder, norm, ungated
from convert.architecture.family import Facts, Family
from convert.architecture.metadata import COMMON, only
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.family import Rule
    from convert.architecture.hyperparameters import Hyperparameters


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden, bias=True)
    yield from attention(h, block)
    yield from norm(f"{block}.ffn_norm", hidden, bias=True)
    yield from ungated(hidden, h.size("intermediate_size"), block, needs_bias=True)


STARCODER2: Final = Family(
    hf_names=("Starcoder2ForCausalLM",),
    arch=MODEL_ARCH.STARCODER2,
    metadata=(only(("use_bias",), (True,)), *COMMON),
    tensors=decoder(_block, bias=True),
    facts=Facts(epsilons=("attention.layer_norm_epsilon",), rows_are_heads=True),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
