"""Adapters: LoRA and DoRA as peft saves them, merged into a model's tensors on the way, a slice at a time.

    ADAPTER:0.7         ── parse_merge ──▶ MergeRequest       a directory and a weight
    adapter directory   ── open ──▶ config and tensors        checked whole: hostile input, like a checkpoint
    base's tensors      ── merge_adapters ──▶ MergedTensors   float32 rows: base + weight * scaling * (B @ A)
    MODEL               ── resolve_model ──▶ base directory   an adapter alone names its base

What a merged tensor gives is what peft's `merge_and_unload` gives in float32, but for the order of its sums.
"""

from convert.adapter.adapter_files import is_adapter
from convert.adapter.base_model import ResolvedModel, find_base, other_bases, resolve_model
from convert.adapter.merge import MergedTensors, merge_adapters
from convert.adapter.merged_tensor import MergedTensor
from convert.adapter.request import MergeRequest, parse_merge

__all__ = [
    "MergeRequest",
    "MergedTensor",
    "MergedTensors",
    "ResolvedModel",
    "find_base",
    "is_adapter",
    "merge_adapters",
    "other_bases",
    "parse_merge",
    "resolve_model",
]
