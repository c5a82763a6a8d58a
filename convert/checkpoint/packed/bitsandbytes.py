"""bitsandbytes: 4-bit and 8-bit weights under one `quant_method`, and what config.json claims about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.checkpoint.packed.bitsandbytes_4bit import Packed4bit, is_companion_4bit, open_4bit
from convert.checkpoint.packed.bitsandbytes_8bit import is_companion_8bit, open_8bit
from convert.checkpoint.packed.bitsandbytes_quant_state import KEY_START
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, ConfigError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.bitsandbytes_8bit import Packed8bit
    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Tensor, TensorSource

_STORAGES: Final = {
    StoredType.U8: "uint8",
    StoredType.I8: "int8",
    StoredType.F16: "float16",
    StoredType.BF16: "bfloat16",
    StoredType.F32: "float32",
    StoredType.F64: "float64",
}
_PACKED_TYPES: Final = frozenset({StoredType.U8, StoredType.I8})  # no model has weights of these


@dataclass(frozen=True, slots=True)
class _Claims:
    """What the config says about the weights; None where it does not."""

    bits: int | None
    quant_type: str | None
    is_double_quantized: bool | None
    storage: str | None


def marks_bitsandbytes(source: TensorSource) -> bool:
    """Say whether a tensor is one of its companions, by a name that nobody else uses."""
    return f".{KEY_START}" in source.name or source.name.endswith((".nested_absmax", ".SCB"))


def unpack_bitsandbytes(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give the model's tensors, in their order: packed ones as decoders, skipped modules' as they are.

    Raises CheckpointError for companions that are incomplete or do not fit together, weights without them, and where
    config and tensors disagree; UnsupportedError for 8-bit layouts other than rows.
    """
    claims = _read_claims(quantization)
    packed: dict[str, Packed4bit | Packed8bit] = {**open_4bit(tensors), **open_8bit(tensors, quantization.dtype)}
    for tensor in packed.values():
        _check_agreement(tensor, claims, quantization.where)
    model: dict[str, Tensor] = {}
    for name, source in tensors.items():
        if is_companion_4bit(name) or is_companion_8bit(name):
            continue
        if name not in packed:
            _check_plain(source, claims)
        model[name] = packed.get(name, source)
    return model


def _read_claims(quantization: Quantization) -> _Claims:
    fields = quantization.fields
    bits = {
        bits
        for bits in (4, 8)
        if any(fields.flag(key) for key in (f"load_in_{bits}bit", f"_load_in_{bits}bit"))
        or (quantization.method or "").endswith(f"_{bits}bit")
    }
    if len(bits) > 1:
        raise ConfigError(f"{quantization.where} declares 4-bit and 8-bit weights, wanted one of them")
    return _Claims(
        bits=next(iter(bits), None),
        quant_type=fields.text("bnb_4bit_quant_type"),
        is_double_quantized=fields.optional_flag("bnb_4bit_use_double_quant"),
        storage=_storage(quantization),
    )


def _storage(quantization: Quantization) -> str | None:
    name = quantization.fields.text("bnb_4bit_quant_storage")
    if name is None:
        return None
    storage = name.removeprefix("torch.")
    if storage not in _STORAGES.values():
        known = ", ".join(_STORAGES.values())
        raise ConfigError(f"`bnb_4bit_quant_storage` in {quantization.where} is {shown(name)}, wanted one of {known}")
    return storage


def _check_agreement(tensor: Packed4bit | Packed8bit, claims: _Claims, where: str) -> None:
    for what, claimed, found in _compared(tensor, claims):
        if claimed is not None and claimed != found:
            raise CheckpointError(
                f"{where} says that {what} is {shown(claimed)}, tensor {shown(tensor.name)} that it is {shown(found)}"
            )


def _compared(tensor: Packed4bit | Packed8bit, claims: _Claims) -> list[tuple[str, object, object]]:
    """List what is spoken of, what the config claims of it (None: nothing), and what a tensor is."""
    if not isinstance(tensor, Packed4bit):
        return [("the number of bits", claims.bits, 8)]
    return [
        ("the number of bits", claims.bits, 4),
        ("`bnb_4bit_quant_type`", claims.quant_type, tensor.state.quant_type),
        ("`bnb_4bit_use_double_quant`", claims.is_double_quantized, tensor.state.nested is not None),
        ("`bnb_4bit_quant_storage`", claims.storage, _STORAGES[tensor.weight.dtype]),
    ]


def _check_plain(source: TensorSource, claims: _Claims) -> None:
    """Refuse a packed weight without companions; a column of floats is one where the config stores bytes as those."""
    is_column = len(source.shape) == 2 and source.shape[1] == 1 and source.n_elements > 1  # noqa: PLR2004
    if source.dtype in _PACKED_TYPES or (is_column and _STORAGES.get(source.dtype) == claims.storage):
        wanted = "`SCB`" if source.dtype is StoredType.I8 else f"`absmax`, `quant_map` and `{KEY_START}…`"
        raise CheckpointError(
            f"tensor {shown(source.name)} is {source.dtype.value} of shape {source.shape}, "
            f"packed, but the checkpoint lacks its {wanted}"
        )
