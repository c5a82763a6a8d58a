"""Which tensor gets which type in a file that llama-quantize makes, decided over the whole file.

    kept ─ it is no weight, or too sensitive; or all are copied
    asked for ─ embeddings, output matrix, by the name
    the mixture ─ `rules.py`, by the tensor's role and its layer
    fallback ─ rows that are not whole blocks

Source: src/llama-quant.cpp, llama_tensor_get_type, tensor_type_fallback, tensor_requires_imatrix @ 0c1e570.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from convert.errors import PlanError
from convert.quant_mix.options import NO_OPTIONS
from convert.quant_mix.roles import VALUE_LIKE, Role, role_of, why_kept
from convert.quant_mix.rules import Spot, is_counted, is_eight_bits, is_lowest, mixture

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from convert.quant_mix.facts import ModelFacts
    from convert.quant_mix.file_types import FileType
    from convert.quant_mix.options import QuantizeOptions

_Type = GGMLQuantizationType


@dataclass(frozen=True, slots=True)
class TensorToType:
    """A tensor whose type is to be chosen: its name in GGUF, its shape in NumPy order, the type it has now."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType


@dataclass(frozen=True, slots=True)
class TypeChoice:
    """A tensor's type, and why it is not the one asked for (None where it is)."""

    type: GGMLQuantizationType
    reason: str | None = None


_FALLBACK: Final = {
    **dict.fromkeys(
        (_Type.IQ1_S, _Type.IQ1_M, _Type.IQ2_XXS, _Type.IQ2_XS, _Type.IQ2_S, _Type.IQ3_XXS, _Type.IQ3_S, _Type.IQ4_XS),
        _Type.IQ4_NL,
    ),
    **dict.fromkeys((_Type.Q2_0, _Type.Q2_K, _Type.Q3_K, _Type.TQ1_0, _Type.TQ2_0), _Type.Q4_0),
    _Type.Q4_K: _Type.Q5_0,
    _Type.Q5_K: _Type.Q5_1,
    _Type.Q6_K: _Type.Q8_0,
}
_LARGEST_WITHOUT_FALLBACK: Final = 32
_FIRST_CHARACTERS: Final = re.compile(r"blk\.(\d+)")

# Without importance these are garbage, and ggml aborts on most; Q2_K only in a Q2_K_S file.
_NEED_IMPORTANCE: Final = frozenset({_Type.IQ3_XXS, _Type.IQ2_XXS, _Type.IQ2_XS, _Type.IQ2_S, _Type.IQ1_M, _Type.IQ1_S})


def choose_types(
    tensors: Iterable[TensorToType], wanted: FileType, facts: ModelFacts, options: QuantizeOptions = NO_OPTIONS
) -> list[TypeChoice]:
    """Choose, as llama-quantize does, the type of each tensor of a file, given in the file's order.

    The tensors' own types are those of the file that is quantized.
    Raises PlanError where llama-quantize has no type for a tensor.
    """
    listed = list(tensors)
    settled = [_settled(tensor, wanted, facts, options) for tensor in listed]
    mixed = [tensor for tensor, choice in zip(listed, settled, strict=True) if choice is None]
    of_mixture = _of_mixture(_spots(mixed, listed, wanted, facts, options), options)
    return [next(of_mixture) if choice is None else choice for choice in settled]


def needs_importance(name: str, tensor_type: GGMLQuantizationType, wanted: FileType) -> bool:
    """Whether a tensor cannot be made without importance."""
    if role_of(name) in (Role.EMBEDDING, Role.OUTPUT):
        return False
    return tensor_type in _NEED_IMPORTANCE or (tensor_type is _Type.Q2_K and wanted.name == "Q2_K_S")


def may_be_quantized(name: str, shape: tuple[int, ...], facts: ModelFacts, options: QuantizeOptions) -> bool:
    """Whether a tensor's type is chosen at all; all others keep theirs."""
    return _why_kept(name, shape, facts, options) is None


def _why_kept(name: str, shape: tuple[int, ...], facts: ModelFacts, options: QuantizeOptions) -> str | None:
    if options.leave_output and name == "output.weight":
        return "left as it is, as asked"
    return why_kept(name, shape, facts.arch)


def file_order(names: Iterable[str]) -> list[str]:
    """Sort names as llama-quantize writes them: by block number, those without one first, then by name.

    Source: src/llama-model-loader.h, weight_name_comparer @ 0c1e570.
    """

    def key(name: str) -> tuple[int, bytes]:
        match = _FIRST_CHARACTERS.match(name)
        return (int(match[1]) if match else -1, name.encode())

    return sorted(names, key=key)


