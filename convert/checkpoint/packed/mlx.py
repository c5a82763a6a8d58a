"""MLX's quantized directories, as mlx-lm saves them: words of codes, and a scale, mostly a bias too, for each group.

    X.weight  U32 (out, in * bits / 32)    codes, a bit stream along each row, the lowest bits first
    X.scales  (out, groups)                affine: a float type; mxfp4, mxfp8: U8, 2 ** (byte - 127); nvfp4: U8, e4m3
    X.biases  (out, groups)                affine only: weight = scale * code + bias

    mode      bits                 group of           weight
    affine    2, 3, 4, 5, 6, 8     any, mostly 64     in the scales' type, which the product and the sum are rounded to
    mxfp4     4 (e2m1)             32                 in bfloat16, exact
    nvfp4     4 (e2m1)             16                 in bfloat16, exact
    mxfp8     8 (e4m3)             32                 in bfloat16, exact but for the least

Experts are stacks, `switch_mlp.gate_proj` (experts, out, …); they are cut, and go by Hugging Face's names, one by one.
`quantization` in config.json holds `group_size`, `bits` and `mode`, and what differs by module; false for one that is
left as it is.
The values are those of `mlx.core.dequantize` 0.32 on a CPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.integers import Integers
from convert.checkpoint.packed.packed_module import FLOAT_TYPES, PackedModule
from convert.checkpoint.packed.packed_words import PackedCodes
from convert.checkpoint.packed.scaled import ByteCodes, FactorGrid, NibbleCodes, ScaledTensor
from convert.checkpoint.packed.values import pieces, rounded, to_bytes
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, ConfigError
from convert.fields import Fields
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.checkpoint.packed.integers import Codes
    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Shape, Tensor, TensorSource
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array

AFFINE: Final = "affine"
_BITS: Final = (2, 3, 4, 5, 6, 8)
# mode: bits, group size, what its bytes of scales are.
_FLOATS: Final[Mapping[str, tuple[int, int, StoredType]]] = {
    "mxfp4": (4, 32, StoredType.U8),
    "nvfp4": (4, 16, StoredType.F8_E4M3),
    "mxfp8": (8, 32, StoredType.U8),
}
_WORD_BITS: Final = 32
_SUFFIXES: Final = ("weight", "scales", "biases")
_STACK: Final = re.compile(r"(.+)\.switch_mlp\.(\w+)\.(\w+)")
_EXPERT: Final = re.compile(r"(.+)\.experts\.\d+\.(\w+)")
_MIXTRAL: Final[Mapping[str, str]] = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_MLX_NAMES: Final = {theirs: ours for ours, theirs in _MIXTRAL.items()}


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a module is packed, and where that is said."""

    mode: str
    bits: int
    group_size: int
    where: str

    def __str__(self) -> str:
        return f"{self.mode}, {self.bits} bits and groups of {self.group_size}"


@dataclass(frozen=True, slots=True)
class AffineTensor:
    """A weight of codes that are scaled and shifted, in the scales' type."""

    name: str
    shape: Shape
    dtype: StoredType
    codes: PackedCodes
    scales: FactorGrid
    biases: FactorGrid

    @property
    def nbytes(self) -> int:
        """Bytes of the files that all rows are made from."""
        return self.codes.nbytes + self.scales.nbytes + self.biases.nbytes

    def integers(self) -> Integers:
        """See OfIntegers."""
        group_cols = self.shape[-1] // self.scales.source.shape[1]
        return Integers(self.codes, self.codes.span, self.scales, group_cols, biases=self.biases)

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        with np.errstate(all="ignore"):  # a scale may be NaN or infinite; the run says where
            for rows in pieces(len(out), self.shape[-1]):
                start = first + rows.start
                values = self.codes.read(files, start, len(rows))
                groups = values.reshape(len(rows), self.scales.source.shape[1], -1)
                products = rounded(groups * self.scales.read(files, start, len(rows))[:, :, None], self.dtype)
                sums: F32Array = products + self.biases.read(files, start, len(rows))[:, :, None]
                out[rows.start : rows.stop] = to_bytes(sums.reshape(values.shape), self.dtype)


def marks_mlx(source: TensorSource) -> bool:
    """Say whether a tensor can only be MLX's: nobody else calls words a weight."""
    return source.name.endswith(".weight") and source.dtype is StoredType.U32


