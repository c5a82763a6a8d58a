"""What a compressed-tensors section says: groups of modules, and how the weights of each are quantized.

    config_groups     {name: {targets, weights: {num_bits, type, symmetric, strategy, group_size, …}, format}}
    format            of the groups that do not say theirs; `mixed-precision` where they differ
    ignore, targets   module names, class names, or `re:` and a regular expression

Which group a module belongs to, its tensors say: bits, groups and zero points show in their shapes. So a stranger's
regular expressions are never run. Source: compressed-tensors 0.20.0, quantization/quant_args.py, quant_scheme.py and
compressors/format.py for what is inferred where nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from convert.checkpoint.packed.fp8 import checked_blocks
from convert.checkpoint.packed.module_names import read_names
from convert.checkpoint.packed.scaled import BlockShape, each_row, whole
from convert.errors import ConfigError, UnsupportedError
from convert.fields import Fields
from convert.shown import shown

if TYPE_CHECKING:
    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Shape

HINT: Final = "get the 16-bit checkpoint, or decompress it with compressed-tensors and save that"
_MAX_GROUPS: Final = 256  # distinct ways to quantize in one model; a hostile config may list any number
_MAX_SIZE: Final = 1 << 31


class Layout(Enum):
    """How a module's codes lie."""

    BYTES = "int-quantized, float-quantized, naive-quantized"  # weight: I8 or F8_E4M3
    WORDS = "pack-quantized"  # weight_packed: I32
    NVFP4 = "nvfp4-pack-quantized"  # weight_packed: U8; weight_scale: F8_E4M3; weight_global_scale
    MXFP4 = "mxfp4-pack-quantized"  # weight_packed: U8; weight_scale: U8
    MXFP8 = "mxfp8-quantized"  # weight: F8_E4M3; weight_scale: U8
    DENSE = "dense"  # nothing is packed


