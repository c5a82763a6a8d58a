"""SmolLM3: Llama's tensors; every fourth layer is not rotated. Source: conversion/llama.py, SmolLM3Model @ 0c1e570."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH

from convert.architecture.llama import LLAMA
from convert.architecture.metadata import Row, Value
from convert.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters

_EVERY: Final = 4  # src/models/smollm3.cpp, n_no_rope_layer_step @ 0c1e570


def _check_layers(h: Hyperparameters) -> Iterator[Value]:
    """Refuse what llama.cpp does not compute: other layers without rotation, windows."""
    rotated = h.get("no_rope_layers") or []
    if list(map(bool, rotated)) != [(index + 1) % _EVERY != 0 for index in range(len(rotated))]:
        raise UnsupportedError(f"`no_rope_layers` in {h.where} is not every {_EVERY}th layer")
    if "sliding_attention" in (h.get("layer_types") or []):
        raise UnsupportedError(f"`layer_types` in {h.where} has sliding windows, GGUF's SmolLM3 has none")
    yield from ()


SMOLLM3: Final = replace(
    LLAMA, hf_names=("SmolLM3ForCausalLM",), arch=MODEL_ARCH.SMOLLM3, metadata=(Row(_check_layers), *LLAMA.metadata)
)
