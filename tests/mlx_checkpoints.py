"""Weights that MLX itself has quantized, on its CPU build, as torch tensors of the same bits."""

from __future__ import annotations

from typing import Final

import mlx.core as mx
import numpy as np
import torch

Tensors = dict[str, torch.Tensor]

DTYPES: Final = {torch.float16: mx.float16, torch.bfloat16: mx.bfloat16, torch.float32: mx.float32}
FLOATS: Final = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}


def to_torch(array: mx.array) -> torch.Tensor:
    """Give the same bits."""
    if array.dtype in (mx.bfloat16, mx.float16):
        dtype = next(ours for ours, theirs in DTYPES.items() if theirs == array.dtype)
        return torch.from_numpy(np.array(array.view(mx.uint16)).view(np.int16)).view(dtype)
    return torch.from_numpy(np.array(array))


def quantized(
    weight: torch.Tensor, *, mode: str = "affine", bits: int = 4, group_size: int = 64
) -> tuple[Tensors, torch.Tensor]:
    """Quantize with MLX: the parts by suffix, and what MLX makes of them again."""
    made = mx.array(weight.float().numpy()).astype(DTYPES[weight.dtype])
    parts = mx.quantize(made, group_size=group_size, bits=bits, mode=mode)
    decoded = mx.dequantize(*parts, group_size=group_size, bits=bits, mode=mode)
    return dict(zip(("weight", "scales", "biases"), map(to_torch, parts), strict=False)), to_torch(decoded)


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    """Draw a weight."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def named(module: str, parts: Tensors) -> Tensors:
    """Give a module's parts their whole names."""
    return {f"{module}.{suffix}": part for suffix, part in parts.items()}
