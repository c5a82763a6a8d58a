"""A module of a compressed-tensors checkpoint: its stored parts, the shape that they say, and which scheme they fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.checkpoint.packed.compressed_tensors_config import HINT, Layout
from convert.checkpoint.packed.float8 import FLOAT8_TYPES
from convert.checkpoint.packed.packed_words import n_words
from convert.checkpoint.packed.scaled import FLOAT_TYPES
from convert.checkpoint.packed.values import as_integers, read_small
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.compressed_tensors_config import Scheme
    from convert.checkpoint.source import Shape, TensorSource

PARTS: Final = (
    "weight_packed",
    "weight_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "weight_global_scale",
)
_SPARSE_PARTS: Final = ("compressed", "bitmask", "row_offsets", "scale_packed", "meta")
_PLAIN_TYPES: Final = (StoredType.I8, *FLOAT8_TYPES)
_STORED: Final[Mapping[tuple[Layout, str], tuple[StoredType, ...]]] = {
    (Layout.BYTES, "int"): (StoredType.I8,),
    (Layout.BYTES, "float"): FLOAT8_TYPES,
    (Layout.WORDS, "int"): (StoredType.I32,),
    (Layout.NVFP4, "float"): (StoredType.U8,),
    (Layout.MXFP4, "float"): (StoredType.U8,),
    (Layout.MXFP8, "float"): FLOAT8_TYPES,
}
_SCALE_TYPES: Final[Mapping[Layout, tuple[StoredType, ...]]] = {
    Layout.BYTES: FLOAT_TYPES,
    Layout.WORDS: FLOAT_TYPES,
    Layout.NVFP4: (StoredType.F8_E4M3,),
    Layout.MXFP4: (StoredType.U8,),
    Layout.MXFP8: (StoredType.U8,),
}
_MAX_SIZE: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class Module:
    """One quantized module. main: what holds its codes, `weight` or `weight_packed`. shape: the model's weight's."""

    name: str
    main: TensorSource
    parts: Mapping[str, TensorSource]
    shape: Shape

    @property
    def scale(self) -> TensorSource:
        """Every module has one."""
        return self.parts["weight_scale"]

    @property
    def zeros(self) -> TensorSource | None:
        """None for symmetric codes."""
        return self.parts.get("weight_zero_point")

    @property
    def has_packed_zeros(self) -> bool:
        """Whether zero points are packed into words; files of versions before 0.10 have them as I8."""
        return self.zeros is not None and self.zeros.dtype is StoredType.I32

    def __str__(self) -> str:
        held = [f"`{source.name.rpartition('.')[2]}` {source.dtype.value} {source.shape}" for source in self._all()]
        return ", ".join(held)

    def _all(self) -> tuple[TensorSource, ...]:
        return (self.main, *(source for source in self.parts.values() if source is not self.main))


def read_modules(tensors: Mapping[str, TensorSource]) -> dict[str, Module]:
    """Gather the parts of every quantized module, by its name.

    Raises CheckpointError for parts that are alone, doubled or of a shape that cannot be; UnsupportedError for sparse
    modules, and for weights that are stored as floats beside their scales.
    """
    parts: dict[str, dict[str, TensorSource]] = {}
    for name, source in tensors.items():
        module, _, suffix = name.rpartition(".")
        if suffix in _SPARSE_PARTS and f"{module}.weight" not in tensors:
            raise UnsupportedError(f"tensor {shown(name)} is part of a sparse weight, which is not decoded", hint=HINT)
        if suffix in PARTS or (suffix == "weight" and source.dtype in _PLAIN_TYPES):
            parts.setdefault(module, {})[suffix] = source
    return {name: _module(name, held, tensors) for name, held in parts.items()}


def _module(name: str, parts: Mapping[str, TensorSource], tensors: Mapping[str, TensorSource]) -> Module:
    packed, plain = parts.get("weight_packed"), tensors.get(f"{name}.weight")
    if packed is not None and plain is not None:
        raise CheckpointError(f"module {shown(name)} has both `weight` and `weight_packed`")
    main = packed if packed is not None else parts.get("weight")
    if main is None:
        _refuse_alone(name, parts, plain)
    assert main is not None  # noqa: S101 - the line above has raised
    if "weight_scale" not in parts:
        raise CheckpointError(
            f"tensor {shown(main.name)} is {main.dtype.value} without {shown(f'{name}.weight_scale')}"
        )
    for source in parts.values():
        if source.is_transposed or 0 in source.shape:
            raise CheckpointError(f"tensor {shown(source.name)} of shape {source.shape} is empty or stored transposed")
    if len(main.shape) != 2:  # noqa: PLR2004 - rows and columns
        raise UnsupportedError(
            f"tensor {shown(main.name)} has shape {main.shape}, only matrices are decoded", hint=HINT
        )
    return Module(name, main, parts, _shape(main, parts))


def _refuse_alone(name: str, parts: Mapping[str, TensorSource], plain: TensorSource | None) -> None:
    part = next(iter(parts.values()))
    if plain is None:
        wanted = f"{shown(f'{name}.weight')} or {shown(f'{name}.weight_packed')}"
        raise CheckpointError(f"tensor {shown(part.name)} has no {wanted} that it belongs to")
    raise UnsupportedError(
        f"tensor {shown(plain.name)} is {plain.dtype.value} beside {shown(part.name)}: it is not compressed yet",
        hint="save the model with compressed-tensors, or without its quantization",
    )


def _shape(main: TensorSource, parts: Mapping[str, TensorSource]) -> Shape:
    if main is not parts.get("weight_packed"):
        return main.shape
    if main.dtype is StoredType.U8:  # two numbers a byte
        return main.shape[0], 2 * main.shape[1]
    if main.dtype is not StoredType.I32:
        raise CheckpointError(f"tensor {shown(main.name)} is {main.dtype.value}, wanted I32 or U8")
    return _declared_shape(main, parts.get("weight_shape"))


def _declared_shape(main: TensorSource, source: TensorSource | None) -> Shape:
    """Read `weight_shape`: the columns do not follow from the words, the last may be partly empty."""
    if source is None:
        wanted = main.name.replace("_packed", "_shape")
        raise CheckpointError(f"tensor {shown(main.name)} has no {shown(wanted)}")
    if source.dtype not in {StoredType.I64, StoredType.I32} or source.shape != (2,):
        raise CheckpointError(
            f"tensor {shown(source.name)} is {source.dtype.value} of shape {source.shape}, wanted two I64"
        )
    n_rows, n_cols = (int(size) for size in as_integers(read_small(source), source.dtype))
    if n_rows != main.shape[0] or not 0 < n_cols < _MAX_SIZE or n_words(n_cols, 1) > main.shape[1]:
        raise CheckpointError(
            f"tensor {shown(source.name)} says {(n_rows, n_cols)}, {shown(main.name)} is I32 {main.shape}"
        )
    return n_rows, n_cols


def mismatch(scheme: Scheme, module: Module) -> str | None:
    """Say what a scheme wants that a module does not have; None if they fit."""
    if (stored := _wrong_codes(scheme, module)) is not None:
        return stored
    grid = scheme.blocks(module.shape).grid(module.shape)
    if scheme.strategy in {"group", "tensor_group"} and module.shape[1] % scheme.blocks(module.shape).cols:
        return f"columns in whole groups of {scheme.blocks(module.shape).cols}, the weight is {module.shape}"
    types = _SCALE_TYPES[scheme.layout]
    is_one = scheme.strategy == "tensor" and module.scale.n_elements == 1
    if module.scale.dtype not in types or not (is_one or module.scale.shape == grid):
        return f"`weight_scale` {_listed(types)} {grid}"
    if (module.parts.get("weight_global_scale") is None) is (scheme.layout is Layout.NVFP4):
        return ("a" if scheme.layout is Layout.NVFP4 else "no") + " `weight_global_scale`"
    if ("weight_g_idx" in module.parts) is not scheme.by_activation:
        return "`weight_g_idx`, for `actorder: group`" if scheme.by_activation else "no `weight_g_idx`"
    return _wrong_zeros(scheme, module)


def _wrong_codes(scheme: Scheme, module: Module) -> str | None:
    types = _STORED.get((scheme.layout, scheme.kind), ())
    is_packed = scheme.layout in {Layout.WORDS, Layout.NVFP4, Layout.MXFP4}
    suffix = "weight_packed" if is_packed else "weight"
    if module.main is not module.parts.get(suffix) or module.main.dtype not in types:
        return f"`{suffix}` {_listed(types)}" if types else "plain weights"
    if scheme.layout is not Layout.WORDS:
        return None
    wanted = (module.shape[0], n_words(module.shape[1], scheme.bits))
    return None if module.main.shape == wanted else f"`weight_packed` {wanted} for {module.shape}"


def _wrong_zeros(scheme: Scheme, module: Module) -> str | None:
    zeros = module.zeros
    if scheme.symmetric:
        return None if zeros is None else "no `weight_zero_point`"
    if zeros is None:
        return "`weight_zero_point`"
    n_rows, *groups = module.scale.shape or (1,)
    if scheme.layout is Layout.WORDS and scheme.strategy in {"group", "channel"} and module.has_packed_zeros:
        wanted = (n_words(n_rows, scheme.bits), *groups)
        return None if zeros.shape == wanted else f"`weight_zero_point` I32 {wanted}"
    types = FLOAT8_TYPES if scheme.kind == "float" else (StoredType.I8,)
    if zeros.dtype in types and zeros.shape == module.scale.shape:
        return None
    return f"`weight_zero_point` {_listed(types)} {module.scale.shape}"


def _listed(types: tuple[StoredType, ...]) -> str:
    return "/".join(dtype.value for dtype in types)
