"""Which tensors of which types are written with their own integers and scales, where that is asked for."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from convert.checkpoint.exact import EXACT_TYPES, ExactBlocks, exact_blocks
from convert.checkpoint.views import Constant
from convert.codec import FLOAT_TYPES
from convert.errors import PlanError, Remedy
from convert.gguf_file import KeyValue, encoded_entry, scale_name
from convert.model import tensor_type
from convert.plan.files import FileContent, PlannedTensor
from convert.quant_mix import Lossless, TypeChoice, file_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from convert.checkpoint import Tensor
    from convert.model import GGUFModel
    from convert.quant_mix import QuantizeOptions

_Key = tuple[str, GGMLQuantizationType]
EXACT: Final = "exactly as packed"
_COUNT: Final = "quantize.lossless.entries_count"  # as llama-quantize says how many entries of an imatrix there were
# llama-model.cpp, load_tensors: the weights that may have a scale beside them @ 0c1e570.
_HAS_SCALE: Final = re.compile(
    r"(output|blk\.\d+\.(attn_(q|k|v|output|qkv|gate)|ffn_(gate|down|up)(_shexp|_exps)?|ssm_(in|out|alpha|beta)))\.weight"
)
_F32: Final = GGMLQuantizationType.F32
_LAYER: Final = re.compile(r"^blk\.\d+\.")
_NUMBER: Final = re.compile(r"\d+ of its \d+")


@dataclass(frozen=True, slots=True)
class Exactness:
    """By name and type, of all tensors that files have quantized: the blocks that are exact; why there are none."""

    blocks: Mapping[_Key, ExactBlocks] = field(default_factory=dict)
    refused: Mapping[_Key, str] = field(default_factory=dict)

    @property
    def scales(self) -> tuple[tuple[str, Constant], ...]:
        """Give the tensors that stand beside blocks: what llama.cpp multiplies with after the matrix."""
        return tuple(
            (scale, Constant(scale, np.array(blocks.scale, "<f4").tobytes()))
            for (name, _), blocks in self.blocks.items()
            if blocks.scale and (scale := scale_name(name))
        )

    def content(self, content: FileContent) -> FileContent:
        """Give a file's content with these tensors, and what of it is exact said in reasons and metadata."""
        tensors = [replace(tensor, choice=self._said_of(tensor)) for tensor in content.tensors]
        keys = [(tensor.name, tensor.choice.type) for tensor in tensors]
        exact = [(name, self.blocks[name, kind]) for name, kind in keys if (name, kind) in self.blocks]
        tensors += [
            PlannedTensor(scale_name(name), (len(blocks.scale),), TypeChoice(_F32, f"beside {blocks.dtype.name}"))
            for name, blocks in exact
            if blocks.scale
        ]
        if len(tensors) > len(content.tensors):
            by_name = {tensor.name: tensor for tensor in tensors}
            tensors = [by_name[name] for name in file_order(by_name)]
        said = (encoded_entry(KeyValue(_COUNT, len(exact), GGUFValueType.UINT32)),) if exact else ()
        return replace(content, tensors=tuple(tensors), metadata=(*content.metadata, *said))

    def _said_of(self, tensor: PlannedTensor) -> TypeChoice:
        """Say of a tensor why it has its type, and whether it is exact."""
        key, why = (tensor.name, tensor.choice.type), tensor.choice.reason
        if key in self.blocks:
            why = EXACT if why is None else f"{why}; {EXACT}"
        elif key in self.refused:
            why = f"{why or 'the type asked for'}; not exact: {self.refused[key]}"
        return TypeChoice(tensor.choice.type, why)

    def notes(self) -> Iterator[str]:
        """Say which tensors are exact, and why others are not; those of one name in all layers together."""
        if self.blocks:
            names = dict.fromkeys(name for name, _ in self.blocks)
            listed = ", ".join(_by_pattern((name, "") for name in names))
            yield f"written {EXACT}, every value decoded again and compared, not as the reference makes them: {listed}"
        for why, keys in _by_reason(self.refused).items():
            listed = ", ".join(_by_pattern((name, kind.name) for name, kind in keys))
            yield f"not exact, quantized as usual: {listed}: {why}"


def find_exact(model: GGUFModel, contents: Iterable[FileContent], options: QuantizeOptions) -> Exactness:
    """Find the tensors of files that can be exact; reads their scales.

    Raises PlanError where all must be and some cannot.
    """
    if options.lossless is Lossless.OFF:
        return Exactness()
    tensors = dict(model.tensors)
    blocks: dict[_Key, ExactBlocks] = {}
    refused: dict[_Key, str] = {}
    for key in _quantized(tensors, contents):
        found = exact_blocks(tensors[key[0]], key[1])
        if isinstance(found, ExactBlocks) and found.scale and not _HAS_SCALE.fullmatch(key[0]):
            found = "llama.cpp has no place for the factor that all its scales have in common"
        if isinstance(found, str):
            refused[key] = found
        else:
            blocks[key] = found
    if refused and options.lossless is Lossless.STRICT:
        raise _not_exact(tensors, refused)
    return Exactness(blocks, refused)


def _quantized(tensors: Mapping[str, Tensor], contents: Iterable[FileContent]) -> Iterable[_Key]:
    """Name each tensor and type once, of those that are quantized."""
    return dict.fromkeys(
        (planned.name, planned.choice.type)
        for content in contents
        for planned in content.tensors
        if planned.choice.type not in (*FLOAT_TYPES, tensor_type(tensors[planned.name]))
    )


def _not_exact(tensors: Mapping[str, Tensor], refused: Mapping[_Key, str]) -> PlanError:
    (name, kind), why = next(iter(refused.items()))
    tried = {each: exact_blocks(tensors[name], each) for each in EXACT_TYPES if each is not kind}
    others = [each for each, found in tried.items() if isinstance(found, ExactBlocks)]
    more = f", and {len(refused) - 1} more cannot be exact" if len(refused) > 1 else ""
    would = f"exact it would be in {', '.join(each.name.lower() for each in others)}" if others else None
    return PlanError(
        f"tensor `{name}` cannot be {kind.name} and exactly what it is: {why}{more}",
        hint=would,
        remedies=(Remedy.NAME_TYPES, Remedy.ALLOW_INEXACT),
    )


def _by_reason(refused: Mapping[_Key, str]) -> dict[str, list[_Key]]:
    """Group by reason; of reasons that differ in their numbers the first stands for all."""
    said: dict[str, str] = {}
    keys: dict[str, list[_Key]] = defaultdict(list)
    for key, why in refused.items():
        keys[said.setdefault(_NUMBER.sub("#", why), why)].append(key)
    return keys


def _by_pattern(tensors: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Name tensors, and a word on each; those of all layers as one, with their number."""
    counts = Counter((_LAYER.sub("blk.*.", name), word) for name, word in tensors)
    for (pattern, word), count in counts.items():
        more = ", ".join(filter(None, (word, f"{count} tensors" if count > 1 else "")))
        yield f"`{pattern}` ({more})" if more else f"`{pattern}`"
