"""8-bit floats with a scale for the tensor, each row, or each block: DeepSeek's, fbgemm's and Mistral's spellings.

    X.weight            F8_E4M3 or F8_E5M2       also stacks of experts: `X.experts.gate_up_proj`
    X.weight_scale_inv  F32, BF16, F16 or E8M0   what a weight is multiplied with; E8M0 also as U8
    X.weight_scale      the same                 fbgemm, vLLM's AutoFP8
    X.scale             the same                 DeepSeek's own files
    X.qscale_weight     the same                 Mistral's own files

The block is the config's: the last row and column of blocks may be partial. transformers 5.23 instead divides the
weight's shape by the scales' (integrations/finegrained_fp8.py, Fp8Dequantize._dequantize_one), which refuses 301 rows
in blocks of 128, and takes 192 as two blocks of 96; compressed-tensors 0.20.0 (converters/fp8block_dequantizer.py)
reads them as here. Both multiply in float32 and round to the model's type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.checkpoint.packed.activation_scales import is_activation_scale
from convert.checkpoint.packed.float8 import FLOAT8_TYPES
from convert.checkpoint.packed.module_names import read_names, refuse_left_out
from convert.checkpoint.packed.packed_format import nothing_packed
from convert.checkpoint.packed.scaled import (
    FLOAT_TYPES,
    BlockShape,
    ByteCodes,
    ScaledTensor,
    each_row,
    factor_grid,
    is_grid,
    whole,
)
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, ConfigError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Shape, Tensor, TensorSource
    from convert.fields import Fields

_DEFAULT_BLOCKS: Final = BlockShape(128, 128)  # transformers 5.23, FineGrainedFP8Config, without the key
_MXFP8_BLOCKS: Final = BlockShape(1, 32)  # OCP Microscaling Formats v1.0
_SCALE_TYPES: Final = (*FLOAT_TYPES, StoredType.F8_E8M0, StoredType.U8)
_FORMATS: Final = {
    "e4m3": (StoredType.F8_E4M3, StoredType.F8_E4M3FNUZ),
    "e5m2": (StoredType.F8_E5M2, StoredType.F8_E5M2FNUZ),
}
_MAX_DIMENSIONS: Final = 4
_MAX_BLOCK: Final = 1 << 31
_16_BIT: Final = "get the 16-bit checkpoint, or dequantize it with transformers (`dequantize=True`) and save that"


@dataclass(frozen=True, slots=True)
class Declared:
    """What the config says: the blocks that a weight of a shape may have, the format's name, modules left out."""

    blocks: tuple[BlockShape | str, ...]
    stored: tuple[StoredType, ...]
    left_out: frozenset[str]
    dtype: StoredType
    where: str


def is_fp8_scale(source: TensorSource) -> bool:
    """Tell whether a tensor can only be the scale of an 8-bit float weight: these names are nobody else's."""
    return source.name.endswith(("weight_scale_inv", ".qscale_weight"))


