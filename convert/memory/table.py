"""The table: a row a precision, a column a group of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.checkpoint import StoredType
from convert.memory.bitsandbytes import PACKINGS, PackedBytes
from convert.memory.groups import Group, by_group, gguf_group_of, group_of, is_computed, is_packed_linear

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from convert.checkpoint import Tensor, TensorSource
    from convert.gguf_file import TensorInfo

_PLAIN: Final = {"f32": StoredType.F32, "f16": StoredType.F16, "bf16": StoredType.BF16}
_FLOATS: Final = ("F", "BF")
_TEXT: Final = ".quant_state.bitsandbytes__"  # JSON in a tensor of bytes
# Their linear layers are of a class of their own, which transformers passes over.
_NEVER_PACKED: Final = ("falcon",)
# transformers quantizes these models' Conv1D too, after turning it round: its rows are the stored matrix' columns.
CONV1D_MODELS: Final = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
_TURNED: Final = (".c_attn.weight", ".q_attn.weight", ".c_proj.weight", ".c_fc.weight")
# By `model_type`: where tests compare these rows with what transformers loads and saves.
COMPARED_MODELS: Final = frozenset(
    {
        "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma2", "phi", "phi3", "gpt2",
        "opt", "gpt_neox", "gptj", "gpt_bigcode", "starcoder2", "bloom", "falcon", "mpt", "granite", "olmo2", "cohere",
        "stablelm", "mamba", "bert",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A part of the model: its weights, and how many of them are in layers that bitsandbytes packs."""

    name: Group
    n_parameters: int
    n_packed: int


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """What the model takes in one precision.

    precision: "stored" for the checkpoint as it is; "f32", …, "nf4-dq" for transformers; a GGUF type, "Q4_0".
    format: "checkpoint", "transformers" or "gguf". groups: bytes by group. nbytes: their sum.
    text_nbytes: of the JSON that describes packed layers, not in nbytes; (fewest, most), for with double quantization
        it holds a number whose digits are known only afterwards. With it, nbytes is what the file's tensors take.
    parameters_nbytes: `get_memory_footprint(return_buffers=False)` of transformers; None where it has no such model.
    """

    precision: str
    format: str
    groups: Mapping[Group, int]
    nbytes: int
    text_nbytes: tuple[int, int] = (0, 0)
    parameters_nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What a model takes in every precision.

    rest: what transformers holds the weights in that bitsandbytes does not pack.
    buffers_nbytes: what `get_memory_footprint()` adds to the parameters; None where that is not known.
    """

    groups: tuple[MemoryGroup, ...]
    rows: tuple[MemoryRow, ...]
    rest: str
    buffers_nbytes: int | None
    notes: tuple[str, ...]

    @property
    def n_parameters(self) -> int:
        """The model's weights."""
        return sum(group.n_parameters for group in self.groups)


@dataclass(frozen=True, slots=True)
class _Weight:
    """A weight of the model; shape: as the layer has it, rows first."""

    name: str
    shape: tuple[int, ...]
    group: Group
    is_packed: bool

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)


def measure_memory(
    tensors: Mapping[str, Tensor],
    stored: Mapping[str, TensorSource],
    files: Mapping[str, Sequence[TensorInfo]],
    *,
    dtype: StoredType | None = None,
    model_type: str | None = None,
    ties_output: bool = False,
    buffers_nbytes: int | None = None,
) -> Memory:
    """Measure a model: as it is stored, as transformers and bitsandbytes would save it, and as GGUF.

    tensors: the model's, decoded. stored: the checkpoint's own. files: the tensors of the GGUF file of each
    type, none if there can be none.
    dtype: what the config says it computes in; transformers keeps in it what bitsandbytes does not pack. ties_output:
    the config says that the output matrix is the embeddings'.
    """
    weights = _weights(tensors, model_type)
    rest = dtype or _first_float(tensors)
    rows = (
        _stored_row(stored),
        *(_plain_row(name, kind, weights) for name, kind in _PLAIN.items()),
        *(_packed_row(name, packing, weights, rest) for name, packing in PACKINGS.items()),
        *(_gguf_row(name, tensors) for name, tensors in files.items()),
    )
    notes = _notes({weight.group for weight in weights}, model_type, ties_output=ties_output)
    return Memory(_groups(weights), rows, rest.value, buffers_nbytes, notes)


