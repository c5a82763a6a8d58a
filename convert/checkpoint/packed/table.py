"""The table of producers: how a packed checkpoint is recognised, and what unpacks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from convert.checkpoint.regular_file import shown
from convert.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.packed_format import PackedFormat
    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import TensorSource

_ANOTHER: Final = "get the 16-bit checkpoint, or dequantize it with its producer's library and save that"


PACKED_FORMATS: Final[tuple[PackedFormat, ...]] = ()


def find_format(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> PackedFormat | None:
    """Return the row that the config and the tensors agree on; None for a plain checkpoint.

    Raises UnsupportedError for a method that no row knows, CheckpointError where config and tensors disagree.
    """
    declared = _declared(quantization)
    for row in PACKED_FORMATS:
        mark = next((source for source in tensors.values() if row.marks(source)), None)
        if mark is not None and row is not declared:
            said = f"`{quantization.method}`" if quantization.method else "no quantization"
            raise CheckpointError(f"{quantization.where} declares {said}, but {shown(mark.name)} is {row.label}'s")
    return declared


def _declared(quantization: Quantization) -> PackedFormat | None:
    if not quantization.options:
        return None
    row = next((row for row in PACKED_FORMATS if quantization.method in row.methods), None)
    if row is None:
        known = ", ".join(row.label for row in PACKED_FORMATS)
        method = quantization.method or "an unnamed method"
        raise UnsupportedError(
            f"the checkpoint is quantized with {shown(method)}, which this version does not decode",
            hint=f"{_ANOTHER}; decoded are {known}",
        )
    return row


_methods = [method for row in PACKED_FORMATS for method in row.methods]
assert len(_methods) == len(set(_methods)), "a method stands twice in the table"  # noqa: S101
