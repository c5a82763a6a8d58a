"""Packers of grouped integers for the tests: GPTQ's and AWQ's layouts, written code by code from their definitions.

Each word is built with Python's integers from a list of codes, so that what is tested (views and shifts of whole
arrays) and what tests it have nothing in common. `Codes` are what a quantizer has found; `dequantized` is what its
library makes of them, in torch.
"""

from __future__ import annotations

import pickle
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from checkpoint_weights import tensor_shapes
from packed_checkpoints import assert_same, tiny_config, unpacked, write_safetensors_checkpoint

from convert.conversion import plan_all
from convert.stream import carry_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from convert.plan import Plan

Tensors = dict[str, torch.Tensor]

NAME: Final = "model.layers.0.self_attn.q_proj"  # the module that a checkpoint of one module has
AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ 0.2.7, utils/packing_utils.py, AWQ_ORDER


@dataclass(frozen=True)
class Codes:
    """A linear layer's weight in groups: codes (in, out), zeros and scales (groups, out), the group of each input."""

    bits: int
    codes: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor
    group_of: torch.Tensor

    def dequantized(self) -> torch.Tensor:
        """Return the weight (out, in) as torch multiplies tensors of the scales' type with integers."""
        return (self.scales[self.group_of] * (self.codes - self.zeros[self.group_of])).T.contiguous()


def make_codes(
    shape: tuple[int, int],
    *,
    bits: int = 4,
    group_size: int = 32,
    dtype: torch.dtype = torch.float16,
    symmetric: bool = False,
    act_order: bool = False,
    seed: int = 0,
) -> Codes:
    """Make random codes for a weight of shape (out, in); no zero point is 0, which only some layouts can hold."""
    random = torch.Generator().manual_seed(seed)
    n_out, n_in = shape
    group_of = torch.arange(n_in) // (n_in if group_size == -1 else group_size)
    n_groups = int(group_of.max()) + 1
    if act_order:
        group_of = group_of[torch.randperm(n_in, generator=random)]
    zeros = torch.randint(1, 1 << bits, (n_groups, n_out), generator=random)
    return Codes(
        bits=bits,
        codes=torch.randint(0, 1 << bits, (n_in, n_out), generator=random),
        zeros=torch.full_like(zeros, 1 << (bits - 1)) if symmetric else zeros,
        scales=(torch.rand((n_groups, n_out), generator=random) * 0.1 + 1e-3).to(dtype),
        group_of=group_of,
    )