def _weights(tensors: Mapping[str, Tensor], model_type: str | None) -> tuple[_Weight, ...]:
    floats = [
        tensor
        for name, tensor in tensors.items()
        if tensor.dtype.value.startswith(_FLOATS) and not is_computed(name, tensor.shape)
    ]
    turned = _TURNED if model_type in CONV1D_MODELS else ()
    return tuple(
        _Weight(
            tensor.name,
            tensor.shape[::-1] if turned and tensor.name.endswith(turned) else tensor.shape,
            group_of(tensor.name),
            model_type not in _NEVER_PACKED and is_packed_linear(tensor.name, tensor.shape),
        )
        for tensor in floats
    )


def _first_float(tensors: Mapping[str, Tensor]) -> StoredType:
    # transformers 5.23, modeling_utils.py, _get_dtype: without a word in the config, the first float tensor's.
    kept = (tensor.dtype for tensor in tensors.values() if tensor.dtype in _PLAIN.values())
    return next(kept, StoredType.F32)


def _groups(weights: Sequence[_Weight]) -> tuple[MemoryGroup, ...]:
    counts = by_group((weight.group, weight.n_values) for weight in weights)
    packed = by_group((weight.group, weight.n_values if weight.is_packed else 0) for weight in weights)
    return tuple(MemoryGroup(group, count, packed[group]) for group, count in counts.items())


def _stored_row(stored: Mapping[str, TensorSource]) -> MemoryRow:
    texts = [source for source in stored.values() if _TEXT in source.name]
    rest = [source for source in stored.values() if _TEXT not in source.name]
    groups = by_group((group_of(source.name), source.nbytes) for source in rest)
    text = sum(source.nbytes for source in texts)
    return MemoryRow("stored", "checkpoint", groups, sum(groups.values()), text_nbytes=(text, text))


def _plain_row(precision: str, kind: StoredType, weights: Sequence[_Weight]) -> MemoryRow:
    groups = by_group((weight.group, kind.itemsize * weight.n_values) for weight in weights)
    nbytes = sum(groups.values())
    return MemoryRow(precision, "transformers", groups, nbytes, parameters_nbytes=nbytes)


def _packed_row(
    precision: str,
    packing: Callable[[tuple[int, ...], StoredType], PackedBytes],
    weights: Sequence[_Weight],
    rest: StoredType,
) -> MemoryRow:
    costs = [
        packing(weight.shape, rest) if weight.is_packed else PackedBytes(rest.itemsize * weight.n_values, 0)
        for weight in weights
    ]
    groups = by_group(
        (weight.group, cost.weight + cost.statistics) for weight, cost in zip(weights, costs, strict=True)
    )
    return MemoryRow(
        precision,
        "transformers",
        groups,
        sum(groups.values()),
        text_nbytes=(sum(cost.text[0] for cost in costs), sum(cost.text[1] for cost in costs)),
        parameters_nbytes=sum(cost.weight for cost in costs),
    )


def _gguf_row(name: str, tensors: Sequence[TensorInfo]) -> MemoryRow:
    groups = by_group((gguf_group_of(tensor.name), tensor.nbytes) for tensor in tensors)
    return MemoryRow(name, "gguf", groups, sum(groups.values()))


def _notes(groups: Collection[Group], model_type: str | None, *, ties_output: bool) -> tuple[str, ...]:
    notes = []
    if "experts" in groups:
        notes.append("transformers 5 holds a layer's experts as one parameter, which bitsandbytes does not pack")
    if ties_output and {"embeddings", "output"} <= set(groups):
        notes.append(
            "config.json ties the output matrix to the embeddings; where both are equal, transformers keeps one"
        )
    if model_type not in COMPARED_MODELS:
        notes.append("what bitsandbytes packs of this kind of model is judged by names, not compared with transformers")
    return tuple(notes)
