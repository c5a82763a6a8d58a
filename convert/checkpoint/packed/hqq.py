"""HQQ, as hqq and transformers save it to safetensors: what a layer's `meta` holds is a tensor each.

    X.W_q           codes of the weight seen as a matrix of groups, (M, C): a row a group with axis 1, a column with
                    axis 0; that matrix is cut into P parts of M / P rows, an item has a code of each, the first highest
    X.scale, .zero  one a group
    X.shape, .nbits, .group_size, .axis, .packing, .compute_dtype, …      how; names as the bytes of their letters

In the flattened matrix, which is the flattened weight, part p is the codes from p * M / P * C on, whichever the axis.
The weight is (code - zero) * scale in the compute type, rounded after each step, as hqq 0.2.8 (core/quantize.py,
Quantizer.dequantize) computes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.packed_module import FLOAT_TYPES, PackedModule, unpack_modules
from convert.checkpoint.packed.values import (
    as_float32,
    as_integers,
    pieces,
    read_elements,
    read_small,
    rounded,
    to_bytes,
)
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Shape, Tensor, TensorSource
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array
    from convert.fields import Fields

# hqq 0.2.8, core/quantize.py, HQQLinear.state_dict_keys, without the bias
SUFFIXES: Final = (
    *("W_q", "scale", "zero", "shape", "nbits", "group_size", "axis", "packing", "compute_dtype", "view_as_float"),
    *("unpack_view_dtype", "quant_scale", "quant_zero", "offload_meta", "encoded_state_dict", "stores_quant_config"),
    *("channel_wise", "optimize", "round_zero", "zero_scale", "zero_q", "scale_q"),
)
_COMPUTE_TYPES: Final = {
    "torch.float16": StoredType.F16,
    "torch.bfloat16": StoredType.BF16,
    "torch.float32": StoredType.F32,
}
_MAX_TEXT: Final = 64
_REMEDY: Final = "load it with hqq, save each layer's `dequantize()` as its weight, or get the 16-bit checkpoint"


@dataclass(frozen=True, slots=True)
class HqqPacking:
    """An item holds `n_parts` codes of `bits` bits, the first part's highest; nbits: the precisions stored so."""

    n_parts: int
    bits: int
    item: StoredType
    nbits: tuple[int, ...]


