"""Arcee: Llama with a feed-forward without gate. Source: conversion/llama.py, ArceeModel @ 0c1e570."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH

from convert.architecture.blocks import attention, decoder, norm, ungated
from convert.architecture.llama import LLAMA, LLAMA_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.family import Rule
    from convert.architecture.hyperparameters import Hyperparameters


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block, interleave=True)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield from ungated(hidden, h.size("intermediate_size"), block)


ARCEE: Final = replace(
    LLAMA,
    hf_names=("ArceeForCausalLM",),
    arch=MODEL_ARCH.ARCEE,
    metadata=LLAMA_ROWS,
    tensors=decoder(_block),
    parts=(),
    renames=(),
)