_LAYOUTS: Final[Mapping[str, Layout]] = {
    "int-quantized": Layout.BYTES,
    "float-quantized": Layout.BYTES,
    "naive-quantized": Layout.BYTES,
    "pack-quantized": Layout.WORDS,
    "nvfp4-pack-quantized": Layout.NVFP4,
    "mxfp4-pack-quantized": Layout.MXFP4,
    "mxfp8-quantized": Layout.MXFP8,
    "dense": Layout.DENSE,
    "fakequant": Layout.DENSE,
}
_UNSAID: Final = (None, "mixed-precision")
_STRATEGIES: Final = ("tensor", "channel", "group", "block", "tensor_group")


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of one group are quantized.

    group: its name. kind: `int` or `float`. strategy: one scale a tensor, channel (row), group of a row, or block.
    size: of a group of columns, or a block. by_activation: columns are in the groups that `weight_g_idx` lists.
    targets: names of modules; patterns are among them, and match no name.
    """

    group: str
    layout: Layout
    bits: int
    kind: str
    symmetric: bool
    strategy: str
    size: BlockShape | None
    by_activation: bool
    targets: frozenset[str]

    def blocks(self, shape: Shape) -> BlockShape:
        """Return how many rows and columns of a weight share a scale."""
        if self.size is None:
            return whole(shape) if self.strategy == "tensor" else each_row(shape)
        return BlockShape(self.size.rows, self.size.cols)

    def __str__(self) -> str:
        size = "" if self.size is None else f" of {self.size.cols}"
        if self.strategy == "block" and self.size is not None:
            size = f" of {self.size.rows}x{self.size.cols}"
        zero = "symmetric" if self.symmetric else "with zero points"
        what = f"{self.layout.value}, {self.kind} {self.bits}"
        return f"{shown(self.group)} ({what}, one scale a {self.strategy}{size}, {zero})"


@dataclass(frozen=True, slots=True)
class CompressionConfig:
    """The section, read: the schemes of its groups, and the modules that it leaves out by name."""

    schemes: tuple[Scheme, ...]
    left_out: frozenset[str]
    where: str


def read_compression_config(quantization: Quantization) -> CompressionConfig:
    """Read and check the section.

    Raises ConfigError for values of the wrong type or absurd ones; UnsupportedError for formats that are not decoded,
    sparsity, and transforms that the model would have to apply when it runs.
    """
    fields = quantization.fields
    _refuse_sparsity(fields)
    _refuse_transforms(fields)
    overall = fields.name("format")
    groups = fields.mapping("config_groups")
    if len(groups) > _MAX_GROUPS:
        found = f"{len(groups)} config groups, at most {_MAX_GROUPS} are read"
        raise UnsupportedError(f"{fields.where} has {found}", hint=HINT)
    schemes = [_scheme(name, group, overall, fields.where) for name, group in groups.items()]
    return CompressionConfig(
        tuple(scheme for scheme in schemes if scheme is not None), read_names(fields, "ignore"), fields.where
    )


def _refuse_sparsity(fields: Fields) -> None:
    sparse = fields.inner("sparsity_config").name("format")
    if sparse not in {None, "dense"}:
        raise UnsupportedError(
            f"{fields.where} says that weights are {shown(sparse)}: sparsity is not decoded", hint=HINT
        )


def _refuse_transforms(fields: Fields) -> None:
    if fields.inner("transform_config").mapping("config_groups"):
        raise UnsupportedError(
            f"{fields.where} has a `transform_config`: "
            "activations are rotated when the model runs, which GGUF cannot say",
            hint=HINT,
        )


def _scheme(name: str, group: object, overall: str | None, where: str) -> Scheme | None:
    """Read a group; None for one that quantizes no weights."""
    where = f"{shown(name)} of {where}"
    if isinstance(group, list):
        raise UnsupportedError(f"{where} names a preset by its targets only, wanted its scheme", hint=HINT)
    if not isinstance(group, Mapping):
        raise ConfigError(f"{where} is {group!r:.60}, wanted an object")
    fields = Fields(group, where)
    targets = read_names(fields, "targets")
    weights = fields.inner("weights")
    if not weights.values:
        return None
    bits = weights.integer("num_bits")
    kind = weights.name("type") or "int"
    strategy, size = _strategy(weights)
    arguments = _Arguments(8 if bits is None else bits, kind, size, weights, fields)
    return Scheme(
        group=name,
        layout=_layout(arguments, fields.name("format"), overall),
        bits=arguments.bits,
        kind=kind,
        symmetric=weights.get("symmetric") is None or weights.flag("symmetric"),
        strategy=strategy,
        size=size,
        by_activation=_by_activation(weights),
        targets=targets,
    )


@dataclass(frozen=True, slots=True)
class _Arguments:
    """What a layout is inferred from."""

    bits: int
    kind: str
    size: BlockShape | None
    weights: Fields
    group: Fields


def _strategy(weights: Fields) -> tuple[str, BlockShape | None]:
    strategy = weights.name("strategy")
    group_size = weights.integer("group_size")
    if group_size is not None and not (group_size == -1 or 0 < group_size < _MAX_SIZE):
        raise ConfigError(f"`group_size` in {weights.where} is {group_size}, wanted -1 or a positive number")
    if strategy is None:
        strategy = "tensor" if group_size is None else "channel" if group_size == -1 else "group"
    if strategy not in _STRATEGIES:
        raise UnsupportedError(
            f"`strategy` in {weights.where} is {shown(strategy)}, wanted one of {_STRATEGIES}", hint=HINT
        )
    if strategy == "block":
        return strategy, checked_blocks(_structure(weights), key="block_structure", where=weights.where)
    if strategy in {"group", "tensor_group"}:
        if group_size is None or group_size < 1:
            raise ConfigError(f"`group_size` in {weights.where} is {group_size}, wanted a positive number for groups")
        return strategy, BlockShape(1, group_size)
    return strategy, None


def _structure(weights: Fields) -> object:
    """Return `block_structure`; older files write it as a string: `128x128`."""
    structure = weights.get("block_structure")
    if isinstance(structure, str) and len(structure) < 32:  # noqa: PLR2004 - two numbers
        sizes = structure.split("x")
        return [int(size) for size in sizes] if all(size.isdecimal() for size in sizes) else structure
    return structure


def _layout(arguments: _Arguments, own: str | None, overall: str | None) -> Layout:
    said = own if own is not None else overall
    if said in _UNSAID:
        layout = _inferred(arguments)
    elif said in _LAYOUTS:
        layout = _LAYOUTS[said]
    else:
        raise UnsupportedError(
            f"the format of {arguments.group.where} is {shown(said)}, which this version does not decode", hint=HINT
        )
    _check_numbers(arguments, layout)
    return layout


def _inferred(arguments: _Arguments) -> Layout:
    """Infer the format as compressed-tensors does (compressors/format.py, infer_module_format; each can_compress)."""
    cols = arguments.size.cols if arguments.size is not None and arguments.size.rows == 1 else None
    if arguments.kind == "float" and arguments.bits == 4:  # noqa: PLR2004
        return Layout.MXFP4 if cols == 32 else Layout.NVFP4  # noqa: PLR2004
    scale_dtype = arguments.weights.name("scale_dtype")
    if arguments.kind == "float" and cols == 32 and scale_dtype in {"uint8", "torch.uint8"}:  # noqa: PLR2004
        return Layout.MXFP8
    inputs = arguments.group.mapping("input_activations")
    is_packed = not inputs and arguments.kind == "int" and arguments.bits <= 8  # noqa: PLR2004
    return Layout.WORDS if is_packed else Layout.BYTES


def _check_numbers(arguments: _Arguments, layout: Layout) -> None:
    """Check that the numbers are of a kind that the layout holds."""
    wanted = {
        Layout.BYTES: {("int", bits) for bits in range(1, 9)} | {("float", 8)},
        Layout.WORDS: {("int", bits) for bits in range(1, 9)},
        Layout.NVFP4: {("float", 4)},
        Layout.MXFP4: {("float", 4)},
        Layout.MXFP8: {("float", 8)},
    }
    if layout in wanted and (arguments.kind, arguments.bits) not in wanted[layout]:
        raise UnsupportedError(
            f"the weights of {arguments.group.where} are {shown(arguments.kind)} of {arguments.bits} bits "
            f"in {shown(layout.value)}, which this version does not decode",
            hint=HINT,
        )


def _by_activation(weights: Fields) -> bool:
    """Tell whether columns were put into groups by their activations: `actorder` is `group`, or true in older files."""
    actorder = weights.get("actorder")
    if isinstance(actorder, bool):
        return actorder
    return weights.name("actorder") in {"group", "dynamic"}
