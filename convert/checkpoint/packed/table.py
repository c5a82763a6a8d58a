"""The table of producers: how a packed checkpoint is recognised, and what unpacks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from convert.checkpoint.packed.activation_scales import activation_notes
from convert.checkpoint.packed.auto_round import unpack_auto_round
from convert.checkpoint.packed.awq import marks_awq, unpack_awq
from convert.checkpoint.packed.bitnet import marks_bitnet, unpack_bitnet
from convert.checkpoint.packed.bitsandbytes import marks_bitsandbytes, unpack_bitsandbytes
from convert.checkpoint.packed.compressed_tensors import is_compressed, unpack_compressed_tensors
from convert.checkpoint.packed.fp8 import is_fp8_scale, unpack_fp8
from convert.checkpoint.packed.gptq import marks_gptq, unpack_gptq
from convert.checkpoint.packed.hqq import marks_hqq, unpack_hqq
from convert.checkpoint.packed.modelopt import is_nvfp4_scale, unpack_modelopt
from convert.checkpoint.packed.mxfp4 import is_mxfp4_blocks, unpack_mxfp4
from convert.checkpoint.packed.packed_format import PackedFormat
from convert.checkpoint.packed.refused import refusal
from convert.checkpoint.regular_file import shown
from convert.errors import CheckpointError

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
    PackedFormat("GPTQ", ("gptq",), marks_gptq, unpack_gptq),
    PackedFormat("AWQ", ("awq",), marks_awq, unpack_awq),
    PackedFormat("auto-round", ("auto-round", "intel/auto-round"), marks_gptq, unpack_auto_round),
    PackedFormat("HQQ", ("hqq",), marks_hqq, unpack_hqq),
    PackedFormat("BitNet", ("bitnet",), marks_bitnet, unpack_bitnet),
    PackedFormat("fp8", ("fp8", "mxfp8", "fbgemm_fp8"), is_fp8_scale, unpack_fp8, activation_notes),
    PackedFormat(
        "compressed-tensors", ("compressed-tensors",), is_compressed, unpack_compressed_tensors, activation_notes
    ),
    PackedFormat(
        "modelopt",
        ("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"),
        is_nvfp4_scale,
        unpack_modelopt,
        activation_notes,
    ),
    PackedFormat("mxfp4", ("mxfp4",), is_mxfp4_blocks, unpack_mxfp4),
)


def find_format(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> PackedFormat | None:
    """Return the row that the config and the tensors agree on; None for a plain checkpoint.

    Raises UnsupportedError for a method that no row knows, CheckpointError where config and tensors disagree.
    """
    declared = _declared(quantization)
    for source in tensors.values():
        marked = [row for row in PACKED_FORMATS if row.marks(source)]
        if marked and declared not in marked:
            said = f"`{quantization.method}`" if quantization.method else "no quantization"
            whose = " or ".join(f"{row.label}'s" for row in marked)
            raise CheckpointError(f"{quantization.where} declares {said}, but {shown(source.name)} is {whose}")
    return declared


def _declared(quantization: Quantization) -> PackedFormat | None:
    if not quantization.options:
        return None
    row = next((row for row in PACKED_FORMATS if quantization.method in row.methods), None)
    if row is None:
        raise refusal(quantization.method, decoded=", ".join(row.label for row in PACKED_FORMATS))
    return row


_methods = [method for row in PACKED_FORMATS for method in row.methods]
assert len(_methods) == len(set(_methods)), "a method stands twice in the table"  # noqa: S101
