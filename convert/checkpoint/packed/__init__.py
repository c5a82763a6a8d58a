"""Checkpoints whose weights a quantizer has packed: read as the tensors of the model, decoded row by row.

    config.json            ── quantization_config ──▶ Quantization      method and options
    tensors                ── table ──▶ a row       how the producer is recognised, and what unpacks its tensors
    weight + companions    ── row.unpack ──▶ Tensor   gives the rows of the model's weight, in the type it computes with

What a decoded tensor holds is bit for bit what the producer's own library gives. A file a producer; each reads its
companions' shapes and small statistics when the checkpoint is opened, so that whatever is wrong with them is an error
before any output, and the rest a slice at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from convert.checkpoint.packed.casts import CAST_TYPES, CastTensor, as_floats
from convert.checkpoint.packed.quantization_config import Quantization, is_mlx, read_quantization
from convert.checkpoint.packed.table import find_format, has_plain_weights
from convert.checkpoint.source_files import bring_small_ones

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.source import Checkpoint, Tensor

__all__ = [
    "CAST_TYPES",
    "CastTensor",
    "ModelTensors",
    "Quantization",
    "as_floats",
    "is_mlx",
    "model_tensors",
    "read_quantization",
]

DECODED: Final = "tensors are decoded on the way"  # unless a family has GGUF keep the blocks


@dataclass(frozen=True, slots=True)
class ModelTensors:
    """The model's tensors, by name, in the checkpoint's order.

    decoded: the names of those that are not stored so. is_plain: all are the checkpoint's own, as stored.
    packing: the producer that packed some of them, as its row is called; None for a plain checkpoint.
    notes: a line each, for the plan to show.
    """

    tensors: Mapping[str, Tensor]
    packing: str | None = None
    notes: tuple[str, ...] = ()
    decoded: frozenset[str] = frozenset()
    is_plain: bool = True


def model_tensors(checkpoint: Checkpoint) -> ModelTensors:
    """Give a checkpoint's tensors as the model has them, whatever packed them, and whoever laid them out.

    Raises CheckpointError for packed tensors that are incomplete, broken or contradict the config; UnsupportedError
    for a method or a layout that this version does not decode.
    """
    from convert.checkpoint.views import leaves  # noqa: PLC0415 - views are made of this room's values

    unpacked = _unpacked(checkpoint)
    if checkpoint.arrange is None:
        return unpacked
    decoded = {id(unpacked.tensors[name]) for name in unpacked.decoded}
    tensors = checkpoint.arrange(unpacked.tensors)
    of_decoded = [name for name, tensor in tensors.items() if any(id(leaf) in decoded for leaf in leaves(tensor))]
    return replace(unpacked, tensors=tensors, decoded=frozenset(of_decoded), is_plain=False)


def _unpacked(checkpoint: Checkpoint) -> ModelTensors:
    quantization = read_quantization(checkpoint)
    is_stale = bool(quantization.options) and has_plain_weights(quantization, checkpoint.tensors)
    row = None if is_stale else find_format(quantization, checkpoint.tensors)
    if row is None:
        said = f"{quantization.where} declares `{quantization.method}`, but the weights are plain: read as they are"
        return ModelTensors(checkpoint.tensors, notes=(said,) if is_stale else ())
    bring_small_ones(checkpoint.tensors.values())
    tensors = row.unpack(quantization, checkpoint.tensors)
    decoded = frozenset(name for name, tensor in tensors.items() if tensor is not checkpoint.tensors.get(name))
    said = f"packed by {row.label}: {len(decoded)} {DECODED}"
    return ModelTensors(tensors, row.label, (said, *row.notes(checkpoint.tensors)), decoded, is_plain=False)
