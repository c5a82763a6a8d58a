"""BitNet, as transformers saves it: ternary weights, four to a byte, and one scale a matrix.

    X.weight        uint8 (out / 4, in)   bits 2p, 2p + 1 of a byte: row p * out / 4 + r of column c, 0 1 2 for -1 0 1
    X.weight_scale  float (1,)

transformers 5.23 (integrations/bitnet.py, unpack_weights, BitLinear) divides what it multiplied with the integers by
the scale; AutoBitLinear multiplies by it. The weight that stands for both is float32.
Parity: conversion/base.py, dequant_bitnet @ 0c1e570 also divides in float32; rounded earlier, float16 files differ.
That activations are rounded to 8 bits while the model runs is lost in every GGUF.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.packed_module import FLOAT_TYPES, PackedModule
from convert.checkpoint.packed.values import as_float32, read_small, read_window, to_bytes
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Shape, Tensor, TensorSource
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import U8Array

_PER_BYTE: Final = 4
_SCALE: Final = "weight_scale"


@dataclass(frozen=True, slots=True)
class BitnetTensor:
    """A matrix of -factor, 0 and factor."""

    name: str
    nbytes: int
    packed: TensorSource
    factor: np.float32

    @property
    def dtype(self) -> StoredType:
        """Float32, whatever the scale's type."""
        return StoredType.F32

    @property
    def shape(self) -> Shape:
        """The weight's shape."""
        return self.packed.shape[0] * _PER_BYTE, self.packed.shape[1]

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        n_packed, n_cols = self.packed.shape
        last = first + len(out)
        for part in range(first // n_packed, (last - 1) // n_packed + 1):
            start, stop = max(first, part * n_packed), min(last, (part + 1) * n_packed)
            rows = range(start - part * n_packed, stop - part * n_packed)
            raw = read_window(self.packed, files, rows=rows, cols=range(n_cols))
            ternary = ((raw >> (2 * part)) & 3).astype(np.float32) - np.float32(1)
            with np.errstate(over="ignore", invalid="ignore"):  # a scale may be infinite; the run says where
                out[start - first : stop - first] = to_bytes(ternary * self.factor, StoredType.F32)


def marks_bitnet(_: TensorSource) -> bool:
    """Say that no tensor can only be BitNet's: bytes and scales are what others have too."""
    return False


def unpack_bitnet(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give the weights of a BitNet checkpoint: see PackedFormat."""
    multiplies = _multiplies(quantization)
    scales = {name: source for name, source in tensors.items() if name.endswith(f".{_SCALE}")}
    out: dict[str, Tensor] = {}
    for name, source in tensors.items():
        if name in scales:
            if f"{name.removesuffix('_scale')}" not in tensors:
                raise CheckpointError(
                    f"tensor {shown(name)} has no {shown(name.removesuffix('_scale'))} that it belongs to"
                )
        elif f"{name}_scale" in scales or source.dtype is StoredType.U8:
            out[name] = _decode(name, tensors, multiplies=multiplies)
        else:
            out[name] = source
    return out


def _multiplies(quantization: Quantization) -> bool:
    """Say whether the scale multiplies; UnsupportedError for kinds whose weights are not those of a plain model."""
    fields = quantization.fields
    linear = fields.name("linear_class") or "bitlinear"
    mode = fields.name("quantization_mode") or "offline"
    has_norms = fields.flag("use_rms_norm")
    if linear not in {"bitlinear", "autobitlinear"} or mode != "offline" or has_norms:
        raise UnsupportedError(
            f"{fields.where} says BitNet's {shown(linear)}, {shown(mode)}, norms of its own {has_norms}; "
            "decoded are `bitlinear` and `autobitlinear`, `offline`, without such norms",
            hint="get the 16-bit checkpoint that it was made from",
        )
    return linear == "autobitlinear"


def _decode(name: str, tensors: Mapping[str, TensorSource], *, multiplies: bool) -> BitnetTensor:
    module_name, _, suffix = name.rpartition(".")
    parts = {
        part: tensors[full] for part in (suffix, f"{suffix}_scale") if (full := f"{module_name}.{part}") in tensors
    }
    module = PackedModule(module_name, parts)
    packed = module.part(suffix, (StoredType.U8,), n_dims=2)
    scale = module.part(f"{suffix}_scale", FLOAT_TYPES, n_dims=1)
    if scale.shape != (1,):
        raise CheckpointError(f"tensor {shown(scale.name)} has shape {scale.shape}, wanted (1,)")
    value = as_float32(read_small(scale), scale.dtype)[0]
    with np.errstate(divide="ignore"):
        factor = value if multiplies else np.float32(1) / value
    return BitnetTensor(name, module.nbytes, packed, factor)
