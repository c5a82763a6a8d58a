"""What a row of the table of producers is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Tensor, TensorSource


def no_notes(_names: Iterable[str]) -> tuple[str, ...]:
    """Leave nothing out that anybody would ask for."""
    return ()


def nothing_packed(quantization: Quantization, wanted: str) -> CheckpointError:
    """Make the error for a section beside plain weights; wanted: what some tensor should be."""
    return CheckpointError(
        f"{quantization.where} declares `{quantization.method}`, but no tensor is {wanted}",
        hint="if the weights have been dequantized, take that section out",
    )


@dataclass(frozen=True, slots=True)
class PackedFormat:
    """One producer.

    label: what it is called in plans and errors. methods: the values of `quant_method` that mean it.
    marks: says whether a tensor's name, type and shape can only be this producer's.
    unpack: gives the model's tensors for the stored ones, in their order; it takes every companion, or raises
        CheckpointError. A tensor that is not packed is given as it is.
    notes: gives lines for the plan about stored tensors that are left out.
    """

    label: str
    methods: tuple[str, ...]
    marks: Callable[[TensorSource], bool]
    unpack: Callable[[Quantization, Mapping[str, TensorSource]], Mapping[str, Tensor]]
    notes: Callable[[Mapping[str, TensorSource]], tuple[str, ...]] = no_notes