def unpack_mlx(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give packed weights as decoders, and experts one by one; see PackedFormat.unpack.

    Raises CheckpointError for parts that are missing, alone or contradict the config; ConfigError for that.
    """
    cut = {part.name: part for source in tensors.values() for part in _experts(source)}
    modules: dict[str, dict[str, TensorSource]] = {
        name.rpartition(".")[0]: {}
        for name, source in cut.items()
        if name.endswith((".scales", ".biases")) or marks_mlx(source)
    }
    for name, source in cut.items():
        module, _, suffix = name.rpartition(".")
        if module in modules and suffix in _SUFFIXES:
            modules[module][suffix] = source
    out: dict[str, Tensor] = {}
    for name, source in cut.items():
        module, _, suffix = name.rpartition(".")
        if suffix not in modules.get(module, ()):
            out[name] = source
        elif f"{module}.weight" not in out:
            out[f"{module}.weight"] = _decode(quantization, PackedModule(module, modules[module]))
    return out


def _experts(source: TensorSource) -> Iterator[TensorSource]:
    """Cut a stack of experts; give what is none as it is."""
    found = _STACK.fullmatch(source.name)
    if found is None or len(source.shape) != 3 or 0 in source.shape:  # noqa: PLR2004
        yield source
        return
    parent, part, suffix = found.groups()
    names = _MIXTRAL if parent.endswith("block_sparse_moe") else {}
    nbytes = source.nbytes // source.shape[0]
    for index in range(source.shape[0]):
        name = f"{parent}.experts.{index}.{names.get(part, part)}.{suffix}"
        yield replace(source, name=name, offset=source.offset + index * nbytes, shape=source.shape[1:])


def _scheme(quantization: Quantization, module: str) -> Scheme:
    """Read what is said of a module: by its name, or by one that ends with it, where a prefix was taken off."""
    options, where = quantization.options, quantization.where
    own = options.get(module, next((value for key, value in options.items() if key.endswith(f".{module}")), None))
    if own is False:
        raise CheckpointError(f"{where} says that {shown(module)} is not quantized, but it is")
    if isinstance(own, Mapping):
        options, where = {**options, **own}, f"{shown(module)} in {where}"
    fields = Fields(options, where)
    mode = fields.name("mode") or AFFINE
    scheme = Scheme(mode, fields.size("bits"), fields.size("group_size"), where)
    if mode != AFFINE and mode not in _FLOATS:
        raise ConfigError(f"`mode` in {where} is {shown(mode)}, wanted {', '.join((AFFINE, *_FLOATS))}")
    said = (scheme.bits, scheme.group_size)
    if (mode == AFFINE and scheme.bits not in _BITS) or (mode in _FLOATS and said != _FLOATS[mode][:2]):
        raise ConfigError(f"{where} says {scheme}, which MLX does not have")
    return scheme


def _decode(quantization: Quantization, module: PackedModule) -> Tensor:
    scheme = _scheme(quantization, _in_config(module.name))
    words = module.part("weight", (StoredType.U32,), n_dims=2)
    is_affine = scheme.mode == AFFINE
    scales = module.part("scales", FLOAT_TYPES if is_affine else (StoredType.U8,), n_dims=2)
    biases = module.part("biases", (scales.dtype,), n_dims=2) if is_affine else scales
    shape = (words.shape[0], scales.shape[1] * scheme.group_size)
    fits = words.shape[1] * _WORD_BITS == shape[1] * scheme.bits
    if not fits or scales.shape != biases.shape or words.shape[0] != scales.shape[0]:
        raise CheckpointError(
            f"packed module {shown(module.name)}: {scheme.where} says {scheme}, its tensors are {module.shapes()}"
        )
    if not is_affine and "biases" in module.parts:
        raise CheckpointError(f"packed module {shown(module.name)} is {scheme.mode}, and has `biases`")
    name = f"{module.name}.weight"
    if is_affine:
        codes = PackedCodes(words, scheme.bits, shape[1], zero=0)
        return AffineTensor(
            name, shape, scales.dtype, codes, *(FactorGrid(each, 1, shape[0]) for each in (scales, biases))
        )
    factors = FactorGrid(replace(scales, dtype=_FLOATS[scheme.mode][2]), 1, shape[0])
    numbers = replace(words, dtype=StoredType.F8_E4M3, shape=shape)
    codes_of: Codes = ByteCodes(numbers) if scheme.bits == 8 else NibbleCodes(words)  # noqa: PLR2004
    return ScaledTensor(name, shape, StoredType.BF16, codes_of, factors, scheme.group_size)


def _in_config(module: str) -> str:
    """Name the stack that an expert was cut from, as the config does."""
    found = _EXPERT.fullmatch(module)
    if found is None:
        return module
    parent, part = found.groups()
    return f"{parent}.switch_mlp.{_MLX_NAMES.get(part, part)}"
