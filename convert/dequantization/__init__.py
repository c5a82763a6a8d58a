"""Packed or 16-bit checkpoints, and GGUF files, to plain Hugging Face directories: `convert dequantize`.

    MODEL ── open, unpack ──▶ tensors ── --through ──▶ down and up ── --merge ──▶ merged ── plan ──▶ shards, side files

through     weights as bitsandbytes leaves them: four_bit and int8 hold the arithmetic, torch_sum the order of a sum
shards      safetensors headers and offsets; side_files and model_card the rest of the directory
from_gguf   a GGUF file in transformers' words: what architecture.back and tokenizer.back make of it
plan        decides everything, data is what it decides; carry_out makes it, shard by shard

Any architecture: only names, shapes and types are looked at; of a GGUF file, one of the families.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.dequantization.carry_out import carry_out_dequantize, check_outputs
from convert.dequantization.data import DequantizePlan
from convert.dequantization.plan import DequantizeRequest, plan_dequantize
from convert.stream import Writing

if TYPE_CHECKING:
    from convert.model import ModelRequest, PathLike
    from convert.stream import Progress, Report

__all__ = [
    "DequantizePlan",
    "DequantizeRequest",
    "carry_out_dequantize",
    "check_outputs",
    "dequantize",
    "plan_dequantize",
]


def dequantize(
    model: PathLike | ModelRequest,
    outputs: PathLike | DequantizeRequest,
    writing: Writing = Writing(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
) -> Report:
    """Write a checkpoint as a plain Hugging Face directory; see `plan_dequantize` and `carry_out`."""
    return carry_out_dequantize(plan_dequantize(model, outputs), writing, progress=progress)