def pack_words(codes: Sequence[int], bits: int) -> list[int]:
    """Pack codes into 32-bit words, each after the one before, the lowest bits of a word first; signed, as int32 is."""
    stream = sum(code << (bits * index) for index, code in enumerate(codes))
    n_words = -(-len(codes) * bits // 32)
    words = [(stream >> (32 * index)) & 0xFFFFFFFF for index in range(n_words)]
    return [word - (1 << 32) if word >> 31 else word for word in words]


def pack_rows(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack each row of codes into words along the row."""
    return torch.tensor([pack_words(row, bits) for row in codes.tolist()], dtype=torch.int32)


def gptq_config(bits: int = 4, group_size: int = 32, **more: object) -> dict[str, Any]:
    """Return a quantization section as AutoGPTQ writes it."""
    return {"quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": False, "sym": True, **more}


def gptq_module(name: str, packed: Codes, *, zero_offset: int = 1, with_g_idx: bool = True) -> Tensors:
    """Pack as GPTQ: words down the columns; zero points along the rows, less `zero_offset` in their own bits."""
    zeros = (packed.zeros - zero_offset) % (1 << packed.bits)
    tensors = {
        f"{name}.qweight": pack_rows(packed.codes.T, packed.bits).T.contiguous(),
        f"{name}.qzeros": pack_rows(zeros, packed.bits),
        f"{name}.scales": packed.scales,
        f"{name}.g_idx": packed.group_of.to(torch.int32),
    }
    return tensors if with_g_idx else {key: tensor for key, tensor in tensors.items() if not key.endswith("g_idx")}


def _awq_ordered(codes: torch.Tensor) -> torch.Tensor:
    """Move the columns of each run of eight to where AWQ's words have them."""
    return torch.stack([codes[:, base + place] for base in range(0, codes.shape[1], 8) for place in AWQ_ORDER], dim=1)


def awq_gemm_module(name: str, packed: Codes) -> Tensors:
    """Pack as AutoAWQ's WQLinear_GEMM: eight output columns in a word."""
    return {
        f"{name}.qweight": pack_rows(_awq_ordered(packed.codes), 4),
        f"{name}.qzeros": pack_rows(_awq_ordered(packed.zeros), 4),
        f"{name}.scales": packed.scales,
    }


def awq_gemv_module(name: str, packed: Codes, *, n_zero_words: int) -> Tensors:
    """Pack as AutoAWQ's WQLinear_GEMV: eight input columns in a word, zero points and scales padded to whole words."""
    padding = n_zero_words * 8 - len(packed.zeros)
    return {
        f"{name}.qweight": pack_rows(packed.codes.T, 4),
        f"{name}.qzeros": pack_rows(torch.nn.functional.pad(packed.zeros.T, (0, padding)), 4),
        f"{name}.scales": torch.nn.functional.pad(packed.scales.T, (0, padding)).contiguous(),
    }


def write_packed(tmp_path: Path, tensors: Tensors, quantization: object) -> Path:
    """Write a checkpoint of these tensors alone, with this quantization section."""
    return write_safetensors_checkpoint(tmp_path / "m", tiny_config(quantization_config=quantization), tensors)


def assert_decoded(tmp_path: Path, tensors: Tensors, quantization: object, expected: torch.Tensor) -> None:
    """Open a checkpoint of the one module NAME and compare its weight, whole and in windows."""
    decoded = unpacked(write_packed(tmp_path, tensors, quantization))
    assert list(decoded) == [f"{NAME}.weight"]
    assert_same(decoded[f"{NAME}.weight"], expected)


def packed_and_plain(
    directory: Path,
    quantization: Mapping[str, Any],
    pack: Callable[[str, tuple[int, int]], tuple[Tensors, torch.Tensor]],
    **changes: object,
) -> tuple[Path, Path]:
    """Write a whole tiny Llama twice: its linear layers packed, and plain with what they dequantize to."""
    config = tiny_config(**changes)
    packed: Tensors = {}
    plain: Tensors = {}
    for name, shape in tensor_shapes(config).items():
        random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        if ".layers." in name and len(shape) == 2 and not name.endswith("moe.gate.weight"):
            parts, plain[name] = pack(name.removesuffix(".weight"), (shape[0], shape[1]))
            packed |= parts
        else:
            plain[name] = packed[name] = torch.randn(shape, generator=random).to(torch.float16)
    return (
        write_safetensors_checkpoint(
            directory / "packed" / "model", {**config, "quantization_config": quantization}, packed
        ),
        write_safetensors_checkpoint(directory / "plain" / "model", config, plain),
    )


def outputs_of(model: Path, outdir: Path) -> dict[str, bytes]:
    """Convert a checkpoint to all types, by a plan that was pickled: the files' bytes by name."""
    plan: Plan = pickle.loads(pickle.dumps(plan_all(model, outdir)))
    report = carry_out(plan)
    return {output.path.name: output.path.read_bytes() for output in report.outputs}


def replaced(part: str, value: torch.Tensor | None) -> Callable[[Tensors], None]:
    """Return a change of a module's tensors: one of them replaced, or taken away."""

    def change(tensors: Tensors) -> None:
        del tensors[f"{NAME}.{part}"]
        if value is not None:
            tensors[f"{NAME}.{part}"] = value

    return change


def int32(value: int) -> torch.Tensor:
    """Return a single number."""
    return torch.tensor(value, dtype=torch.int32)
