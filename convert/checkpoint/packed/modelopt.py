"""NVIDIA modelopt's checkpoints: 8-bit floats, with all scales it knows, and NVFP4.

    FP8, FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO
        X.weight  F8_E4M3    X.weight_scale  F32: one, one a row, or one a block
        Cast to the model's type, and so are the scales; their product is rounded again (modelopt 0.47.0,
        qtensor/fp8_tensor.py, dequantize, and export/quant_utils.py, from_quantized_weight).
    MXFP8
        X.weight  F8_E4M3    X.weight_scale  U8: 2 ** (byte - 127) for each 32 of a row (qtensor/mxfp8_tensor.py)
    NVFP4, W4A16_NVFP4
        X.weight  U8, two e2m1 a byte    X.weight_scale  F8_E4M3, one for each 16 of a row    X.weight_scale_2  F32
        The scales' product and the weight are float32, then rounded (qtensor/nvfp4_tensor.py). Code 8 is 0, not -0.

The algorithm is `quant_algo`, in config.json or under `quantization` in hf_quant_config.json; MIXED_PRECISION is all
of them, and the tensors say which.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.activation_scales import is_activation_scale
from convert.checkpoint.packed.float8 import FLOAT8_TYPES
from convert.checkpoint.packed.fp8 import blocks_of, check_weight
from convert.checkpoint.packed.module_names import read_names, refuse_left_out
from convert.checkpoint.packed.packed_format import nothing_packed
from convert.checkpoint.packed.scaled import BlockShape, ByteCodes, NibbleCodes, ScaledTensor, factor_grid
from convert.checkpoint.packed.values import read_small
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Tensor, TensorSource
    from convert.fields import Fields

_FLOAT8: Final[Mapping[str, tuple[BlockShape | str, ...]]] = {
    "fp8": ("tensor",),
    "fp8_per_channel_per_token": ("row",),
    "fp8_pb_wo": (BlockShape(128, 128),),
    "fp8_pb_real": (BlockShape(128, 128),),
}
_MXFP8: Final = "mxfp8"
_NVFP4: Final = ("nvfp4", "w4a16_nvfp4")
_MIXED: Final = "mixed_precision"
_KNOWN: Final = (*_FLOAT8, _MXFP8, *_NVFP4, _MIXED)
_NVFP4_GROUP: Final = 16
_MXFP8_GROUP: Final = 32
_16_BIT: Final = "get the 16-bit checkpoint"


def is_nvfp4_scale(source: TensorSource) -> bool:
    """Tell whether a tensor can only be modelopt's: nobody else has a scale of scales by this name."""
    return source.name.endswith(".weight_scale_2")


