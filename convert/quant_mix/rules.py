"""Where a file type's mixture departs from the type of its ordinary tensors: rules, in llama-quantize's order.

For a tensor in its role, the first rule of its role that is for the file type, and whose condition holds, gives the
type; where none does, the tensor gets the file type's own.
Source: src/llama-quant.cpp, llama_tensor_get_type_impl @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from convert.quant_mix.roles import VALUE_LIKE, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convert.quant_mix.facts import ModelFacts
    from convert.quant_mix.file_types import FileType

_Type = GGMLQuantizationType


@dataclass(frozen=True, slots=True)
class Spot:
    """A tensor where its type is decided.

    n_matrices: 1, or how many are stacked. index, of: its layer and how many there are, as llama-quantize counts them
    for its role. is_tied: embeddings that are the output matrix too. has_importance: a matrix is given, whether or not
    it has an entry for this tensor.
    """

    name: str
    role: Role
    n_cols: int
    n_matrices: int
    wanted: FileType
    facts: ModelFacts
    index: int
    of: int
    is_tied: bool
    has_importance: bool


@dataclass(frozen=True, slots=True)
class When:
    """A condition, and how a reason calls it; without words where the reason is plain without."""

    words: str
    holds: Callable[[Spot], bool]

    def __and__(self, other: When) -> When:
        words = ", ".join(filter(None, (self.words, other.words)))
        return When(words, lambda spot: self.holds(spot) and other.holds(spot))

    def __or__(self, other: When) -> When:
        words = " or ".join(filter(None, (self.words, other.words)))
        return When(words, lambda spot: self.holds(spot) or other.holds(spot))


@dataclass(frozen=True, slots=True)
class Rule:
    """For these file types, names in a row or `*` for all, and this condition: this type."""

    file_types: str
    type: GGMLQuantizationType
    when: When | None = None

    def applies(self, spot: Spot) -> bool:
        """Whether this rule is for the tensor."""
        is_meant = self.file_types == "*" or spot.wanted.name in self.file_types.split()
        return is_meant and (self.when is None or self.when.holds(spot))


def has_more_bits(index: int, of: int) -> bool:
    """Tell the layers that get more bits: the first and the last eighth, and every third between."""
    return index < of // 8 or index >= 7 * of // 8 or (index - of // 8) % 3 == 2  # noqa: PLR2004


_MORE: Final = When(
    "first and last eighth of the layers, every third between", lambda spot: has_more_bits(spot.index, spot.of)
)
_FIRST_EIGHTH: Final = When("first eighth of the layers", lambda spot: spot.index < spot.of // 8)
_FIRST_SIXTEENTH: Final = When("first sixteenth of the layers", lambda spot: spot.index < spot.of // 16)
_BETWEEN: Final = When(
    "neither first nor last eighth of the layers", lambda spot: spot.of // 8 <= spot.index < 7 * spot.of // 8
)
_FIRST_TWO: Final = When("first two", lambda spot: spot.index < 2)  # noqa: PLR2004
_FIRST_FOUR: Final = When("first four", lambda spot: spot.index < 4)  # noqa: PLR2004
_SHARED: Final = When("four query heads or more to a key", lambda spot: spot.facts.heads_to_a_kv_head >= 4)  # noqa: PLR2004
_FOUR_EXPERTS: Final = When("four experts or more", lambda spot: spot.facts.n_experts >= 4)  # noqa: PLR2004
_EIGHT_EXPERTS: Final = When("eight experts", lambda spot: spot.facts.n_experts == 8)  # noqa: PLR2004
_FALCON: Final = When("Falcon", lambda spot: spot.facts.arch == "falcon")
_NOT_FALCON: Final = When("", lambda spot: spot.facts.arch != "falcon")
_WITH_IMPORTANCE: Final = When("with an importance matrix", lambda spot: spot.has_importance)
_WITHOUT_IMPORTANCE: Final = When("without an importance matrix", lambda spot: not spot.has_importance)
_ODD_ROWS: Final = When(
    "rows that are not whole blocks", lambda spot: spot.n_cols % GGML_QUANT_SIZES[spot.wanted.type][0] != 0
)
_OTHER_THAN_Q8_0: Final = When("", lambda spot: spot.wanted.type is not _Type.Q8_0)
_STACKED: Final = When(
    "experts",
    lambda spot: (
        spot.n_matrices > 1 and (spot.facts.arch != "bailingmoe3" or spot.role in (Role.UP, Role.GATE, Role.DOWN))
    ),
)

# The lowest have rules of their own, and none of the others'.
_LOWEST: Final = "IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ1_S IQ1_M"
_LOWEST_NAMES: Final = frozenset(_LOWEST.split())
_OUTPUT: Final = (
    Rule("MXFP4_MOE", _Type.Q8_0),
    Rule("*", _Type.Q8_0, _FALCON | _ODD_ROWS),
    Rule(f"{_LOWEST} IQ3_XXS", _Type.Q5_K),
    Rule("*", _Type.Q6_K, _OTHER_THAN_Q8_0),
)
_MXFP4_MOE: Final = (Rule("*", _Type.MXFP4, _STACKED), Rule("*", _Type.Q8_0))
_EMBEDDING: Final = (
    Rule("IQ2_XXS IQ2_XS IQ1_S IQ1_M", _Type.Q2_K),
    Rule("IQ2_S IQ2_M IQ3_XXS", _Type.IQ3_S),
    Rule("TQ1_0 TQ2_0 Q2_0", _Type.Q4_K),
)

_VALUE_OF_LOWEST: Final = (
    Rule("*", _Type.Q4_K, _SHARED | _FOUR_EXPERTS),
    Rule("IQ2_S IQ2_M", _Type.IQ3_S),
    Rule("*", _Type.Q2_K),
)
_RULES_OF_LOWEST: Final[Mapping[Role, tuple[Rule, ...]]] = MappingProxyType(
    {
        **dict.fromkeys(VALUE_LIKE, _VALUE_OF_LOWEST),
        Role.KEY: (Rule("*", _Type.Q4_K, _EIGHT_EXPERTS),),
        Role.DOWN: (Rule("IQ2_S IQ2_M", _Type.IQ3_S, _FIRST_EIGHTH), Rule("*", _Type.Q2_K, _FIRST_EIGHTH)),
        Role.ATTENTION_OUTPUT: (
            Rule("*", _Type.Q5_K, _EIGHT_EXPERTS),
            Rule("IQ1_S IQ1_M", _Type.IQ2_XXS),
            Rule("IQ2_S IQ2_M", _Type.IQ3_S),
        ),
    }
)

_VALUE: Final = (
    Rule("*", _Type.Q8_0, _EIGHT_EXPERTS),
    Rule("Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", _Type.Q4_K, _SHARED),
    Rule("Q2_K", _Type.Q3_K),
    Rule("IQ3_XXS", _Type.IQ3_S, _WITHOUT_IMPORTANCE),
    Rule("IQ3_M", _Type.Q4_K),
    Rule("Q3_K_M", _Type.Q5_K, _FIRST_TWO),
    Rule("Q3_K_M", _Type.Q4_K),
    Rule("Q3_K_L", _Type.Q5_K),
    Rule("IQ4_NL IQ4_XS", _Type.Q5_K, _SHARED),
    Rule("Q4_K_M Q5_K_M", _Type.Q6_K, _MORE),
    Rule("Q4_K_S", _Type.Q5_K, _FIRST_FOUR),
)
_DOWN: Final = (
    Rule("Q2_K", _Type.Q3_K),
    Rule("Q2_K_S", _Type.Q4_K, _FIRST_EIGHTH),
    Rule("IQ3_XXS", _Type.Q4_K, _WITHOUT_IMPORTANCE & _FIRST_EIGHTH),
    Rule("IQ3_XXS", _Type.Q3_K, _WITHOUT_IMPORTANCE),
    Rule("Q3_K_M", _Type.Q5_K, _FIRST_SIXTEENTH),
    Rule("Q3_K_M", _Type.Q4_K, _NOT_FALCON | _MORE),
    Rule("IQ3_M", _Type.Q4_K, _FIRST_EIGHTH),
    Rule("IQ3_M", _Type.Q4_K, _EIGHT_EXPERTS & _MORE),
    Rule("Q3_K_L", _Type.Q4_K, _FALCON),
    Rule("Q3_K_L", _Type.Q5_K),
    Rule("Q4_K_M", _Type.Q6_K, _FALCON & _FIRST_SIXTEENTH),
    Rule("Q4_K_M", _Type.Q5_K, _FALCON & _MORE),
    Rule("Q4_K_M", _Type.Q6_K, _NOT_FALCON & _MORE),
    Rule("IQ4_NL IQ4_XS", _Type.Q5_K, _WITHOUT_IMPORTANCE & _FIRST_EIGHTH),
    Rule("Q5_K_M", _Type.Q6_K, _MORE),
    Rule("Q4_K_S", _Type.Q5_K, _NOT_FALCON & _FIRST_EIGHTH),
    Rule("Q4_0", _Type.Q4_1, _WITH_IMPORTANCE & _FIRST_EIGHTH),
    Rule("Q5_0", _Type.Q5_1, _WITH_IMPORTANCE & _FIRST_EIGHTH),
)
_NOT_8_EXPERTS: Final = When("", lambda spot: spot.facts.arch != "falcon" and spot.facts.n_experts != 8)  # noqa: PLR2004
_ATTENTION_OUTPUT: Final = (
    Rule("Q3_K_L", _Type.Q4_K, _FALCON),
    Rule(
        "Q2_K IQ3_XS IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS",
        _Type.Q5_K,
        _EIGHT_EXPERTS & _NOT_FALCON,
    ),
    Rule("Q2_K", _Type.Q3_K, _NOT_8_EXPERTS),
    Rule("IQ3_XXS", _Type.IQ3_S, _NOT_8_EXPERTS),
    Rule("Q3_K_M IQ3_M", _Type.Q4_K, _NOT_8_EXPERTS),
    Rule("Q3_K_L", _Type.Q5_K, _NOT_8_EXPERTS),
)
_KEY_AND_QUERY: Final = (Rule("IQ3_XS", _Type.IQ3_XXS), Rule("IQ3_XXS", _Type.IQ2_S))
_GATE_AND_UP: Final = (Rule("IQ3_XS", _Type.IQ3_XXS, _BETWEEN),)
_RULES: Final[Mapping[Role, tuple[Rule, ...]]] = MappingProxyType(
    {
        **dict.fromkeys(VALUE_LIKE, _VALUE),
        Role.KEY: (Rule("*", _Type.Q8_0, _EIGHT_EXPERTS), *_KEY_AND_QUERY),
        Role.QUERY: _KEY_AND_QUERY,
        Role.DOWN: _DOWN,
        Role.GATE: _GATE_AND_UP,
        Role.UP: _GATE_AND_UP,
        Role.ATTENTION_OUTPUT: _ATTENTION_OUTPUT,
    }
)

# What goes to 8 bits in any quantized file, before all rules.
_EIGHT_BITS_IN: Final = {"glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj")}


def is_lowest(wanted: FileType) -> bool:
    """Whether a file type is one of the lowest."""
    return wanted.name in _LOWEST_NAMES


def is_eight_bits(name: str, arch: str) -> bool:
    """Whether an architecture's tensor is Q8_0 in any quantized file."""
    return any(part in name for part in _EIGHT_BITS_IN.get(arch, ()))


