"""compressed-tensors, the format of llm-compressor and vLLM: each module's codes, scales and zero points.

    int-, float-, naive-quantized   X.weight I8 or F8_E4M3, X.weight_scale, X.weight_zero_point
    pack-quantized                  X.weight_packed I32, X.weight_shape, X.weight_scale, X.weight_g_idx,
                                    X.weight_zero_point I32, packed along the rows, or I8 in older files
    nvfp4-, mxfp4-pack-quantized    X.weight_packed U8, X.weight_scale F8_E4M3 or U8, X.weight_global_scale
    mxfp8-quantized                 X.weight F8_E4M3, X.weight_scale U8

The values are those of `decompress` in compressed-tensors 0.20.0 (quantization/lifecycle/forward_helpers.py,
_dequantize): codes and zero points are cast to the scales' type, and so is what comes out; the FP4 and MX formats give
bfloat16. `weight_g_idx` is what older versions wrote for `actorder: group`: the group of each column (0.12.2,
quantization/lifecycle/forward.py, _process_quantization); all -1 means that it was not used.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint.packed.activation_scales import is_activation_scale
from convert.checkpoint.packed.compressed_tensors_config import HINT, Layout, read_compression_config
from convert.checkpoint.packed.compressed_tensors_module import PARTS, mismatch, read_modules
from convert.checkpoint.packed.modelopt import read_one_float32
from convert.checkpoint.packed.module_names import refuse_left_out
from convert.checkpoint.packed.packed_format import nothing_packed
from convert.checkpoint.packed.packed_words import PackedCodes, PackedZeros
from convert.checkpoint.packed.scaled import ByteCodes, NibbleCodes, ScaledTensor, factor_grid
from convert.checkpoint.packed.values import as_integers, read_small
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from convert.checkpoint.packed.compressed_tensors_config import CompressionConfig, Scheme
    from convert.checkpoint.packed.compressed_tensors_module import Module
    from convert.checkpoint.packed.integers import Codes, Factors
    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.packed.scaled import BlockShape
    from convert.checkpoint.source import Tensor, TensorSource


def is_compressed(source: TensorSource) -> bool:
    """Tell whether a tensor can only be compressed-tensors': nobody else calls codes so."""
    return source.name.endswith(".weight_packed")


def unpack_compressed_tensors(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give quantized modules' weights as decoders; see PackedFormat.unpack. The dtype is the scales', or BF16.

    Raises CheckpointError for parts that are missing, alone, contradict each other or the config, and ConfigError;
    UnsupportedError for formats that are not in this file's head.
    """
    config = read_compression_config(quantization)
    modules = read_modules(tensors)
    if not modules and any(scheme.layout is not Layout.DENSE for scheme in config.schemes):
        raise nothing_packed(quantization, "compressed")
    decoders = {module.main.name: _decoder(module, config) for module in modules.values()}
    out: dict[str, Tensor] = {}
    for name, source in tensors.items():
        if (decoder := decoders.get(name)) is not None:
            out[decoder.name] = decoder
        elif name.rpartition(".")[2] not in PARTS and not is_activation_scale(name):
            out[name] = source
    return out


def _decoder(module: Module, config: CompressionConfig) -> ScaledTensor:
    refuse_left_out(config.left_out, module.name, module.main.name, config.where)
    scheme = _scheme_of(module, config)
    blocks = scheme.blocks(module.shape)
    is_mx_or_nv = scheme.layout in {Layout.NVFP4, Layout.MXFP4, Layout.MXFP8}
    return ScaledTensor(
        name=f"{module.name}.weight",
        shape=module.shape,
        dtype=StoredType.BF16 if is_mx_or_nv else module.scale.dtype,
        codes=_codes(module, scheme),
        scales=_scales(module, blocks),
        block_cols=blocks.cols,
        zeros=_zeros(module, scheme, blocks),
        group_of=_group_of(module, blocks) if scheme.by_activation else None,
        rounds_differences=scheme.kind == "float",
    )


def _scheme_of(module: Module, config: CompressionConfig) -> Scheme:
    """Find the scheme that a module's tensors fit; where several do and differ, the one that names the module."""
    wanted = [(scheme, mismatch(scheme, module)) for scheme in config.schemes]
    fitting = [scheme for scheme, fault in wanted if fault is None]
    if not fitting:
        said = "; ".join(f"{scheme} wants {fault}" for scheme, fault in wanted[:4]) or "no group that quantizes weights"
        raise CheckpointError(f"module {shown(module.name)} has {module}; {config.where} says {said}")
    named = [scheme for scheme in fitting if module.name in scheme.targets] or fitting
    if len({_meaning(scheme, module) for scheme in named}) > 1:
        said = " and ".join(str(scheme) for scheme in named[:4])
        raise UnsupportedError(f"module {shown(module.name)} fits several groups that differ: {said}", hint=HINT)
    return named[0]


def _meaning(scheme: Scheme, module: Module) -> tuple[Layout, int, int, int]:
    """Return what of a scheme the values depend on."""
    blocks = scheme.blocks(module.shape)
    bits = scheme.bits if scheme.layout is Layout.WORDS else 0
    return scheme.layout, bits, min(blocks.rows, module.shape[0]), min(blocks.cols, module.shape[1])


def _codes(module: Module, scheme: Scheme) -> Codes:
    if scheme.layout is Layout.WORDS:
        return PackedCodes(module.main, scheme.bits, module.shape[1])
    if scheme.layout in {Layout.NVFP4, Layout.MXFP4}:
        return NibbleCodes(module.main)
    return ByteCodes(module.main)


def _scales(module: Module, blocks: BlockShape) -> Factors:
    grid = factor_grid(module.scale, module.shape, blocks)
    divisor = module.parts.get("weight_global_scale")
    return grid if divisor is None else replace(grid, divisor=read_one_float32(divisor))


def _zeros(module: Module, scheme: Scheme, blocks: BlockShape) -> Factors | None:
    if module.zeros is None:
        return None
    if module.has_packed_zeros:
        return PackedZeros(module.zeros, scheme.bits)
    return factor_grid(module.zeros, module.shape, blocks)


def _group_of(module: Module, blocks: BlockShape) -> NDArray[np.intp] | None:
    """Read the group of each column; None where it was not used. Every group has as many columns."""
    source, n_cols = module.parts["weight_g_idx"], module.shape[1]
    if source.dtype is not StoredType.I32 or source.shape != (n_cols,):
        raise CheckpointError(
            f"tensor {shown(source.name)} is {source.dtype.value} {source.shape}, wanted I32 {(n_cols,)}"
        )
    groups: NDArray[np.int32] = as_integers(read_small(source), source.dtype)
    if (groups == -1).all():
        return None
    n_groups = n_cols // blocks.cols
    if groups.min() < 0 or groups.max() >= n_groups or set(_counts(groups)) != {blocks.cols}:
        raise CheckpointError(
            f"tensor {shown(source.name)} does not put {n_cols} columns into {n_groups} groups of {blocks.cols}"
        )
    return groups.astype(np.intp)


def _counts(groups: NDArray[np.int32]) -> Sequence[int]:
    counts: list[int] = np.bincount(groups).tolist()
    return counts
