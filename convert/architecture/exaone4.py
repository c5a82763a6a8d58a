"""EXAONE 4. Source: conversion/exaone.py, Exaone4Model @ 0c1e570."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, decoder, feed_forward, norm
from convert.architecture.family import Facts, Family, n_layers
from convert.architecture.metadata import COMMON, WINDOWS, Row, Value, u32
from convert.errors import UnsupportedError
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.family import Rule
    from convert.architecture.hyperparameters import Hyperparameters

_WITH_WINDOWS: Final = (
    64  # src/models/exaone4.cpp, load_arch_hparams: the layers of the one model with windows @ 0c1e570
)


def _check_windows(h: Hyperparameters) -> Iterator[Value]:
    if "sliding_attention" in (h.get("layer_types") or []) and n_layers(h) != _WITH_WINDOWS:
        raise UnsupportedError(
            f"`layer_types` in {h.where} has windows, which llama.cpp's EXAONE 4 has in {_WITH_WINDOWS} layers only"
        )
    yield from ()


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from attention(h, block, head_norms=True)
    yield from norm(f"{block}.post_attention_norm", hidden)
    yield from feed_forward(hidden, h.size("intermediate_size"), block)
    yield from norm(f"{block}.post_ffw_norm", hidden)


EXAONE4: Final = Family(
    hf_names=("Exaone4ForCausalLM",),
    arch=MODEL_ARCH.EXAONE4,
    metadata=(Row(_check_windows), *COMMON, u32(Keys.LLM.VOCAB_SIZE, "vocab_size"), WINDOWS),
    tensors=decoder(_block),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