def is_counted(role: Role, wanted: FileType, *, is_tied: bool) -> bool:
    """Whether a tensor's rules look at its layer, and llama-quantize so counts it."""
    if wanted.name == "MXFP4_MOE" or role is Role.OUTPUT or (role is Role.EMBEDDING and is_tied):
        return False
    return role in VALUE_LIKE or role is Role.DOWN or (role in (Role.GATE, Role.UP) and not is_lowest(wanted))


def mixture(spot: Spot) -> tuple[GGMLQuantizationType, str]:
    """Give the type that the mixture has for a tensor, and the rule that says so."""
    rule = next((rule for rule in _rules_for(spot) if rule.applies(spot)), Rule("*", spot.wanted.type))
    role = "tied embedding, also the output matrix" if spot.is_tied else spot.role.value
    # A 70B model's eight heads share their values, which are so small that more bits cost nearly nothing.
    if _is_value_of_70b(spot) and rule.type in (_Type.Q3_K, _Type.Q4_K):
        return _Type.Q5_K, f"{role}: 70B"
    words = "" if rule.when is None else rule.when.words
    return rule.type, f"{role}: {words}" if words else role


def _is_value_of_70b(spot: Spot) -> bool:
    is_usual = spot.role in VALUE_LIKE and not is_lowest(spot.wanted) and spot.wanted.name != "MXFP4_MOE"
    return is_usual and spot.facts.is_70b


def _rules_for(spot: Spot) -> tuple[Rule, ...]:
    if spot.role is Role.OUTPUT or spot.is_tied:
        return _OUTPUT
    if spot.wanted.name == "MXFP4_MOE":
        return _MXFP4_MOE
    if spot.role is Role.EMBEDDING:
        return _EMBEDDING
    return (_RULES_OF_LOWEST if is_lowest(spot.wanted) else _RULES).get(spot.role, ())
