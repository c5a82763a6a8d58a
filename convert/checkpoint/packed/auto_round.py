"""auto-round's own method, in the packings that are GPTQ's or AWQ's: `packing_format` says which.

What it exports as `auto_gptq` or `auto_awq` calls itself `gptq` or `awq` and does not come here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from convert.checkpoint.packed import awq, gptq
from convert.checkpoint.packed.grouped import Grouping, checked
from convert.checkpoint.packed.packed_module import unpack_modules
from convert.errors import ConfigError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Tensor, TensorSource

# auto-round 0.16.1, export/export_to_autoround/export.py, dynamic_import_quant_linear_for_packing: qlinear_torch_zp
# packs zero points less one, qlinear_torch as they are. What names none: transformers' AutoRoundConfig.
_DEFAULT: Final = "auto_round:gptq"
_ZERO_POINTS: Final = {
    "auto_round:gptq": gptq.ZeroPoints.LESS_ONE,
    "auto_round:auto_gptq": gptq.ZeroPoints.LESS_ONE,
    "auto_round:gptqmodel": gptq.ZeroPoints.PLAIN,
    "auto_round": gptq.ZeroPoints.PLAIN,
}
_AWQ: Final = ("auto_round:awq", "auto_round:auto_awq")


def unpack_auto_round(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give the weights of an auto-round checkpoint: see PackedFormat."""
    fields = quantization.fields
    packing = fields.name("packing_format") or _DEFAULT
    if packing not in (*_ZERO_POINTS, *_AWQ):
        raise UnsupportedError(
            f"{fields.where} says `packing_format` {shown(packing)}; decoded are {', '.join((*_ZERO_POINTS, *_AWQ))}",
            hint="export it again with auto-round as `auto_gptq` or `auto_awq`, or get the 16-bit checkpoint",
        )
    groupings = _groupings(quantization)
    if packing in _AWQ:
        decode_awq = partial(awq.decode_awq, awq.AwqScheme(groupings, "gemm", fields.where))
        return unpack_modules(tensors, suffixes=awq.SUFFIXES, decode=decode_awq)
    decode_gptq = partial(gptq.decode_gptq, gptq.GptqScheme(groupings, _ZERO_POINTS[packing], fields.where))
    return unpack_modules(tensors, suffixes=gptq.SUFFIXES, decode=decode_gptq)


def _groupings(quantization: Quantization) -> tuple[Grouping, ...]:
    fields = quantization.fields
    bits, group_size = (fields.integer(key) for key in ("bits", "group_size"))
    if bits is None or group_size is None:
        raise ConfigError(f"{fields.where} has no `{'bits' if bits is None else 'group_size'}`")
    own = checked(Grouping(bits, group_size), bits=gptq.BITS, where=fields.where)
    return (own, *gptq.other_groupings(fields.inner("extra_config"), own))
