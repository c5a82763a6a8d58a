"""Apertus: a feed-forward without gate whose activation, xIELU, has four numbers in each layer.

Source: conversion/llama.py, ApertusModel @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, decoder, norm, ungated
from convert.architecture.family import Numbers
from convert.architecture.llama import LLAMA, LLAMA_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.family import Rule
    from convert.architecture.hyperparameters import Hyperparameters

_ACTIVATION: Final = r"model\.layers\.(\d+)\.mlp\.act_fn"


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block, head_norms=True)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield from ungated(hidden, h.size("intermediate_size"), block)


APERTUS: Final = replace(
    LLAMA,
    hf_names=("ApertusForCausalLM",),
    arch=MODEL_ARCH.APERTUS,
    metadata=LLAMA_ROWS,
    tensors=decoder(_block, needs_output=True, rope_freqs=True),
    parts=(),
    renames=(),
    numbers=(
        Numbers(rf"{_ACTIVATION}\.alpha_n", Keys.xIELU.ALPHA_N, (1,)),
        Numbers(rf"{_ACTIVATION}\.alpha_p", Keys.xIELU.ALPHA_P, (1,)),
        Numbers(rf"{_ACTIVATION}\.beta", Keys.xIELU.BETA),
        Numbers(rf"{_ACTIVATION}\.eps", Keys.xIELU.EPS),
    ),
)
