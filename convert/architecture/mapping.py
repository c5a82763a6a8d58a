"""Checkpoint tensors meet a family's rules: each becomes part of one or more tensors of the GGUF, or is left out."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Final

from gguf import get_tensor_name_map

from convert.architecture.family import Family, Parts, Rule, n_experts, n_layers
from convert.architecture.left_over import lacks, no_place
from convert.architecture.not_text import HEAD, why_left_out
from convert.architecture.rope import rope_type
from convert.architecture.row_order import is_ggufs_own
from convert.checkpoint import StoredType
from convert.checkpoint.packed.values import FLOATS
from convert.checkpoint.views import AsFloat32, Blocks, Constant, Rows, stacked
from convert.errors import CheckpointError, PlanError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from gguf import MODEL_ARCH
    from gguf.tensor_mapping import TensorNameMap

    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor

# Buffers that old transformers versions saved beside the weights: conversion/base.py, ModelBase.prepare_tensors.
_BUFFERS: Final = (
    *(".attention.masked_bias", ".attention.bias", "rotary_emb.inv_freq"),
    *("rotary_emb.cos_cached", "rotary_emb.sin_cached", ".position_ids"),  # of remote code; nobody's weights
)
# conversion/base.py, ModelBase.filter_tensors @ 0c1e570
_COMMON_RENAMES: Final = ((r"e_score_correction_bias$", "e_score_correction.bias"),)
_EMBEDDINGS: Final = "token_embd.weight"
_OUTPUT: Final = "output.weight"
WHOLE: Final = -1  # the place of a tensor that is no part of a stack
# A member of a stack: an expert, which gguf's map has that word for, a head's norm, or what is between AltUp's states.
_MEMBER: Final = re.compile(r"(\.experts|\.norms|\.altup_projections|\.altup_unembed_projections)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Mapped:
    """The tensors of the GGUF, in the order of the converter's file; and notes on what is left out."""

    tensors: tuple[tuple[str, Tensor], ...]
    notes: tuple[str, ...]


