"""What torchao would write, put together by hand from random codes; the formulas are its quant_primitives.py, in torch.

The entries of the header are word for word as torchao 0.18.0 wrote them for these shapes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from group_packing import NAME, Tensors
from packed_checkpoints import tiny_config, write_safetensors_checkpoint
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WEIGHT: Final = f"{NAME}.weight"


@dataclass
class Packed:
    """A weight as torchao takes it apart: its class, what that needs, its tensors; and what it dequantizes to."""

    kind: str
    options: dict[str, Any]
    data: Tensors
    expected: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def entry(self) -> str:
        """Return what the header says of it."""
        return json.dumps({"_type": self.kind, "_data": self.options, "_tensor_data_names": list(self.data)})

    def stored(self, name: str) -> Tensors:
        """Return its tensors by their names in the file."""
        module, _, parameter = name.rpartition(".")
        return {f"{module}._{parameter}_{data_name}": tensor for data_name, tensor in self.data.items()}


def said(dtype: torch.dtype | str) -> dict[str, str]:
    """Return how the header says a torch dtype."""
    return {"_type": "torch.dtype", "_data": str(dtype).removeprefix("torch.")}


def spread(factors: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Repeat each block's number over the block."""
    for axis, (n_blocks, size) in enumerate(zip(factors.shape, shape, strict=True)):
        factors = factors.repeat_interleave(size // n_blocks, axis)
    return factors


def int8_tensor(
    shape: tuple[int, ...] = (24, 32),
    block: tuple[int, ...] = (1, 32),
    dtype: torch.dtype = torch.bfloat16,
    *,
    zeros: bool = True,
) -> Packed:
    """Make an Int8Tensor: scales are float32, whatever the weight's type."""
    random = torch.Generator().manual_seed(1)
    grid = tuple(size // step for size, step in zip(shape, block, strict=True))
    codes = torch.randint(-128, 128, shape, generator=random).to(torch.int8)
    zero = torch.randint(-128, 128, grid, generator=random).to(torch.int8)
    scale = torch.rand(grid, generator=random) * 0.01
    options = {"act_quant_kwargs": None, "reduce_range": False, "block_size": [*block], "dtype": said(dtype)}
    difference = codes.to(dtype) - (spread(zero, shape).to(dtype) if zeros else 0)
    data = {"zero_point": zero, "qdata": codes, "scale": scale} if zeros else {"qdata": codes, "scale": scale}
    return Packed("Int8Tensor", options, data, (difference * spread(scale, shape)).to(dtype))


def intx_tensor(
    shape: tuple[int, int] = (24, 32), group: int = 16, dtype: torch.dtype = torch.bfloat16, *, floats: bool = False
) -> Packed:
    """Make an IntxUnpackedToInt8Tensor of 4 bits; scales have the weight's type, zero points too or are integers."""
    random = torch.Generator().manual_seed(2)
    grid = (shape[0], shape[1] // group)
    codes = torch.randint(-8, 8, shape, generator=random).to(torch.int8)
    zero = torch.randint(-8, 8, grid, generator=random).to(torch.int8)
    zero = torch.randn(grid, generator=random).to(dtype) if floats else zero
    scale = (torch.rand(grid, generator=random) * 0.1).to(dtype)
    options = {
        "target_dtype": said("int4"),
        "block_size": [1, group],
        "dtype": said(dtype),
        "activation_quantization": "int8_asym_per_token",
    }
    expected = (codes.to(dtype) - spread(zero, shape).to(dtype)) * spread(scale, shape)
    return Packed("IntxUnpackedToInt8Tensor", options, {"qdata": codes, "scale": scale, "zero_point": zero}, expected)


def float8_tensor(
    shape: tuple[int, ...] = (24, 32),
    block: tuple[int, ...] = (1, 32),
    dtype: torch.dtype = torch.bfloat16,
    stored: torch.dtype = torch.float8_e4m3fn,
) -> Packed:
    """Make a Float8Tensor."""
    random = torch.Generator().manual_seed(3)
    grid = tuple(size // step for size, step in zip(shape, block, strict=True))
    codes = (torch.randn(shape, generator=random) * 50).to(stored)
    scale = torch.rand(grid, generator=random) * 0.01
    options = {
        "block_size": [*block],
        "mm_config": None,
        "act_quant_kwargs": None,
        "kernel_preference": {"_type": "KernelPreference", "_data": "AUTO"},
        "dtype": said(dtype),
    }
    expected = (codes.float() * spread(scale, shape)).to(dtype)
    return Packed("Float8Tensor", options, {"qdata": codes, "scale": scale}, expected)


def int4_tensor(shape: tuple[int, int] = (24, 32), group: int = 16, dtype: torch.dtype = torch.bfloat16) -> Packed:
    """Make an Int4Tensor: two codes in a byte, the first low; a row of scales for each group."""
    random = torch.Generator().manual_seed(4)
    grid = (shape[1] // group, shape[0])
    codes = torch.randint(-8, 8, shape, generator=random)
    zero = (torch.randn(grid, generator=random) * 0.1).to(dtype)
    scale = (torch.rand(grid, generator=random) * 0.01).to(dtype)
    packed = torch.tensor(
        [
            [(row[col] & 15) + 16 * (row[col + 1] & 15) for col in range(0, len(row), 2)]  # two's complement
            for row in codes.tolist()
        ],
        dtype=torch.uint8,
    ).view(torch.int8)
    expected = codes * spread(scale.T, shape).float() + spread(zero.T, shape).float()
    options = {"activation_dtype": said("bfloat16"), "block_size": [1, group], "shape": [*shape]}
    return Packed("Int4Tensor", options, {"qdata": packed, "scale": scale, "zero_point": zero}, expected.to(dtype))


def torchao(config: str | None = None, **data: object) -> dict[str, Any]:
    """Return a quantization section as transformers writes it."""
    kind = {"default": {"_type": config, "_data": data, "_version": 2}} if config else {}
    return {"quant_method": "torchao", "quant_type": kind, "modules_to_not_convert": None}


def metadata_of(names: list[str], packed: dict[str, Packed]) -> dict[str, str]:
    """Return the header's `__metadata__`."""
    plain = json.dumps({"_type": "Tensor"})
    entries = {name: packed[name].entry() if name in packed else plain for name in names}
    return {**entries, "tensor_names": json.dumps(names), "format": "pt"}


def set_metadata(directory: Path, metadata: dict[str, str]) -> Path:
    """Save the weights of a directory again with other metadata."""
    path = directory / "model.safetensors"
    save_file(load_file(path), path, metadata=metadata)
    return directory


def write(
    tmp_path: Path,
    packed: Packed,
    quantization: dict[str, Any] | None = None,
    change: Callable[[dict[str, str], Tensors], None] = lambda _metadata, _tensors: None,
) -> Path:
    """Write a checkpoint of one packed weight, and a bias that has its own name."""
    tensors = {**packed.stored(WEIGHT), f"{NAME}.bias": torch.ones(24)}
    metadata = metadata_of([WEIGHT, f"{NAME}.bias"], {WEIGHT: packed})
    change(metadata, tensors)
    config = tiny_config(quantization_config=torchao() if quantization is None else quantization)
    return set_metadata(write_safetensors_checkpoint(tmp_path / "m", config, tensors), metadata)
