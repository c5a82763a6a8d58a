"""Packed or 16-bit checkpoints to plain Hugging Face directories: `convert dequantize`.

    MODEL ── open, unpack ──▶ tensors ── --through ──▶ down and up ── --merge ──▶ merged ── plan ──▶ shards, side files

through     weights as bitsandbytes leaves them: four_bit and int8 hold the arithmetic, torch_sum the order of a sum
shards      safetensors headers and offsets; side_files and model_card the rest of the directory
plan        decides everything, data is what it decides; carry_out makes it, shard by shard

Any architecture: only names, shapes and types are looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.dequantization.carry_out import carry_out_dequantize, check_outputs
from convert.dequantization.data import DequantizePlan
from convert.dequantization.plan import plan_dequantize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convert.conversion import Merge, PathLike
    from convert.stream import Progress, Report

__all__ = ["DequantizePlan", "carry_out_dequantize", "check_outputs", "dequantize", "plan_dequantize"]


def dequantize(
    model: PathLike,
    outdir: PathLike,
    *,
    dtype: str | None = None,
    through: str | None = None,
    max_shard_size: str | int = "5GB",
    merge: Merge | Iterable[Merge] = (),
    force: bool = False,
    jobs: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a checkpoint as a plain Hugging Face directory; see `plan_dequantize` and `carry_out`."""
    plan = plan_dequantize(model, outdir, dtype=dtype, through=through, max_shard_size=max_shard_size, merge=merge)
    return carry_out_dequantize(plan, force=force, jobs=jobs, allow_nonfinite=allow_nonfinite, progress=progress)
