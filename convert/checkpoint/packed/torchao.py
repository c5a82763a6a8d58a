"""torchao, as transformers saves it to safetensors: the tensors of a class, and what class it is in the header.

    Int8Tensor                 qdata I8 as the weight, scale float, zero_point I8 or not there; a block each
    IntxUnpackedToInt8Tensor   the same, 1 to 8 bits in a byte each; zero_point I8 or float
    Float8Tensor               qdata an 8-bit float, scale F32
    Int4Tensor                 qdata I8 (out, in / 2): signed nibbles, the low one first; scale and zero_point
                               (in / group, out)

The first two are (code - zero_point), rounded to the weight's type, times scale, rounded again, as torchao 0.18.0
(quantization/quant_primitives.py, _dequantize_affine) computes them; Float8Tensor is code * scale in float32, rounded
(_dequantize_affine_float8). Int4Tensor has no `dequantize`: its kernel takes code * scale + zero_point, which torchao
itself computes in float32, and rounds to the weight's type, in qat/fake_quantizer.py,
Int4WeightFakeQuantizer._bf16_activations_forward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from convert.checkpoint.packed.float8 import FLOAT8_TYPES
from convert.checkpoint.packed.packed_module import FLOAT_TYPES
from convert.checkpoint.packed.scaled import BlockShape, ByteCodes, FactorGrid, ScaledTensor, factor_grid
from convert.checkpoint.packed.torchao_metadata import PackedWeight, is_sizes, read_packed_weights
from convert.checkpoint.packed.values import as_float32, pieces, read_window, to_bytes
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from convert.checkpoint.packed.packed_module import PackedModule
    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Shape, Tensor, TensorSource
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array

_REMEDY: Final = (
    "get the 16-bit checkpoint that it was made from, or load it with transformers and torchao, replace each weight by "
    "`weight.dequantize()` and save that"
)
# Classes whose bytes lie as one kernel wants them (torchao 0.18.0, quantization/quantize_/workflows).
_KERNEL_LAYOUTS: Final = {
    "Int4TilePackedTo4dTensor": "4 bits in the order of a CUDA kernel (tinygemm)",
    "Int4PreshuffledTensor": "4 bits in the order of a CUDA kernel",
    "Int4PlainInt32Tensor": "4 bits in the order of Intel's or Ascend's kernels",
}
_ACTIVATION_DATA: Final = ("act_quant_scale", "act_quant_zero_point")
_KINDS_OF_CONFIG: Final = {
    "Int8WeightOnlyConfig": ("Int8Tensor",),
    "Int8DynamicActivationInt8WeightConfig": ("Int8Tensor",),
    "Int8StaticActivationInt8WeightConfig": ("Int8Tensor",),
    "Int8DynamicActivationIntxWeightConfig": ("IntxUnpackedToInt8Tensor",),
    "IntxWeightOnlyConfig": ("IntxUnpackedToInt8Tensor",),
    "Int4WeightOnlyConfig": ("Int4Tensor", *_KERNEL_LAYOUTS),
    "Float8DynamicActivationInt4WeightConfig": ("Int4Tensor", *_KERNEL_LAYOUTS),
    "Float8WeightOnlyConfig": ("Float8Tensor",),
    "Float8DynamicActivationFloat8WeightConfig": ("Float8Tensor",),
}

_OTHER_CONFIGS: Final = (
    "FqnToConfig",
    "ModuleFqnToConfig",
    "Float8MMConfig",
)  # which say nothing of weights themselves


@dataclass(frozen=True, slots=True)
class Int4Tensor:
    """A weight of signed nibbles in groups along a row, each with a scale and a zero point that is added."""

    name: str
    nbytes: int
    codes: TensorSource
    scale: TensorSource
    zero_point: TensorSource

    @property
    def dtype(self) -> StoredType:
        """The scales' type, which is the weight's."""
        return self.scale.dtype

    @property
    def shape(self) -> Shape:
        """The weight's shape."""
        return self.codes.shape[0], self.codes.shape[1] * 2

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        scale, zero_point = (
            self._per_group(source, files, first, len(out)) for source in (self.scale, self.zero_point)
        )
        with np.errstate(over="ignore", invalid="ignore"):  # a scale may be infinite; the run says where
            for rows in pieces(len(out), self.shape[1]):
                part = slice(rows.start, rows.stop)
                values = self._codes(files, range(first + rows.start, first + rows.stop))
                values *= scale[part]
                values += zero_point[part]
                out[part] = to_bytes(values.reshape(len(rows), -1), self.dtype)

    def _codes(self, files: SourceFiles, rows: range) -> F32Array:
        """Return the codes of some rows: float32 (n_rows, n_groups, group)."""
        raw = read_window(self.codes, files, rows=rows, cols=range(self.codes.shape[1]))
        nibbles = np.stack([raw << np.uint8(4), raw], axis=-1).view(np.int8) >> np.int8(4)
        values: F32Array = nibbles.reshape(len(rows), self.scale.shape[0], -1).astype(np.float32)
        return values

    def _per_group(self, source: TensorSource, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        """Return a scale or zero point for each group of some rows: float32 (n_rows, n_groups, 1)."""
        raw = read_window(source, files, rows=range(source.shape[0]), cols=range(first, first + n_rows))
        values: F32Array = as_float32(raw, source.dtype).T[:, :, None]
        return values


def marks_torchao(source: TensorSource) -> bool:
    """Say whether a tensor can only be torchao's: a parameter of a module that a class has taken apart."""
    last = source.name.rpartition(".")[2]
    return last.startswith("_") and last.endswith("_qdata")


def torchao_notes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the line that says what is left out; nothing where nothing is."""
    n_left_out = sum(name.endswith(tuple(f"_{data}" for data in _ACTIVATION_DATA)) for name in names)
    return (f"{n_left_out} tensors that only concern quantized activations are left out",) if n_left_out else ()


def unpack_torchao(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give the weights of a torchao checkpoint: see PackedFormat. They stand where their own names would."""
    paths = list(dict.fromkeys(source.path for source in tensors.values()))
    weights = read_packed_weights(paths)
    if not weights:
        raise CheckpointError(
            f"{quantization.where} declares `torchao`, but no header of {shown(paths[0].parent)} says how",
            hint="that is lost when a tool that does not know it saves the files again; if the weights have been "
            "dequantized, take that section out",
        )
    _check_declared(quantization, weights.values())
    out: dict[str, tuple[int, Tensor]] = {}
    taken: set[str] = set()
    for name, weight in weights.items():
        module = weight.module(tensors)
        stored = {part.name for part in module.parts.values()}
        if name in tensors or not taken.isdisjoint(stored):
            twice = name if name in tensors else min(stored & taken)
            raise CheckpointError(f"weight {shown(name)} of torchao's is there twice, as {shown(twice)} too")
        taken |= stored
        out[name] = (min(paths.index(part.path) for part in module.parts.values()), _decode(weight, module))
    for name, source in tensors.items():
        if name not in taken:
            _refuse_lost(name)
            out[name] = (paths.index(source.path), source)
    return {name: out[name][1] for name in sorted(out, key=lambda name: (out[name][0], name))}


def _refuse_lost(name: str) -> None:
    if name.rpartition(".")[2].startswith("_"):
        raise CheckpointError(f"tensor {shown(name)} belongs to no weight that the metadata of the weights names")


def _check_declared(quantization: Quantization, weights: Iterable[PackedWeight]) -> None:
    """Compare what the config says with the classes; where several configs are for modules by name, with all theirs."""
    where = quantization.where
    said = quantization.options.get("quant_type")
    section = {} if isinstance(said, str) else quantization.fields.mapping("quant_type")
    configs, group_sizes = _declared(section)
    kinds = {kind for config in configs for kind in _KINDS_OF_CONFIG[config]}
    for weight in weights:
        if kinds and weight.kind not in kinds:
            listed = " and ".join(f"`{config}`" for config in configs)
            raise CheckpointError(f"{where} says {listed}, but {shown(weight.name)} is a {shown(weight.kind)}")
        size = weight.options.get("block_size")
        if len(configs) == len(group_sizes) == 1 and is_sizes(size) and size[-1:] != group_sizes:
            raise CheckpointError(
                f"{where} says groups of {group_sizes[0]}, but {shown(weight.name)} has blocks of {size}"
            )


def _declared(section: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Return the configs and the group sizes anywhere in the section; nothing where one is not known here."""
    configs: dict[str, None] = {}
    group_sizes: dict[int, None] = {}
    level: list[Any] = [section]
    while level:
        found = level.pop()
        if isinstance(found, list):
            level.extend(found)
        elif isinstance(found, dict):
            level.extend(found.values())
            kind, size = found.get("_type"), found.get("group_size")
            if isinstance(kind, str) and kind.endswith("Config") and kind not in _OTHER_CONFIGS:
                configs[kind] = None
            if type(size) is int:
                group_sizes[size] = None
    return (list(configs), list(group_sizes)) if configs.keys() <= _KINDS_OF_CONFIG.keys() else ([], [])


def _decode(weight: PackedWeight, module: PackedModule) -> Tensor:
    if weight.kind in _KERNEL_LAYOUTS or weight.kind not in _DECODERS:
        reason = _KERNEL_LAYOUTS.get(weight.kind, "a layout that this version does not decode")
        raise UnsupportedError(f"weight {shown(weight.name)} is torchao's {shown(weight.kind)}: {reason}", hint=_REMEDY)
    known, decode = _DECODERS[weight.kind]
    for data_name in module.parts:
        if data_name not in known:
            raise UnsupportedError(
                f"weight {shown(weight.name)} of torchao's `{weight.kind}` has {shown(data_name)}, without which it is "
                "not the weight of the model",
                hint="get the 16-bit checkpoint that it was made from",
            )
    return decode(weight, module)


def _decode_integers(weight: PackedWeight, module: PackedModule) -> ScaledTensor:
    codes = _part(module, "qdata", (StoredType.I8,))
    view, blocks = _blocks(weight, codes)
    dtype = weight.dtype()
    zeros = _grid(module, "zero_point", (StoredType.I8, *FLOAT_TYPES), view, blocks) if _has_zeros(module) else None
    is_float = zeros is not None and zeros.source.dtype in FLOAT_TYPES
    return ScaledTensor(
        name=weight.name,
        shape=codes.shape,
        dtype=dtype,
        codes=ByteCodes(view),
        scales=_grid(module, "scale", FLOAT_TYPES, view, blocks),
        block_cols=blocks.cols,
        zeros=replace(zeros, rounded_to=dtype) if zeros is not None and is_float else zeros,
        rounds_differences=is_float,
    )


def _has_zeros(module: PackedModule) -> bool:
    return "zero_point" in module.parts


def _decode_floats(weight: PackedWeight, module: PackedModule) -> ScaledTensor:
    codes = _part(module, "qdata", FLOAT8_TYPES)
    if weight.options.get("block_size") in (None, []):  # the class' own words for one scale
        weight = replace(weight, options={**weight.options, "block_size": [*codes.shape]})
    view, blocks = _blocks(weight, codes)
    scales = _grid(module, "scale", (StoredType.F32,), view, blocks)
    return ScaledTensor(weight.name, codes.shape, weight.dtype(), ByteCodes(view), scales, blocks.cols)


def _decode_nibbles(weight: PackedWeight, module: PackedModule) -> Int4Tensor:
    codes = _part(module, "qdata", (StoredType.I8, StoredType.U8), n_dims=(2,))
    shape = (codes.shape[0], codes.shape[1] * 2)
    rows, cols = weight.block_size(2)
    if weight.options.get("shape") != [*shape] or rows != 1 or shape[1] % cols:
        said = f"shape {weight.options.get('shape')!r:.60} in blocks of {[rows, cols]}"
        raise CheckpointError(f"tensor {shown(codes.name)} holds {shape} numbers, the metadata says {said}")
    scale, zero_point = (_part(module, name, FLOAT_TYPES, n_dims=(2,)) for name in ("scale", "zero_point"))
    for source in (scale, zero_point):
        if source.shape != (wanted := (shape[1] // cols, shape[0])):
            raise CheckpointError(f"tensor {shown(source.name)} has shape {source.shape}, wanted {wanted}")
    return Int4Tensor(weight.name, module.nbytes, codes, scale, zero_point)


def _part(
    module: PackedModule, data_name: str, types: Collection[StoredType], *, n_dims: tuple[int, ...] = (2, 3)
) -> TensorSource:
    """Return one of a weight's tensors, with one of these numbers of dimensions."""
    own = len(module.parts[data_name].shape) if data_name in module.parts else 0
    return module.part(data_name, types, n_dims=own if own in n_dims else n_dims[0])


def _blocks(weight: PackedWeight, codes: TensorSource) -> tuple[TensorSource, BlockShape]:
    """Return the codes as matrices that have scales of their own, and the blocks of those."""
    shape, block_size = codes.shape, weight.block_size(len(codes.shape))
    if any(size % step for size, step in zip(shape, block_size, strict=True)):
        raise CheckpointError(f"tensor {shown(codes.name)} of shape {shape} has no whole blocks of {list(block_size)}")
    if block_size[:-2] in ((), (1,)):
        return codes, BlockShape(*block_size[-2:])
    if block_size[:-1] == shape[:-1]:
        n_rows = prod(shape[:-1])
        return replace(codes, shape=(n_rows, shape[-1])), BlockShape(n_rows, block_size[-1])
    raise UnsupportedError(
        f"tensor {shown(codes.name)} of shape {shape} has blocks of {list(block_size)}, which are not decoded",
        hint=_REMEDY,
    )


def _grid(
    module: PackedModule, data_name: str, types: Collection[StoredType], codes: TensorSource, blocks: BlockShape
) -> FactorGrid:
    """Return the scales or zero points; dimensions of 1 may be more or fewer than the codes have."""
    source = _part(module, data_name, types, n_dims=tuple(range(5)))
    wanted = blocks.grid(codes.shape)
    if [size for size in source.shape if size != 1] != [size for size in wanted if size != 1]:
        raise CheckpointError(
            f"tensor {shown(source.name)} has shape {source.shape}, wanted {wanted}: one for each block of "
            f"{blocks.rows}x{blocks.cols} of {shown(codes.name)}"
        )
    return factor_grid(source, codes.shape, blocks)


# What each class is made of that it can be decoded with, and what does it.
_DECODERS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[PackedWeight, PackedModule], Tensor]]]] = {
    "Int8Tensor": (("qdata", "scale", "zero_point", *_ACTIVATION_DATA), _decode_integers),
    "IntxUnpackedToInt8Tensor": (("qdata", "scale", "zero_point"), _decode_integers),
    "Float8Tensor": (("qdata", "scale"), _decode_floats),
    "Int4Tensor": (("qdata", "scale", "zero_point"), _decode_nibbles),
}