def _settled(tensor: TensorToType, wanted: FileType, facts: ModelFacts, options: QuantizeOptions) -> TypeChoice | None:
    """Choose where no mixture is asked; None where one is."""
    if wanted.copies:
        return TypeChoice(tensor.type)
    kept = _why_kept(tensor.name, tensor.shape, facts, options)
    if kept is not None:
        return TypeChoice(tensor.type, kept if tensor.type is not wanted.type else None)
    if (asked := _asked_by_role(tensor.name, options)) is not None:
        return _without_fallback(tensor, TypeChoice(asked, "as asked for"))
    if not wanted.is_quantized:
        return TypeChoice(wanted.type)
    if (by_name := options.type_for(tensor.name)) is not None:
        return _fall_back(tensor, TypeChoice(by_name.type, f"as asked for: {by_name.pattern}"), wanted)
    return _fall_back(tensor, TypeChoice(wanted.type), wanted) if options.pure else None


def _without_fallback(tensor: TensorToType, choice: TypeChoice) -> TypeChoice:
    """Give the choice; where rows are not whole blocks of it, llama-quantize aborts."""
    if tensor.shape[-1] % GGML_QUANT_SIZES[choice.type][0]:
        raise PlanError(
            f"`{tensor.name}` was asked for in {choice.type.name}, which its rows of {tensor.shape[-1]} do not fill"
        )
    return choice


def _asked_by_role(name: str, options: QuantizeOptions) -> GGMLQuantizationType | None:
    if role_of(name) is Role.OUTPUT or options.embedding_type is None:
        return options.output_type if role_of(name) is Role.OUTPUT else None
    is_named = name == "per_layer_token_embd.weight" and options.type_for(name) is not None
    return options.embedding_type if role_of(name) is Role.EMBEDDING and not is_named else None


def _spots(
    mixed: Sequence[TensorToType],
    listed: Sequence[TensorToType],
    wanted: FileType,
    facts: ModelFacts,
    options: QuantizeOptions,
) -> Iterator[tuple[TensorToType, Spot]]:
    """Place each tensor among its like: a model's values, and its feed-forward matrices, are counted."""
    names = [tensor.name for tensor in listed]
    is_tied = "output.weight" not in names
    n_values = sum(role_of(name) in VALUE_LIKE for name in names)
    seen: Counter[Role] = Counter()
    for tensor in mixed:
        role = role_of(tensor.name)
        is_tied_embedding = is_tied and role is Role.EMBEDDING
        group = Role.VALUE if role in VALUE_LIKE else role
        counts = is_counted(role, wanted, is_tied=is_tied) and not is_eight_bits(tensor.name, facts.arch)
        index = seen[group]
        if counts and group is not Role.VALUE and not is_lowest(wanted) and facts.n_experts > 1:
            index = _layer(tensor.name, facts.n_layers)  # experts stand in no order that counting would follow
        seen[group] += counts
        yield tensor, Spot(
            name=tensor.name, role=role, n_cols=tensor.shape[-1], n_matrices=_n_matrices(tensor.shape), wanted=wanted,
            facts=facts, index=index, of=n_values if group is Role.VALUE else facts.n_layers,
            is_tied=is_tied_embedding, has_importance=options.has_importance,
        )  # fmt: skip


def _layer(name: str, n_layers: int) -> int:
    match = _FIRST_CHARACTERS.match(name)
    if match is None or int(match[1]) >= n_layers:
        raise PlanError(f"tensor `{name}` is in no layer of the model's {n_layers}, by which its type is chosen")
    return int(match[1])


def _n_matrices(shape: tuple[int, ...]) -> int:
    return shape[-3] if len(shape) > 2 else 1  # noqa: PLR2004


def _of_mixture(spots: Iterator[tuple[TensorToType, Spot]], options: QuantizeOptions) -> Iterator[TypeChoice]:
    for tensor, spot in spots:
        if is_eight_bits(spot.name, spot.facts.arch):
            chosen, why = _Type.Q8_0, f"never below eight bits in {spot.facts.arch}"
        elif spot.is_tied and options.output_type is not None:
            chosen, why = options.output_type, "as asked for of the output matrix, which it is too"
        else:
            chosen, why = mixture(spot)
        yield _fall_back(tensor, TypeChoice(chosen, why), spot.wanted)


def _fall_back(tensor: TensorToType, choice: TypeChoice, wanted: FileType) -> TypeChoice:
    """Take a type whose blocks fill the rows; the reason stays out where the type is the file type's own."""
    n_cols, block_size = tensor.shape[-1], GGML_QUANT_SIZES[choice.type][0]
    if n_cols % block_size == 0:
        return TypeChoice(choice.type, choice.reason if choice.type is not wanted.type else None)
    if choice.type not in _FALLBACK and block_size > _LARGEST_WITHOUT_FALLBACK:
        raise PlanError(
            f"tensor `{tensor.name}` has rows of {n_cols}, {choice.type.name} needs a multiple of {block_size}, "
            "and no other type stands in for it"
        )
    narrower = _FALLBACK.get(choice.type, choice.type)
    if n_cols % GGML_QUANT_SIZES[narrower][0]:
        narrower = _Type.F16
    return TypeChoice(narrower, f"rows of {n_cols} are not a multiple of {block_size}")
