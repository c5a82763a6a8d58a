"""The table of producers: how a packed checkpoint is recognised, and what unpacks it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from convert.checkpoint.packed.activation_scales import activation_notes
from convert.checkpoint.packed.aqlm import marks_aqlm, unpack_aqlm
from convert.checkpoint.packed.auto_round import unpack_auto_round
from convert.checkpoint.packed.awq import marks_awq, unpack_awq
from convert.checkpoint.packed.bitnet import marks_bitnet, unpack_bitnet
from convert.checkpoint.packed.bitsandbytes import marks_bitsandbytes, unpack_bitsandbytes
from convert.checkpoint.packed.compressed_tensors import is_compressed, unpack_compressed_tensors
from convert.checkpoint.packed.float8 import FLOAT8_TYPES
from convert.checkpoint.packed.fp8 import is_fp8_scale, unpack_fp8
from convert.checkpoint.packed.gptq import marks_gptq, unpack_gptq, zero_bias_notes
from convert.checkpoint.packed.hqq import marks_hqq, unpack_hqq
from convert.checkpoint.packed.mlx import marks_mlx, unpack_mlx
from convert.checkpoint.packed.modelopt import is_nvfp4_scale, unpack_modelopt
from convert.checkpoint.packed.mxfp4 import is_mxfp4_blocks, unpack_mxfp4
from convert.checkpoint.packed.packed_format import PackedFormat
from convert.checkpoint.packed.refused import refusal
from convert.checkpoint.packed.torchao import marks_torchao, torchao_notes, unpack_torchao
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import TensorSource

PACKED_FORMATS: Final[tuple[PackedFormat, ...]] = (
    PackedFormat(
        "bitsandbytes",
        ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"),
        marks_bitsandbytes,
        unpack_bitsandbytes,
    ),
    PackedFormat("GPTQ", ("gptq",), marks_gptq, unpack_gptq, zero_bias_notes),
    PackedFormat("AWQ", ("awq",), marks_awq, unpack_awq),
    PackedFormat("auto-round", ("auto-round", "intel/auto-round"), marks_gptq, unpack_auto_round),
    PackedFormat("HQQ", ("hqq",), marks_hqq, unpack_hqq),
    PackedFormat("BitNet", ("bitnet",), marks_bitnet, unpack_bitnet),
    PackedFormat("fp8", ("fp8", "mxfp8", "fbgemm_fp8"), is_fp8_scale, unpack_fp8, activation_notes),
    PackedFormat(
        "compressed-tensors",
        ("compressed-tensors", "compressed_tensors", "sparseml"),  # `sparseml` until 0.3
        is_compressed,
        unpack_compressed_tensors,
        activation_notes,
    ),
    PackedFormat(
        "modelopt",
        ("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"),
        is_nvfp4_scale,
        unpack_modelopt,
        activation_notes,
    ),
    PackedFormat("mxfp4", ("mxfp4",), is_mxfp4_blocks, unpack_mxfp4),
    PackedFormat("MLX", ("mlx",), marks_mlx, unpack_mlx),
    PackedFormat("AQLM", ("aqlm",), marks_aqlm, unpack_aqlm),
    PackedFormat("torchao", ("torchao",), marks_torchao, unpack_torchao, torchao_notes),
)

_PLAIN: Final = (StoredType.F64, StoredType.F32, StoredType.F16, StoredType.BF16)
_ROUNDED_LATER: Final = ("bitnet",)
# What stands beside a packed weight, by any producer's name.
_COMPANION: Final = re.compile(
    r"scales?(_\w+)?$|scale_inv$|absmax|quant_(map|state)|zeros?(_point)?$|codes|codebooks|_packed$|g_idx$|q(weight|zeros)$"
    r"|\.SCB$|weight_(format|shape)$|bitmask$|_scale\.|\._(data|scale)$"
)
_UNDECLARED: Final = (
    "take config.json from where the weights are from: its `quantization_config` says how they are packed"
)
_GPTQ_EXAMPLE: Final = (
    'or write `"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}` into it'
)


def find_format(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> PackedFormat | None:
    """Return the row that the config and the tensors agree on; None for a plain checkpoint.

    Raises UnsupportedError for a method that no row knows, CheckpointError where config and tensors disagree.
    """
    declared = _declared(quantization)
    for source in tensors.values():
        marked = [row for row in PACKED_FORMATS if row.marks(source)]
        if marked and declared not in marked:
            raise _contradiction(quantization, source, marked)
    if declared is None:
        _refuse_undeclared_float8(quantization, tensors)
    return declared


def has_plain_weights(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> bool:
    """Whether every weight is a plain float with nothing beside it, whatever a section of the config says.

    It is left over where weights were dequantized and saved. BitNet's may be meant to be rounded while they run.
    """
    return (
        quantization.method not in _ROUNDED_LATER
        and all(
            (source.dtype in _PLAIN or len(source.shape) < 2)  # noqa: PLR2004 - a matrix or a stack
            and source.shape[1:] != (1,)  # bitsandbytes' words, which may be stored as floats, are a column
            and not _COMPANION.search(source.name)
            and not any(row.marks(source) for row in PACKED_FORMATS)
            for source in tensors.values()
        )
    )


def _refuse_undeclared_float8(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> None:
    """Raise CheckpointError for 8-bit floats that have scales: several producers have these, each in its own way.

    Without any they are what a cast leaves, and the numbers that they are.
    """
    if not any(_COMPANION.search(name) for name in tensors):
        return
    for source in tensors.values():
        if source.dtype in FLOAT8_TYPES:
            raise CheckpointError(
                f"{quantization.where} declares no quantization, but {shown(source.name)} is {source.dtype.value}",
                hint=_UNDECLARED,
            )


def _contradiction(quantization: Quantization, source: TensorSource, marked: list[PackedFormat]) -> CheckpointError:
    said = f"`{quantization.method}`" if quantization.method else "no quantization"
    whose = " or ".join(f"{row.label}'s" for row in marked)
    hint = None
    if not quantization.method:
        hint = f"{_UNDECLARED}; {_GPTQ_EXAMPLE}" if marks_gptq(source) else _UNDECLARED
    return CheckpointError(f"{quantization.where} declares {said}, but {shown(source.name)} is {whose}", hint=hint)


def _declared(quantization: Quantization) -> PackedFormat | None:
    if not quantization.options:
        return None
    row = next((row for row in PACKED_FORMATS if quantization.method in row.methods), None)
    if row is None:
        raise refusal(quantization.method, decoded=", ".join(row.label for row in PACKED_FORMATS))
    return row


_methods = [method for row in PACKED_FORMATS for method in row.methods]
assert len(_methods) == len(set(_methods)), "a method stands twice in the table"  # noqa: S101