def plain_names(family: Family, h: Hyperparameters, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Give tensors that hold several of the model's as these, under their usual names; others as they are.

    Raises PlanError if a fused tensor's shape contradicts the config.
    """
    if not family.parts:
        return tensors
    plain = (part for tensor in tensors.values() for part in _cut(family, h, tensor))
    return {part.name: part for part in plain}


def _cut(family: Family, h: Hyperparameters, tensor: Tensor) -> Iterator[Tensor]:
    for parts in family.parts:
        match = re.fullmatch(parts.pattern, tensor.name)
        if match is not None:
            yield from _parts(parts, match, h, tensor)
            return
    yield tensor


def _parts(parts: Parts, match: re.Match[str], h: Hyperparameters, tensor: Tensor) -> Iterator[Tensor]:
    if len(tensor.shape) < 2:  # noqa: PLR2004 - nothing to cut: no rule takes it either
        yield tensor
        return
    *stack, n_rows, n_cols = tensor.shape
    count = stack[0] if stack else 1
    if n_rows % len(parts.names) or (stack and stack != [n_experts(h)]):
        raise PlanError(f"tensor `{tensor.name}` has shape {tensor.shape}, config.json says {n_experts(h)} experts")
    taken = n_rows // len(parts.names)
    names = [match.expand(name) for name in parts.names]
    if not stack or "{expert}" not in names[0]:
        for index, name in enumerate(names):
            yield Blocks(tensor, name, (*stack, taken, n_cols), n_rows, index * taken, taken)
        return
    for expert, (index, name) in product(range(count), enumerate(names)):
        first_row = expert * n_rows + index * taken
        yield Rows(tensor, name.replace("{expert}", str(expert)), (taken, n_cols), first_row)


def map_tensors(family: Family, h: Hyperparameters, tensors: Mapping[str, Tensor], *, n_tokens: int) -> Mapped:
    """Match a checkpoint's tensors, in its order, with the family's rules.

    n_tokens: of the vocabulary. In the order of the reference's file: constants, then each tensor where the last of its
    sources stands.
    Raises PlanError for a tensor that nothing maps, two sources for one place, a missing tensor, or a shape that
    contradicts the config; CheckpointError for tensors that are no floats.
    """
    listed = list(family.tensors(h, n_tokens))
    constants = [(rule.name, rule) for rule in listed if isinstance(rule, Constant)]
    if rope_type(h) == "llama3" and not constants:
        raise UnsupportedError(f"rope scaling `llama3` in {h.where}: llama.cpp has no factors in a {h.architecture}")
    rules = [rule for rule in listed if isinstance(rule, Rule)]
    sources, reasons = _gather(family, h, tensors, rules)
    rules = [rule for rule in rules if rule.source in sources or rule.required]
    _check_complete(family, rules, sources, tensors)
    constants = [(rule.name, rule) for rule in listed if isinstance(rule, Constant)]
    if rope_type(h) == "llama3" and not constants:
        raise UnsupportedError(f"rope scaling `llama3` in {h.where}: llama.cpp has no factors in a {h.architecture}")
    made = [(rule.name, _made(rule, sources[rule.source], tensors)) for rule in _in_file_order(rules, sources, tensors)]
    made.sort(key=lambda item: isinstance(item[1].dtype, StoredType))  # the reference copies blocks before all else
    notes = [f"left out: {count} tensors, {reason}" for reason, count in reasons.items()]
    return Mapped((*constants, *made), tuple(notes))


def have_place(family: Family, h: Hyperparameters, names: Iterable[str], *, n_tokens: int) -> list[str]:
    """Say which of these names, of tensors that are in no file, mean something that the GGUF would hold."""
    rules = {rule.source for rule in family.tensors(h, n_tokens) if isinstance(rule, Rule)}
    if h.flag("tie_word_embeddings"):
        rules -= {_OUTPUT}
    locate = locator(family, h)
    return [name for name in names if why_left_out(family, h, name) is None and locate(name)[0] in rules]


def place_finder(family: Family, h: Hyperparameters) -> Callable[[str], bool]:
    """Return the function that says whether a family knows a name, for whatever it is stored there."""
    locate = locator(family, h)
    patterns = [re.compile(parts.pattern) for parts in family.parts]

    @cache
    def has_place(name: str) -> bool:
        source, _ = locate(name)  # itself, where nothing knows it
        known = (source and source != name) or is_ggufs_own(name) or name.endswith(_BUFFERS)
        return bool(known or why_left_out(family, h, name)) or any(pattern.fullmatch(name) for pattern in patterns)

    return lambda name: has_place(_MEMBER.sub(r"\1.0.", name))  # of thousands of experts one is asked


def _gather(
    family: Family, h: Hyperparameters, names: Iterable[str], rules: Sequence[Rule]
) -> tuple[dict[str, dict[int, str]], Counter[str]]:
    """Collect what each rule is made of: (place in the stack to checkpoint name), by the name in gguf's map."""
    places = {rule.source: rule.n_stacked for rule in rules}
    is_tied = h.flag("tie_word_embeddings") and _EMBEDDINGS in places
    locate = locator(family, h)
    gathered: dict[str, dict[int, str]] = defaultdict(dict)
    reasons: Counter[str] = Counter()
    unmapped = []
    for name in names:
        reason = why_left_out(family, h, name)
        if name.endswith(_BUFFERS) or reason is not None:
            reasons.update([reason] if reason is not None else [])
            continue
        source, index = locate(name)
        if is_tied and source == _OUTPUT:
            places.setdefault(_OUTPUT, None)
        if source not in places or (index != WHOLE and index >= (places[source] or 0)):
            unmapped += [] if HEAD.search(name) else [name]
        elif index in gathered[source]:
            raise PlanError(f"`{gathered[source][index]}` and `{name}` both become `{source}`")
        else:
            gathered[source][index] = name
    if unmapped:
        raise no_place(h, unmapped)
    if is_tied and _EMBEDDINGS not in gathered and _OUTPUT in gathered:
        # safetensors.torch.save_model leaves one name of two, and it may be this; transformers loads it.
        gathered[_EMBEDDINGS] = gathered.pop(_OUTPUT)
    return dict(gathered), reasons


@cache
def _name_map(arch: MODEL_ARCH, n_layers: int) -> TensorNameMap:
    """Give gguf's map, which takes a good part of a second to make for many layers."""
    return get_tensor_name_map(arch, n_layers)


def locator(family: Family, h: Hyperparameters) -> Callable[[str], tuple[str, int]]:
    """Return the function from a checkpoint's name to gguf's, and the place in a stack of experts."""
    name_map = _name_map(family.arch, family.n_blocks(h))
    behind = str(n_layers(h))
    renames = [
        (re.compile(pattern), new.replace("{n_layers}", behind)) for pattern, new in (*_COMMON_RENAMES, *family.renames)
    ]

    def locate(name: str) -> tuple[str, int]:
        for pattern, new in renames:
            name = pattern.sub(new, name)
        member = _MEMBER.search(name)
        if member is None:
            return name_map.get_name(name, try_suffixes=(".weight", ".bias")) or name, WHOLE  # or GGUF's own, renamed
        stack = f"{name[: member.start()]}{member[1].removesuffix('.norms')}.{name[member.end() :]}"
        return name_map.get_name(stack, try_suffixes=(".weight", ".bias")) or "", int(member[2])

    return locate


def _check_complete(
    family: Family, rules: Sequence[Rule], sources: Mapping[str, Mapping[int, str]], tensors: Mapping[str, Tensor]
) -> None:
    missing = [
        (rule.source, None if rule.n_stacked is None else index)
        for rule in rules
        for index in range(rule.n_stacked or 1)
        if not {index, WHOLE} & sources.get(rule.source, {}).keys()
    ]
    if missing:
        stored = {source: next(iter(places.values())) for source, places in sources.items() if places}
        raise lacks(family, stored, missing, n_stored=len(tensors))


def _in_file_order(
    rules: Sequence[Rule], sources: Mapping[str, Mapping[int, str]], tensors: Mapping[str, Tensor]
) -> list[Rule]:
    position = {name: index for index, name in enumerate(tensors)}
    complete: dict[str, int] = defaultdict(int)
    for rule in rules:
        group = _group(rule, sources)
        complete[group] = max(complete[group], *(position[name] for name in sources[rule.source].values()))
    return sorted(rules, key=lambda rule: complete[_group(rule, sources)])


def _group(rule: Rule, sources: Mapping[str, Mapping[int, str]]) -> str:
    """Name what a tensor is written together with: the other experts, if they are stored one by one; else itself."""
    return rule.source if rule.group is None or WHOLE in sources[rule.source] else rule.group


def _made(rule: Rule, places: Mapping[int, str], tensors: Mapping[str, Tensor]) -> Tensor:
    parts = tuple(tensors[name] for _, name in sorted(places.items()))
    is_whole = WHOLE in places
    wanted = rule.shape if rule.n_stacked is None or not is_whole else (rule.n_stacked, *rule.shape)
    for part in parts:
        _check(rule.name, wanted, part)
    if is_whole:
        return rule.make(parts[0])
    if len({part.dtype for part in parts}) > 1:  # an adapter changes some experts, which are then float32
        parts = tuple(part if part.dtype is StoredType.F32 else AsFloat32(part, part.name) for part in parts)
    return rule.make(stacked(rule.name, parts))


def _check(name: str, wanted: tuple[int | None, ...], part: Tensor) -> None:
    fits = len(part.shape) == len(wanted) and all(
        size in (None, given) for size, given in zip(wanted, part.shape, strict=True)
    )
    if not fits:
        raise PlanError(f"tensor `{part.name}` (`{name}`) has shape {part.shape}, config.json says {wanted}")
    if part.dtype not in FLOATS:
        raise CheckpointError(
            f"tensor `{part.name}` is stored as {part.dtype.value}; F32, F16 and BF16 are read",
            hint="a packed or quantized checkpoint without its quantization_config cannot be decoded",
        )
