"""Packed modules: `q_proj.qweight`, `q_proj.qzeros` and so on are one module, and become its `q_proj.weight`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from convert.checkpoint.source import Tensor, TensorSource

FLOAT_TYPES: Final = (StoredType.F16, StoredType.BF16, StoredType.F32)
WORD_TYPES: Final = (StoredType.I32,)


@dataclass(frozen=True, slots=True)
class PackedModule:
    """The stored tensors of one packed module, by the last part of their names."""

    name: str
    parts: Mapping[str, TensorSource]

    @property
    def nbytes(self) -> int:
        """Bytes that all parts take in their files."""
        return sum(part.nbytes for part in self.parts.values())

    def part(self, suffix: str, types: Collection[StoredType], *, n_dims: int) -> TensorSource:
        """Return a part; CheckpointError if it is missing, empty, or of another type or number of dimensions."""
        source = self.parts.get(suffix)
        if source is None:
            held = ", ".join(f"`{part}`" for part in self.parts)
            raise CheckpointError(f"packed module {shown(self.name)} has no `{suffix}`, only {held}")
        if source.dtype not in types:
            wanted = " or ".join(dtype.value for dtype in types)
            raise CheckpointError(f"tensor {shown(source.name)} has type {source.dtype.value}, wanted {wanted}")
        if len(source.shape) != n_dims or 0 in source.shape:
            wanted = f"{n_dims} dimensions that are not empty" if n_dims else "a single number"
            raise CheckpointError(f"tensor {shown(source.name)} has shape {source.shape}, wanted {wanted}")
        if source.is_transposed:
            raise CheckpointError(f"tensor {shown(source.name)} was saved as the transpose of another, wanted its own")
        return source

    def shapes(self) -> str:
        """Return the parts' shapes, for errors."""
        return ", ".join(f"`{suffix}` {part.shape}" for suffix, part in self.parts.items())


def unpack_modules(
    tensors: Mapping[str, TensorSource],
    *,
    suffixes: tuple[str, ...],
    decode: Callable[[PackedModule], Tensor],
) -> dict[str, Tensor]:
    """Replace the parts of every packed module by its weight, where the first of them stood.

    suffixes: of the parts; what has the first is packed. A module with other parts but without it is an error.
    Raises CheckpointError also where a module has a plain weight besides.
    """
    modules = _gather(tensors, suffixes)
    out: dict[str, Tensor] = {}
    for name, source in tensors.items():
        module_name, _, suffix = name.rpartition(".")
        if suffix not in suffixes:
            out[name] = source
        elif (weight := f"{module_name}.weight") not in out:
            if weight in tensors:
                raise CheckpointError(f"packed module {shown(module_name)} has both `weight` and `{suffix}`")
            out[weight] = decode(modules[module_name])
    return out


def _gather(tensors: Mapping[str, TensorSource], suffixes: tuple[str, ...]) -> dict[str, PackedModule]:
    parts: dict[str, dict[str, TensorSource]] = {}
    for name, source in tensors.items():
        module_name, _, suffix = name.rpartition(".")
        if suffix in suffixes:
            parts.setdefault(module_name, {})[suffix] = source
    for module_name, held in parts.items():
        if suffixes[0] not in held:
            name = f"{module_name}.{suffixes[0]}"
            raise CheckpointError(
                f"tensor {shown(next(iter(held.values())).name)} has no {shown(name)} that it belongs to"
            )
    return {name: PackedModule(name, held) for name, held in parts.items()}
