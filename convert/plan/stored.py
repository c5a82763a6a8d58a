"""GGUF files cut into parts, and parts put together: nothing is made anew, tensors are copied.

Source: tools/gguf-split/gguf-split.cpp, split_strategy, gguf_merge @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gguf import GGMLQuantizationType, GGUFValueType

from convert.checkpoint import StoredBlocks
from convert.codec import row_nbytes
from convert.gguf_file import KeyValue, encoded_entry
from convert.gguf_file.split import SPLIT_COUNT
from convert.model import tensor_type
from convert.plan.data import Plan, Target, Task
from convert.plan.files import FileContent, PlannedTensor
from convert.plan.layout import large_parts, output_of, outputs_in_parts
from convert.plan.split import ggml_shape, in_parts
from convert.quant_mix import TypeChoice

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from convert.gguf_file import Entry
    from convert.model import GGUFModel
    from convert.plan.data import Output
    from convert.plan.split import SplitRequest

_BYTE: Final = GGMLQuantizationType.I8


def plan_in_parts(model: GGUFModel, prefix: Path, split: SplitRequest) -> Plan:
    """Plan `PREFIX-00001-of-00003.gguf` and so on; errors as for `in_parts`."""
    contents = in_parts(_content(model, model.metadata), split)
    outputs = outputs_in_parts(contents, prefix, model.alignment)
    return _plan(model, outputs, large_parts(outputs, split))


def plan_merged(model: GGUFModel, out: Path) -> Plan:
    """Plan one file of a model's parts.

    Parity: it says that it is the first of 0 parts, so that it is not taken for parts again.
    """
    none = KeyValue(SPLIT_COUNT, 0, GGUFValueType.UINT16)
    metadata = (*(entry for entry in model.metadata if entry[0].key != SPLIT_COUNT), encoded_entry(none))
    return _plan(model, (output_of(_content(model, metadata), out, model.alignment),))


def _content(model: GGUFModel, metadata: Sequence[Entry]) -> FileContent:
    tensors = (
        PlannedTensor(name, ggml_shape(tensor.shape), TypeChoice(tensor_type(tensor), None))
        for name, tensor in model.tensors
    )
    return FileContent(tuple(metadata), tuple(tensors))


def _copies(model: GGUFModel, outputs: Sequence[Output]) -> Iterator[Task]:
    """Copy each tensor as the bytes that it is: whatever its values are, they are nobody's concern here."""
    places = {info.name: (index, info.offset) for index, output in enumerate(outputs) for info in output.tensors}
    for name, tensor in model.tensors:
        assert isinstance(tensor, StoredBlocks)  # noqa: S101 - `stored_model` gives no others
        nbytes = row_nbytes(tensor.dtype, tensor.shape[-1])
        rows = replace(tensor, shape=(tensor.nbytes // nbytes, nbytes), dtype=_BYTE)
        yield Task(name, rows, _BYTE, (Target(_BYTE, (places[name],)),))


def _plan(model: GGUFModel, outputs: tuple[Output, ...], notes: tuple[str, ...] = ()) -> Plan:
    return Plan(
        source=model.source,
        architecture=model.architecture or "unknown",
        n_parameters=model.n_parameters,
        source_nbytes=model.source_nbytes,
        outputs=outputs,
        tasks=tuple(_copies(model, outputs)),
        notes=notes,
    )
