"""Ministral 3, text: Llama's tensors, YaRN, and queries that grow with the position.

Source: conversion/mistral3.py, Mistral3Model.Ministral3Model @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import decoder, gated_block
from convert.architecture.llama import LLAMA
from convert.architecture.metadata import F32, Row, computed, required
from convert.architecture.rope import rope_of
from convert.architecture.rope_back import in_scaling
from convert.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.architecture.given import Given


def _of_rope(key: str, name: str, *, also: tuple[str, ...] = ()) -> Row:
    row = required(computed(key, F32, lambda h: rope_of(h).number(name), in_scaling(key, name, also=also)), name)
    return replace(row, values=lambda h: row.values(h) if h.get("model_type") == "ministral3" else iter(()))


def _is_of_its_own(given: Given) -> Mapping[str, Any]:
    """Refuse a Mistral: transformers has it under this architecture as a part of another model alone."""
    if Keys.Rope.SCALING_YARN_LOG_MUL.format(arch=given.arch) not in given.values:
        raise UnsupportedError(
            "the file is of a Mistral 3 whose text model is a Mistral, which does not go back to a directory",
            hint="Ministral 3 does; take this model's config and names from where it was published",
        )
    return {}


MINISTRAL3: Final = replace(
    LLAMA,
    hf_names=("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    text_types=("ministral3", "mistral"),
    arch=MODEL_ARCH.MISTRAL3,
    metadata=(
        Row(lambda _h: iter(()), back=_is_of_its_own, sure=True),
        *LLAMA.metadata,
        _of_rope(Keys.Rope.SCALING_YARN_LOG_MUL, "mscale_all_dim", also=("mscale",)),
        _of_rope(Keys.Attention.TEMPERATURE_SCALE, "llama_4_scaling_beta"),
    ),
    tensors=decoder(partial(gated_block, interleave=True), rope_freqs=True),
    parts=(),
    renames=(),
)
