"""What the headers of torchao's safetensors files say: which weights are packed, by what class, in which tensors.

    `__metadata__`   "tensor_names"   a JSON list of the names of all tensors of the model
                     "M.weight"       JSON: {"_type": "Tensor"}, or a class with what it needs besides its tensors:
                                      {"_type": "Int8Tensor", "_data": {"block_size": [1, 64], "dtype": {"_type":
                                      "torch.dtype", "_data": "bfloat16"}}, "_tensor_data_names": ["qdata", "scale"]}
    tensors          "M._weight_qdata", "M._weight_scale", …: a class' tensors, by the weight's name and their own

Every shard has the whole of it. Source: torchao 0.18.0, prototype/safetensors/safetensors_support.py,
flatten_tensor_state_dict, which transformers 5.23 (quantizers/quantizer_torchao.py) saves with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from convert.checkpoint.json_file import parse_json
from convert.checkpoint.packed.packed_module import PackedModule
from convert.checkpoint.safetensors_file import read_metadata
from convert.checkpoint.source import TORCH_FLOATS, StoredType
from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from convert.checkpoint.source import TensorSource

_PLAIN: Final = "Tensor"
_MAX_ENTRY_NBYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight that a class of torchao's holds.

    kind: the class. options: what it needs besides its tensors. data_names: what it calls those.
    """

    name: str
    kind: str
    options: Mapping[str, Any]
    data_names: tuple[str, ...]

    def stored_name(self, data_name: str) -> str:
        """Return the name that one of its tensors is stored under."""
        module, _, parameter = self.name.rpartition(".")
        return f"{module}._{parameter}_{data_name}"

    def module(self, tensors: Mapping[str, TensorSource]) -> PackedModule:
        """Collect its tensors, by what it calls them. Raises CheckpointError if one is not there."""
        stored = {data_name: self.stored_name(data_name) for data_name in self.data_names}
        for name in stored.values():
            if name not in tensors:
                raise CheckpointError(f"weight {shown(self.name)} of torchao's {shown(self.kind)} has no {shown(name)}")
        return PackedModule(self.name, {data_name: tensors[name] for data_name, name in stored.items()})

    def dtype(self) -> StoredType:
        """Return the type that it dequantizes to. Raises CheckpointError if that is not a float type."""
        said = self.options.get("dtype")
        name = said.get("_data") if isinstance(said, dict) else None
        if not isinstance(name, str) or name not in TORCH_FLOATS:
            raise self.wrong("dtype", f"one of {', '.join(TORCH_FLOATS)}")
        return TORCH_FLOATS[name]

    def block_size(self, n_dims: int) -> tuple[int, ...]:
        """Return how many neighbours share a scale, along each dimension. Raises CheckpointError if that is absurd."""
        said = self.options.get("block_size")
        if not is_sizes(said) or len(said) != n_dims:
            raise self.wrong("block_size", f"{n_dims} positive integers")
        return tuple(said)

    def wrong(self, key: str, wanted: str) -> CheckpointError:
        """Make the error for an option that is not what it should be."""
        got = self.options.get(key)
        return CheckpointError(f"`{key}` of {shown(self.name)} in the metadata is {got!r:.60}, wanted {wanted}")


def is_sizes(value: object) -> TypeGuard[list[int]]:
    """Tell whether a JSON value is a list of positive integers of 32 bits."""
    return isinstance(value, list) and all(type(item) is int and 0 < item < 1 << 31 for item in value)


def read_packed_weights(paths: Iterable[Path]) -> dict[str, PackedWeight]:
    """Read which weights the files' headers say are packed, by name.

    Raises CheckpointError for headers that contradict one another, and for what torchao does not write.
    """
    entries = _merged(path for path in paths if path.suffix == ".safetensors")
    if "tensor_names" not in entries:
        return {}
    weights = {}
    for name in _names(*entries["tensor_names"]):
        if name not in entries:
            raise CheckpointError(f"the metadata of the weights lists {shown(name)}, but does not say what it is")
        weight = _weight(name, *entries[name])
        if weight.kind != _PLAIN:
            weights[name] = weight
    return weights


def _merged(paths: Iterable[Path]) -> dict[str, tuple[str, Path]]:
    """Return every entry of the files' metadata and the first file that has it."""
    entries: dict[str, tuple[str, Path]] = {}
    for path in paths:
        for key, text in read_metadata(path).items():
            other, where = entries.setdefault(key, (text, path))
            if other != text:
                raise CheckpointError(
                    f"the headers of {shown(where)} and {shown(path)} say different things of {shown(key)}"
                )
    return entries


def _names(text: str, path: Path) -> list[str]:
    what = f"`tensor_names` in the header of {shown(path)}"
    names = parse_json(text.encode(), what=what)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{what} is not a list of names")
    return names


def _weight(name: str, text: str, path: Path) -> PackedWeight:
    what = f"the entry {shown(name)} in the header of {shown(path)}"
    if len(text) > _MAX_ENTRY_NBYTES:
        raise CheckpointError(f"{what} has {len(text)} characters, at most {_MAX_ENTRY_NBYTES} are read")
    entry = parse_json(text.encode(), what=what)
    kind = entry.get("_type") if isinstance(entry, dict) else None
    if kind == _PLAIN:
        return PackedWeight(name, _PLAIN, {}, ())
    if not isinstance(entry, dict) or not isinstance(kind, str) or "." not in name:
        raise CheckpointError(f"{what} does not name a class of torchao's and the parameter of a module")
    options, data_names = entry.get("_data"), entry.get("_tensor_data_names")
    if not isinstance(options, dict) or not _is_names(data_names):
        raise CheckpointError(f"{what} has no object `_data` and list of different names `_tensor_data_names`")
    return PackedWeight(name, kind, options, tuple(data_names))


def _is_names(value: object) -> TypeGuard[list[str]]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return False
    return len(set(value)) == len(value) > 0
