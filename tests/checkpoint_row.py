"""What one row of the tables of test checkpoints says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from checkpoint_layouts import Layout
from checkpoint_tokenizers import write_tokenizer_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One checkpoint: what it is for, what is in it, and what becomes of it.

    refused_by_reference: why the reference converter makes no usable file of it; None where it does.
    refused_by_convert: why `convert` must not convert it, though the reference may; None where it must.
    twin: for a refused layout, one that holds the same weights and that the reference takes.
    """

    name: str
    covers: str
    config: Mapping[str, Any]
    dtype: str = "float16"
    layout: Layout = Layout.SAFETENSORS
    tokenizer: Callable[[Path], None] = write_tokenizer_model
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    change_weights: Callable[[Weights], Weights] = field(default=lambda weights: weights)
    shared: bool = False
    refused_by_reference: str | None = None
    refused_by_convert: str | None = None
    twin: Layout | None = None
