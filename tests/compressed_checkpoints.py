"""Checkpoints that compressed-tensors itself has made: a tiny Llama, given scales, compressed, saved, decompressed.

made = compress(tmp_path / "m", {"group_0": {"targets": ["Linear"], "weights": {…}}})
made.directory      the checkpoint, with the config that the library writes
made.expected       what its ModelCompressor.decompress_model makes of it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from packed_checkpoints import tiny_config, write_safetensors_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Tensors = dict[str, torch.Tensor]

NAME: Final = "model.layers.0.self_attn.q_proj"  # of a module alone
WEIGHT: Final = f"{NAME}.weight"


@dataclass(frozen=True, slots=True)
class Compressed:
    """A checkpoint, what is stored in it, and what it decompresses to."""

    directory: Path
    stored: Tensors
    expected: Tensors


def compress(
    directory: Path,
    groups: Mapping[str, Mapping[str, Any]],
    *,
    dtype: torch.dtype = torch.bfloat16,
    force_format: str | None = None,
    config: Mapping[str, Any] | None = None,
    **more: object,
) -> Compressed:
    """Compress a tiny Llama's linear layers but the last, and write the checkpoint.

    more: further keys of the library's QuantizationConfig.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    written = tiny_config(dtype=str(dtype).removeprefix("torch."), **(config or {}))
    model = _model(written, dtype)
    asked = {"config_groups": groups, "ignore": ["lm_head"], "quantization_status": "frozen", **more}
    apply_quantization_config(model, QuantizationConfig.model_validate(asked), show_progress=False)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            _calibrate(module)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=force_format)
    compressor.compress_model(model)
    stored = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    write_safetensors_checkpoint(directory, written, stored)
    compressor.update_config(str(directory))
    compressor.decompress_model(model)
    expected = {name: t for name, t in model.state_dict().items() if name.endswith((".weight", ".bias"))}
    return Compressed(directory, stored, expected)


def write_plain(made: Compressed, directory: Path) -> Path:
    """Write the decompressed checkpoint."""
    config = json.loads((made.directory / "config.json").read_text())
    del config["quantization_config"]
    return write_safetensors_checkpoint(directory, config, made.expected)


def _model(config: Mapping[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model: torch.nn.Module = LlamaForCausalLM(LlamaConfig(**config)).to(dtype)
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape).to(dtype)
    return model


def _calibrate(module: torch.nn.Module) -> None:
    """Set a module's scales and zero points from its weight, by the library's formula; those of activations to 1."""
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    for name, parameter in module.named_parameters(recurse=False):
        if name.endswith("_scale"):
            parameter.data.fill_(1)
    arguments: Any = getattr(module, "quantization_scheme").weights  # noqa: B009 - the library hangs it on the module
    if arguments is None:
        return
    weight, scale = module.get_parameter("weight").data, module.get_parameter("weight_scale")
    low, high = _extremes(weight, tuple(scale.shape), arguments.block_structure)
    whole = None
    if arguments.strategy == "tensor_group":
        whole = generate_gparam(weight.amin(), weight.amax())
        module.get_parameter("weight_global_scale").data.copy_(whole)
    scales, zeros = calculate_qparams(low, high, arguments, global_scale=whole)
    scale.data.copy_(scales.reshape(scale.shape))
    if hasattr(module, "weight_zero_point"):
        module.get_parameter("weight_zero_point").data.copy_(zeros.reshape(scale.shape))


def _extremes(
    weight: torch.Tensor, grid: tuple[int, ...], block: list[int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    n_rows, n_cols = grid if len(grid) == 2 else (1, 1)
    rows, cols = block or (weight.shape[0] // n_rows, weight.shape[1] // n_cols)
    padding = (0, n_cols * cols - weight.shape[1], 0, n_rows * rows - weight.shape[0])
    blocks = torch.nn.functional.pad(weight, padding).reshape(n_rows, rows, n_cols, cols)
    return blocks.amin((1, 3)), blocks.amax((1, 3))


# --- One module by hand


def weights(bits: int = 4, strategy: str = "group", **more: object) -> dict[str, Any]:
    """Return `weights` of a group: integers, by default of 4 bits in groups of 32, symmetric."""
    size = {"group_size": 32} if strategy == "group" else {}
    return {"num_bits": bits, "type": "int", "symmetric": True, "strategy": strategy, **size, **more}


def floats(strategy: str, **more: object) -> dict[str, Any]:
    """Return `weights` of 8-bit floats."""
    return {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, **more}


def linear(arguments: Mapping[str, Any], **more: object) -> dict[str, Any]:
    """Return groups: one, of all linear layers."""
    return {"group_0": {"targets": ["Linear"], "weights": arguments, **more}}


def write(tmp_path: Path, tensors: Tensors, groups: object, **more: object) -> Path:
    """Write a checkpoint of these tensors alone."""
    section = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups, **more}
    section = {key: value for key, value in section.items() if value is not None}
    return write_safetensors_checkpoint(tmp_path / "m", tiny_config(quantization_config=section), tensors)


def module(shape: tuple[int, int] = (16, 64), bits: int = 4, **more: torch.Tensor | None) -> Tensors:
    """Pack a module of these bits in groups of 32, with numbers from the generator of that many bits."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    parts: dict[str, torch.Tensor | None] = {
        "weight_packed": pack_to_int32(codes(shape, bits), bits),
        "weight_shape": torch.tensor(shape),
        "weight_scale": scales((shape[0], shape[1] // 32)),
        **more,
    }
    return {f"{NAME}.{suffix}": tensor for suffix, tensor in parts.items() if tensor is not None}


def codes(shape: tuple[int, ...], bits: int = 4) -> torch.Tensor:
    """Return signed integers of so many bits."""
    half = 1 << (bits - 1)
    return torch.randint(-half, half, shape, generator=torch.Generator().manual_seed(bits), dtype=torch.int8)


def scales(shape: tuple[int, ...]) -> torch.Tensor:
    """Return scales in float16."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 0.02 + 0.001).half()