def unpack_modelopt(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give packed weights as decoders; see PackedFormat.unpack. The dtype is the config's, else BF16.

    Raises CheckpointError for scales that are missing, orphaned or contradict the config; UnsupportedError for
    algorithms that are not in this file's head.
    """
    algorithm, left_out = _read_options(quantization)
    decoders: dict[str, Tensor] = {}
    taken: set[str] = set()
    for name, scale in tensors.items():
        if not name.endswith(".weight_scale"):
            continue
        weight = tensors.get(name.removesuffix("_scale"))
        if weight is None:
            raise CheckpointError(f"scale {shown(name)} has no weight {shown(name.removesuffix('_scale'))}")
        module = name.removesuffix(".weight_scale")
        refuse_left_out(left_out, module, weight.name, quantization.where)
        second = tensors.get(f"{module}.weight_scale_2")
        decoders[weight.name] = _decoder(weight, scale, second, algorithm, quantization)
        taken |= {name, *([second.name] if second is not None else [])}
    _check_none_left(tensors, decoders, taken)
    if not decoders and not _packs_cache_only(quantization):
        raise nothing_packed(quantization, "packed")
    kept = {name: source for name, source in tensors.items() if name not in taken and not is_activation_scale(name)}
    return {name: decoders.get(name, source) for name, source in kept.items()}


def _section(quantization: Quantization) -> Fields:
    """Return what says the algorithm; in hf_quant_config.json it is a level down."""
    fields = quantization.fields
    return fields.inner("quantization") if fields.has("quantization") else fields


def _read_options(quantization: Quantization) -> tuple[str, frozenset[str]]:
    section = _section(quantization)
    algorithm = section.name("quant_algo") or _MIXED
    if algorithm not in _KNOWN:
        raise UnsupportedError(
            f"`quant_algo` in {section.where} is {shown(algorithm)}, which this version does not decode",
            hint=f"{_16_BIT}; decoded are {', '.join(_KNOWN)}",
        )
    group_size = section.integer("group_size")
    if algorithm in _NVFP4 and group_size not in {None, 0, _NVFP4_GROUP}:
        raise UnsupportedError(f"`group_size` in {section.where} is {group_size}, wanted {_NVFP4_GROUP}", hint=_16_BIT)
    return algorithm, read_names(section, "exclude_modules", "ignore")


def _check_none_left(tensors: Mapping[str, TensorSource], decoders: Mapping[str, Tensor], taken: set[str]) -> None:
    for name, source in tensors.items():
        if name.endswith(".pre_quant_scale"):
            raise UnsupportedError(f"tensor {shown(name)} rescales activations before its weight", hint=_16_BIT)
        if name.endswith(".weight_scale_2") and name not in taken:
            raise CheckpointError(f"scale {shown(name)} has no {shown(name.removesuffix('_2'))}")
        if source.dtype in {*FLOAT8_TYPES, StoredType.U8} and name not in decoders and name not in taken:
            wanted = shown(f"{name}_scale")
            raise CheckpointError(f"tensor {shown(name)} is {source.dtype.value} without a scale, wanted {wanted}")


def _packs_cache_only(quantization: Quantization) -> bool:
    """Say whether `quant_algo` is there and null: weights stay as they are where only the key-value cache is packed."""
    section = _section(quantization)
    return section.has("quant_algo") and section.get("quant_algo") is None


def _decoder(
    weight: TensorSource,
    scale: TensorSource,
    second: TensorSource | None,
    algorithm: str,
    quantization: Quantization,
) -> ScaledTensor:
    kind = "nvfp4" if weight.dtype is StoredType.U8 else "mxfp8" if scale.dtype is StoredType.U8 else "fp8"
    agrees = {"nvfp4": _NVFP4, "mxfp8": (_MXFP8,), "fp8": tuple(_FLOAT8)}[kind]
    if algorithm not in (*agrees, _MIXED):
        raise CheckpointError(
            f"tensor {shown(weight.name)} is {weight.dtype.value} with scales of {scale.dtype.value}: {kind}; "
            f"{quantization.where} says {shown(algorithm)}"
        )
    dtype = quantization.dtype or StoredType.BF16
    if kind == "nvfp4":
        return _nvfp4(weight, scale, second, dtype, quantization.where)
    if second is not None:
        raise CheckpointError(f"tensor {shown(weight.name)} is {weight.dtype.value}, but has {shown(second.name)}")
    check_weight(weight, scale)
    if kind == "mxfp8":
        blocks = blocks_of(weight.shape, scale, (BlockShape(1, _MXFP8_GROUP),), quantization.where)
        grid = factor_grid(scale, weight.shape, blocks)
    else:
        every: tuple[BlockShape | str, ...] = ("tensor", "row", BlockShape(128, 128))
        blocks = blocks_of(weight.shape, scale, _FLOAT8.get(algorithm, every), quantization.where)
        grid = replace(factor_grid(scale, weight.shape, blocks), rounded_to=dtype)
    return ScaledTensor(weight.name, weight.shape, dtype, ByteCodes(weight), grid, blocks.cols)


def _nvfp4(
    weight: TensorSource, scale: TensorSource, second: TensorSource | None, dtype: StoredType, where: str
) -> ScaledTensor:
    if second is None:
        raise CheckpointError(f"tensor {shown(weight.name)} is U8 without {shown(f'{weight.name}_scale_2')}")
    if len(weight.shape) != 2 or 0 in weight.shape:  # noqa: PLR2004 - rows and columns
        raise CheckpointError(f"tensor {shown(weight.name)} has shape {weight.shape}, wanted a matrix")
    if scale.dtype is not StoredType.F8_E4M3:
        raise CheckpointError(f"scale {shown(scale.name)} is {scale.dtype.value}, wanted F8_E4M3")
    shape = (weight.shape[0], weight.shape[1] * 2)
    blocks = blocks_of(shape, scale, (BlockShape(1, _NVFP4_GROUP),), where)
    grid = replace(factor_grid(scale, shape, blocks), multiplier=read_one_float32(second))
    return ScaledTensor(weight.name, shape, dtype, NibbleCodes(weight, has_negative_zero=False), grid, blocks.cols)


def read_one_float32(source: TensorSource) -> float:
    """Read a tensor of one F32 number; CheckpointError if it is anything else."""
    if source.dtype is not StoredType.F32 or source.n_elements != 1:
        raise CheckpointError(
            f"tensor {shown(source.name)} is {source.dtype.value} of shape {source.shape}, wanted one F32"
        )
    return float(np.frombuffer(read_small(source).tobytes(), "<f4")[0])
