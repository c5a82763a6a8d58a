"""GLM-4 MoE Lite (4.7 Flash): DeepSeek's network, GLM's tokens.

Source: conversion/glm.py, Glm4MoeLiteModel @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from gguf import ExpertGatingFuncType, Keys

from convert.architecture.deepseek_v3 import DEEPSEEK_V2, latent_block
from convert.architecture.family import n_layers
from convert.architecture.glm4 import layers_without_predicting, n_blocks, predicting
from convert.architecture.metadata import U32, computed, late_gating
from convert.tokenizer import GLM4_MOE_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.family import Rule
    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint.views import Constant

_LAYER: Final = r"^model\.layers\.(\d+)\."
# src/models/deepseek2.cpp, load_arch_hparams @ 0c1e570: the model that llama.cpp takes to score by a sigmoid
_KNOWN_LAYERS: Final = (47, 48)
_KNOWN_TOKENS: Final = 154880


def _tensors(h: Hyperparameters, n_tokens: int) -> Iterator[Rule | Constant]:
    yield from DEEPSEEK_V2.tensors(h, n_tokens)
    for layer in range(n_layers(h), n_blocks(h)):
        rules = chain(latent_block(h, f"blk.{layer}"), predicting(h, f"blk.{layer}"))
        yield from (replace(rule, required=False) for rule in rules)


def _gating(h: Hyperparameters) -> int | None:
    # The reference writes none, and llama.cpp takes a softmax unless it knows the model by its size.
    is_known = n_layers(h) in _KNOWN_LAYERS and h.get("vocab_size") == _KNOWN_TOKENS
    return None if is_known or h.get("scoring_func") is not None else int(ExpertGatingFuncType.SIGMOID)


def _left_out(h: Hyperparameters, name: str) -> str | None:
    tied = h.flag("tie_word_embeddings") and name == "lm_head.weight"
    return "the output matrix, which is the embeddings" if tied else None


GLM4_MOE_LITE: Final = replace(
    DEEPSEEK_V2,
    hf_names=("Glm4MoeLiteForCausalLM",),
    metadata=(
        *DEEPSEEK_V2.metadata,
        computed(Keys.LLM.BLOCK_COUNT, U32, n_blocks, layers_without_predicting),
        computed(Keys.LLM.NEXTN_PREDICT_LAYERS, U32, lambda h: h.optional_count("num_nextn_predict_layers") or None),
        late_gating(_gating),
    ),
    tensors=_tensors,
    left_out=_left_out,
    renames=(
        (rf"{_LAYER}(eh_proj|enorm|hnorm|embed_tokens)\.", r"blk.\1.nextn.\2."),
        (rf"{_LAYER}shared_head\.(norm|head)\.", r"blk.\1.nextn.shared_head_\2."),
    ),
    tokenizer=GLM4_MOE_TOKENIZER,
    n_blocks=n_blocks,
)
