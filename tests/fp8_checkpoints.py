"""Small fp8 checkpoints put together by hand: random codes and scales under a quantization section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from packed_checkpoints import tiny_config, write_safetensors_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

Tensors = dict[str, torch.Tensor]

NAME: Final = "model.layers.0.self_attn.q_proj"
WEIGHT: Final = f"{NAME}.weight"
E4M3: Final = torch.float8_e4m3fn


def section(**changes: object) -> dict[str, Any]:
    """Return a quantization section as DeepSeek writes it, in blocks of 32."""
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32], **changes}


def write(tmp_path: Path, tensors: Tensors, quantization: object, **changes: object) -> Path:
    """Write a checkpoint of these tensors alone, which computes in bfloat16."""
    config = tiny_config(**{"dtype": "bfloat16", "quantization_config": quantization, **changes})
    return write_safetensors_checkpoint(tmp_path / "m", config, tensors)


def random_codes(shape: tuple[int, ...], dtype: torch.dtype = E4M3) -> torch.Tensor:
    """Return finite 8-bit floats of all sizes."""
    generator = torch.Generator().manual_seed(sum(shape))
    codes = torch.randint(0, 256, shape, generator=generator, dtype=torch.int64).to(torch.uint8).view(dtype)
    return torch.where(torch.isfinite(codes.float()), codes.float(), 0).to(dtype)


def random_scales(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return scales around a hundredth that no short float holds exactly."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(7)) * 0.03 + 0.001).to(dtype)


def expanded(scales: torch.Tensor, shape: tuple[int, ...], block: tuple[int, int]) -> torch.Tensor:
    """Repeat each scale over its block: what the definition says, in the plainest way."""
    rows = scales.float().repeat_interleave(block[0], -2)[..., : shape[-2], :]
    return rows.repeat_interleave(block[1], -1)[..., : shape[-1]]


def good() -> Tensors:
    """Return a weight of 64x96 in blocks of 32, as it should be."""
    return {WEIGHT: random_codes((64, 96)), f"{WEIGHT}_scale_inv": random_scales((2, 3))}