def unpack_fp8(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give 8-bit float weights as decoders; see PackedFormat.unpack. The dtype is the config's, else BF16.

    Raises CheckpointError for a weight without a scale, with two, or with one that contradicts the config, and for
    scales without a weight; UnsupportedError for weights of 4 bits.
    """
    declared = _read_declared(quantization)
    scales = _scales(tensors)
    out: dict[str, Tensor] = {}
    taken = {scale.name for scale in scales.values()}
    for name, source in tensors.items():
        if name in scales or source.dtype in FLOAT8_TYPES:
            out[name] = _decoder(source, scales.get(name), declared)
        elif name not in taken and not is_activation_scale(name):
            out[name] = source
    if not scales:
        raise nothing_packed(quantization, "an 8-bit float")
    return out


def _read_declared(quantization: Quantization) -> Declared:
    fields = quantization.fields
    fields.name("activation_scheme")  # only concerns activations
    stored = fields.name("fmt")
    if stored is not None and stored not in _FORMATS:
        raise UnsupportedError(f"`fmt` in {fields.where} is {shown(stored)}, wanted `e4m3` or `e5m2`", hint=_16_BIT)
    return Declared(
        blocks=_read_blocks(fields, quantization.method),
        stored=FLOAT8_TYPES if stored is None else _FORMATS[stored],
        left_out=read_names(fields, "modules_to_not_convert", "ignored_layers"),
        dtype=quantization.dtype or StoredType.BF16,
        where=fields.where,
    )


def _read_blocks(fields: Fields, method: str | None) -> tuple[BlockShape | str, ...]:
    if method == "fbgemm_fp8":
        return ("row",)
    size = fields.get("weight_block_size")
    if size is None and method == "mxfp8":
        return (_MXFP8_BLOCKS,)
    if size is None:
        return ("tensor", "row") if fields.has("weight_block_size") else ("tensor", "row", _DEFAULT_BLOCKS)
    return (checked_blocks(size, key="weight_block_size", where=fields.where),)


def checked_blocks(size: object, *, key: str, where: str) -> BlockShape:
    """Return the blocks that a list of two positive integers says; ConfigError for anything else."""
    if (
        not isinstance(size, list)
        or len(size) != 2  # noqa: PLR2004 - rows and columns
        or not all(type(n) is int and 0 < n < _MAX_BLOCK for n in size)
    ):
        raise ConfigError(f"`{key}` in {where} is {size!r:.60}, wanted two positive integers")
    return BlockShape(*size)


def _scales(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """Collect the scale of each weight, by the weight's name."""
    scales: dict[str, TensorSource] = {}
    for name, source in tensors.items():
        weight = _weight_of(name, tensors)
        if weight is None:
            continue
        if weight in scales:
            raise CheckpointError(
                f"tensor {shown(weight)} has two scales, {shown(scales[weight].name)} and {shown(name)}"
            )
        if weight not in tensors:
            raise CheckpointError(f"scale {shown(name)} has no weight {shown(weight)}")
        scales[weight] = source
    return scales


def _weight_of(name: str, tensors: Mapping[str, TensorSource]) -> str | None:
    """Return the name of the weight that a tensor is the scale of; None for what is no scale."""
    if is_activation_scale(name):
        return None
    if name.endswith(".qscale_weight"):
        return name.removesuffix("qscale_weight") + "weight"
    if name.endswith(".scale"):  # also what some norms call their weight
        weight = name.removesuffix("scale") + "weight"
        return weight if weight in tensors and tensors[weight].dtype in FLOAT8_TYPES else None
    for suffix in ("_scale_inv", "_scale"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return None


def _decoder(weight: TensorSource, scale: TensorSource | None, declared: Declared) -> ScaledTensor:
    name = weight.name
    if scale is None:
        raise CheckpointError(
            f"tensor {shown(name)} is {weight.dtype.value} without a scale, wanted {_spellings(name)}"
        )
    check_weight(weight, scale)
    if weight.dtype not in declared.stored:
        wanted = " or ".join(dtype.value for dtype in declared.stored)
        raise CheckpointError(f"tensor {shown(name)} is {weight.dtype.value}, {declared.where} says {wanted}")
    refuse_left_out(declared.left_out, name.removesuffix(".weight"), name, declared.where)
    blocks = blocks_of(weight.shape, scale, declared.blocks, declared.where)
    grid = factor_grid(scale, weight.shape, blocks)
    return ScaledTensor(name, weight.shape, declared.dtype, ByteCodes(weight), grid, blocks.cols)


def check_weight(weight: TensorSource, scale: TensorSource) -> None:
    """Check the types of a weight and its scale, and the number of dimensions; CheckpointError, UnsupportedError."""
    if weight.dtype in {StoredType.I8, StoredType.U8}:
        raise UnsupportedError(
            f"tensor {shown(weight.name)} is {weight.dtype.value} with the scale {shown(scale.name)}: "
            "4 bits, which this version does not decode here",
            hint=_16_BIT,
        )
    if weight.dtype not in FLOAT8_TYPES:
        raise CheckpointError(
            f"tensor {shown(weight.name)} is {weight.dtype.value} but has the scale of an 8-bit float, "
            f"{shown(scale.name)}"
        )
    if scale.dtype not in _SCALE_TYPES:
        wanted = ", ".join(dtype.value for dtype in _SCALE_TYPES)
        raise CheckpointError(f"scale {shown(scale.name)} is {scale.dtype.value}, wanted one of {wanted}")
    if not 2 <= len(weight.shape) <= _MAX_DIMENSIONS or 0 in weight.shape:  # noqa: PLR2004 - rows and columns
        raise CheckpointError(
            f"tensor {shown(weight.name)} has shape {weight.shape}, wanted a matrix or a stack of some"
        )


def blocks_of(shape: Shape, scale: TensorSource, possible: tuple[BlockShape | str, ...], where: str) -> BlockShape:
    """Return the first of the possible blocks that a scale's shape is the grid of.

    possible: blocks, or `tensor` or `row`. CheckpointError, with both sides, if none is.
    """
    kinds = {"tensor": whole(shape), "row": each_row(shape)}
    for kind in possible:
        blocks = kinds[kind] if isinstance(kind, str) else kind
        if is_grid(scale.shape, blocks.grid(shape)):
            return blocks
    wanted = " or ".join(_said(kind, kinds, shape) for kind in possible)
    raise CheckpointError(
        f"scale {shown(scale.name)} of a weight of {shape} has shape {scale.shape}; {where} says {wanted}"
    )


def _said(kind: BlockShape | str, kinds: Mapping[str, BlockShape], shape: Shape) -> str:
    if isinstance(kind, str):
        return f"one a {kind}, {kinds[kind].grid(shape)}"
    return f"blocks of {kind.rows}x{kind.cols}, {kind.grid(shape)}"


def _spellings(name: str) -> str:
    return f"{shown(name + '_scale_inv')} or {shown(name + '_scale')}"