# hqq 0.2.8, core/quantize.py, Quantizer.bit_to_packing, and core/bitpack.py
_PACKINGS: Final = {
    "8bit_u8": HqqPacking(1, 8, StoredType.U8, (8, 6, 5)),
    "4bit_u8": HqqPacking(2, 4, StoredType.U8, (4,)),
    "3bit_32": HqqPacking(10, 3, StoredType.I32, (3,)),
    "2bit_u8": HqqPacking(4, 2, StoredType.U8, (2,)),
    "1bit_u8": HqqPacking(8, 1, StoredType.U8, (1,)),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer's small tensors say."""

    shape: tuple[int, int]
    nbits: int
    group_size: int
    axis: int
    packing: HqqPacking
    dtype: StoredType

    @property
    def n_groups(self) -> int:
        """Groups of the whole weight."""
        return prod(self.shape) // self.group_size

    @property
    def part_length(self) -> int:
        """Codes of one part; the last part of `3bit_32` may hold fewer."""
        n_rows, n_cols = (self.n_groups, self.group_size) if self.axis == 1 else (self.group_size, self.n_groups)
        return -(-n_rows // self.packing.n_parts) * n_cols

    def __str__(self) -> str:
        return f"{self.nbits} bits, groups of {self.group_size} along axis {self.axis}"


@dataclass(frozen=True, slots=True)
class HqqTensor:
    """The weight of a layer packed by HQQ; a slice of its rows is a run of the flattened weight."""

    name: str
    nbytes: int
    layer: Layer
    codes: TensorSource
    scale: TensorSource
    zero: TensorSource

    @property
    def dtype(self) -> StoredType:
        """The compute type."""
        return self.layer.dtype

    @property
    def shape(self) -> Shape:
        """The weight's shape."""
        return self.layer.shape

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        n_cols = self.shape[1]
        for rows in pieces(len(out), n_cols):
            flat = range((first + rows.start) * n_cols, (first + rows.stop) * n_cols)
            zero, scale = (self._per_code(source, files, flat) for source in (self.zero, self.scale))
            with np.errstate(over="ignore", invalid="ignore"):  # a scale may be infinite; the run says where
                values = rounded(self._codes(files, flat) - zero, self.dtype) * scale
            out[rows.start : rows.stop] = to_bytes(values.reshape(len(rows), n_cols), self.dtype)

    def _codes(self, files: SourceFiles, flat: range) -> F32Array:
        """Return the codes of a run of the flattened weight."""
        packing, length = self.layer.packing, self.layer.part_length
        codes = np.empty(len(flat), np.float32)
        for part in range(flat.start // length, (flat.stop - 1) // length + 1):
            first, last = max(flat.start, part * length), min(flat.stop, (part + 1) * length)
            raw = read_elements(self.codes, files, first - part * length, last - first)
            shift = packing.bits * (packing.n_parts - 1 - part)
            items = as_integers(raw, self.codes.dtype)
            codes[first - flat.start : last - flat.start] = (items >> shift) & ((1 << packing.bits) - 1)
        return codes

    def _per_code(self, source: TensorSource, files: SourceFiles, flat: range) -> F32Array:
        """Return the scale or zero of each code of a run, rounded to the compute type, as hqq has it once loaded."""
        if self.layer.axis == 1:
            size = self.layer.group_size
            groups = range(flat.start // size, (flat.stop - 1) // size + 1)
            start = flat.start - groups.start * size
            return np.repeat(self._read(source, files, groups), size)[start : start + len(flat)]
        n_groups = self.layer.n_groups
        if n_groups <= len(flat):
            return self._read(source, files, range(n_groups))[np.arange(flat.start, flat.stop) % n_groups]
        first, last = flat.start % n_groups, (flat.stop - 1) % n_groups + 1
        if first < last:
            return self._read(source, files, range(first, last))
        return np.concatenate([self._read(source, files, range(*ends)) for ends in ((first, n_groups), (0, last))])

    def _read(self, source: TensorSource, files: SourceFiles, groups: range) -> F32Array:
        return rounded(as_float32(read_elements(source, files, groups.start, len(groups)), source.dtype), self.dtype)


def marks_hqq(source: TensorSource) -> bool:
    """Say whether a tensor can only be HQQ's."""
    return source.name.endswith(".W_q")


def unpack_hqq(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give the weights of an HQQ checkpoint: see PackedFormat."""
    declared = _declared(quantization.fields.inner("quant_config"))
    return unpack_modules(tensors, suffixes=SUFFIXES, decode=partial(_decode, declared, quantization.where))


def _declared(section: Fields) -> tuple[tuple[int | None, ...], ...]:
    """Return bits, group size and axis that the config has for all layers, or for layers by name; None: not said."""
    if not section.has("weight_quant_params"):
        return tuple(found for name in section.values for found in _declared(section.inner(name)))
    params = section.inner("weight_quant_params")
    return (tuple(params.integer(key) for key in ("nbits", "group_size", "axis")),)


def _decode(declared: tuple[tuple[int | None, ...], ...], where: str, module: PackedModule) -> HqqTensor:
    layer = _read_layer(module)
    stored = (layer.nbits, layer.group_size, layer.axis)
    if declared and not any(
        all(said in (None, is_) for said, is_ in zip(row, stored, strict=True)) for row in declared
    ):
        said = " or ".join(f"{bits} bits, groups of {size} along axis {axis}" for bits, size, axis in declared)
        raise CheckpointError(f"packed module {shown(module.name)}: {where} says {said}, its tensors say {layer}")
    codes = replace(_codes(module, layer), dtype=layer.packing.item, shape=(layer.part_length,))
    scale, zero = (_per_group(module, suffix, layer) for suffix in ("scale", "zero"))
    return HqqTensor(f"{module.name}.weight", module.nbytes, layer, codes, scale, zero)


def _read_layer(module: PackedModule) -> Layer:
    for suffix in ("quant_scale", "quant_zero", "offload_meta"):
        if suffix in module.parts and _number(module, suffix):
            raise UnsupportedError(
                f"packed module {shown(module.name)} has `{suffix}`, which this version does not decode", hint=_REMEDY
            )
    shape = as_integers(read_small(module.part("shape", (StoredType.I64,), n_dims=1)), StoredType.I64).tolist()
    nbits, group_size, axis = (_number(module, suffix) for suffix in ("nbits", "group_size", "axis"))
    packing = _PACKINGS.get(_text(module, "packing"))
    dtype = _COMPUTE_TYPES.get(_text(module, "compute_dtype"))
    if packing is None or dtype is None or nbits not in packing.nbits or axis not in (0, 1):
        raise UnsupportedError(
            f"packed module {shown(module.name)} has {nbits} bits along axis {axis}, packed as "
            f"{shown(_text(module, 'packing'))} for {shown(_text(module, 'compute_dtype'))}, which is not decoded",
            hint=_REMEDY,
        )
    if len(shape) != 2 or min(shape) < 1 or group_size < 1 or prod(shape) % group_size:  # noqa: PLR2004
        raise CheckpointError(f"packed module {shown(module.name)} has shape {shape} in groups of {group_size}")
    return Layer((shape[0], shape[1]), nbits, group_size, axis, packing, dtype)


def _codes(module: PackedModule, layer: Layer) -> TensorSource:
    """Return the packed codes; with `view_as_float` they are called floats, of which only the bytes count."""
    is_viewed = "view_as_float" in module.parts and bool(_number(module, "view_as_float"))
    source = module.part("W_q", FLOAT_TYPES if is_viewed else (layer.packing.item,), n_dims=2)
    n_rows = layer.n_groups if layer.axis == 1 else layer.group_size
    nbytes = layer.part_length * layer.packing.item.itemsize
    is_whole = n_rows % layer.packing.n_parts == 0 or layer.packing.item is StoredType.I32  # 3bit_32 pads its last part
    if source.nbytes != nbytes or not is_whole:
        raise CheckpointError(
            f"tensor {shown(source.name)} has {source.nbytes} bytes, a weight of shape {layer.shape} with {layer} "
            f"has {nbytes}, in {layer.packing.n_parts} parts of whole rows"
        )
    return source


def _per_group(module: PackedModule, suffix: str, layer: Layer) -> TensorSource:
    source = module.part(suffix, FLOAT_TYPES, n_dims=2)
    wanted = (layer.n_groups, 1) if layer.axis == 1 else (1, layer.n_groups)
    if source.shape != wanted:
        raise CheckpointError(f"tensor {shown(source.name)} has shape {source.shape}, {layer} want {wanted}")
    return source


def _number(module: PackedModule, suffix: str) -> int:
    """Read an encoded integer or flag (hqq 0.2.8, core/utils.py, encode_safetensor_type)."""
    source = module.part(suffix, (StoredType.I32, StoredType.U8), n_dims=0)
    return int(as_integers(read_small(source), source.dtype)[0])


def _text(module: PackedModule, suffix: str) -> str:
    """Read an encoded name: the bytes of its letters."""
    source = module.part(suffix, (StoredType.U8,), n_dims=1)
    if source.nbytes > _MAX_TEXT:
        raise CheckpointError(f"tensor {shown(source.name)} has {source.nbytes} letters, at most {_MAX_TEXT}")
    return read_small(source).tobytes().decode("latin-1")
