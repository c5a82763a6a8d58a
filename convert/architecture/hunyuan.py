"""Hunyuan, dense. Source: conversion/hunyuan.py, HunYuanModel @ 0c1e570.

Its "dynamic" rope scaling is a fixed one: the base frequency is raised by a power of `alpha`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, GGUFValueType, Keys, RopeScalingType

from convert.architecture.blocks import decoder, gated_block
from convert.architecture.family import Facts, Family
from convert.architecture.metadata import COMMON, F32, U32, Row, Value, changed, head_dim
from convert.architecture.rope import rope_of
from convert.errors import UnsupportedError
from convert.tokenizer import HUNYUAN_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters

_BASE: Final = 10000.0
_LONG: Final = 256 * 1024
_LENGTHS: Final = (32 * 1024, _LONG)  # what the published configs say; they mean the second


def _raised_base(h: Hyperparameters) -> Iterator[Value]:
    rope = rope_of(h)
    if rope.text("rope_type") != "dynamic":
        return
    alpha, base, size = rope.number("alpha"), rope.number("rope_theta") or _BASE, head_dim(h)
    if base != _BASE or h.size("max_position_embeddings") not in _LENGTHS:
        raise UnsupportedError(
            f"{h.where} has dynamic rope scaling of a base {base:g} and a length of {h.get('max_position_embeddings')};"
            f" only that of the published models is known: {_BASE:g}, and {_LENGTHS[0]} or {_LENGTHS[1]}"
        )
    yield Keys.Rope.FREQ_BASE, base * ((50 if alpha is None else alpha) ** (size / (size - 2))), F32
    yield Keys.Rope.SCALING_TYPE, RopeScalingType.NONE.value, GGUFValueType.STRING
    yield Keys.Rope.SCALING_FACTOR, 1, F32
    yield Keys.Rope.SCALING_ORIG_CTX_LEN, _LONG, U32
    yield Keys.LLM.CONTEXT_LENGTH, _LONG, U32


def _alpha(given: Given) -> Mapping[str, Any]:
    """Find what the base frequency was raised by, where a scaling by the factor 1 that is none tells that it was."""
    if given.get(Keys.Rope.SCALING_TYPE) != RopeScalingType.NONE.value:
        return {}
    size = given.get(Keys.Attention.KEY_LENGTH) or given.said("hidden_size") // given.said("num_attention_heads")
    alpha = (given.get(Keys.Rope.FREQ_BASE) / _BASE) ** ((size - 2) / size)
    return {
        "rope_theta": _BASE,
        "rope_scaling": {"rope_type": "dynamic", "factor": 1.0, "alpha": float(f"{alpha:.6g}")},
    }


HUNYUAN_DENSE: Final = Family(
    hf_names=("HunYuanDenseV1ForCausalLM",),
    arch=MODEL_ARCH.HUNYUAN_DENSE,
    metadata=(
        *changed(COMMON, lambda h: h.replaced(num_experts=None)),
        Row(_raised_base, Keys.Rope.SCALING_FACTOR, _alpha),
    ),
    tensors=decoder(partial(gated_block, head_norms=True)),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    left_out=lambda h, name: (
        "the output matrix, which is the embeddings"
        if h.flag("tie_word_embeddings") and name == "lm_head.weight"
        else None
    ),
    tokenizer=HUNYUAN_TOKENIZER,
)
