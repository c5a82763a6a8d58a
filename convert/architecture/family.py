"""What a family of models is: tables and pure functions, and no code path of its own.

    renames, parts   what a stored tensor is called, and what it is cut into, in the words of gguf's TensorNameMap
    tensors          the rules: which tensors the GGUF can hold, of which shapes, made how of what is stored
    metadata         the rows of its own metadata, in the file's order
    tokenizer        which readers serve it, and what they set

Every stored tensor must meet a rule or be left out for a reason; every required rule must have what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.architecture.hyperparameters import MAX_EXPERTS, MAX_LAYERS
from convert.tokenizer import LLAMA_TOKENIZER, TokenizerRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gguf import MODEL_ARCH

    from convert.architecture.hyperparameters import Hyperparameters
    from convert.architecture.metadata import Row
    from convert.checkpoint import Tensor
    from convert.checkpoint.views import Constant


def as_stored(tensor: Tensor) -> Tensor:
    """Make nothing of it."""
    return tensor


_RMS_EPSILON: Final = "attention.layer_norm_rms_epsilon"
_EPSILON: Final = "attention.layer_norm_epsilon"


@dataclass(frozen=True, slots=True)
class Rule:
    """A tensor that the GGUF can hold.

    name: in GGUF. shape: NumPy order, that the stored tensor must have, None where any number of rows will do; of each,
    where several are stacked.
    make: the view that is written, of the stored tensor. of: what gguf's map calls the stored tensor, by default
    `name`; several rules may be made of one. n_stacked: how many are stacked along a new first axis, the experts.
    group: rules of one group are written together, when the last source of all of them is met.
    """

    name: str
    shape: tuple[int | None, ...]
    make: Callable[[Tensor], Tensor] = as_stored
    required: bool = True
    of: str | None = None
    n_stacked: int | None = None
    group: str | None = None

    @property
    def source(self) -> str:
        """What gguf's map calls the stored tensor."""
        return self.of or self.name


@dataclass(frozen=True, slots=True)
class Parts:
    r"""A stored tensor that holds several of the model's, and their usual names.

    pattern: of its name, matched whole. names: of equal runs of its rows, in order, with the pattern's groups (`\1`).
    Of a stack of experts each is cut: `{expert}` in a name gives them one by one, without it they stay a stack.
    """

    pattern: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Numbers:
    """Tensors of one number each that GGUF has in a list. pattern: of their names, with the layer's number a group.

    shape: that transformers gives them.
    """

    pattern: str
    key: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Counted:
    """A number of layers that the config may not say, or say wrongly, and the tensors tell.

    key: of the config. pattern: of names, with the layer's number a group. is_of_all: a file has it of all layers.
    """

    key: str
    pattern: str
    is_of_all: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What other programs do with a family, beyond what its files say; each None or empty where it is not known.

    n_rotary_tables: float32 buffers, half a head long, that transformers holds beside the weights.
    epsilons: of the keys of norms, those that llama.cpp looks for, the first if there is none; without `{arch}.`.
    rows_are_heads: queries and keys have a row for each number of each head.
    """

    n_rotary_tables: int | None = None
    epsilons: tuple[str, ...] = (_RMS_EPSILON, _EPSILON)
    rows_are_heads: bool = False


N_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts")
N_LAYERS: Final = ("n_layers", "num_hidden_layers", "n_layer", "num_layers")


def n_layers(h: Hyperparameters) -> int:
    """Count the blocks."""
    return h.size(*N_LAYERS, limit=MAX_LAYERS)


def n_experts(h: Hyperparameters) -> int | None:
    """Count the experts of a layer; None where there are none."""
    return h.optional_size(*N_EXPERTS, limit=MAX_EXPERTS)


# Experts as a state dict of transformers 5 holds them, of families that save them one by one as Qwen's.
FUSED_EXPERTS: Final = (
    Parts(r"(model\.layers\.\d+\.mlp\.experts)\.gate_up_proj", (r"\1.gate_proj.weight", r"\1.up_proj.weight")),
    Parts(r"(model\.layers\.\d+\.mlp\.experts)\.down_proj", (r"\1.down_proj.weight",)),
)


def nothing(_h: Hyperparameters, _name: str) -> str | None:
    """Leave nothing out."""
    return None


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table.

    hf_names: classes of transformers. left_out: says of a stored tensor that GGUF has no use for, why.
    renames: (pattern, replacement) for names that gguf's map does not know; `{n_layers}` is the first number behind
    the last layer. facts: for rooms that look at models. counted: layers, before all else is read.
    n_blocks: that GGUF counts, with those that predict several tokens. numbers: tensors that become metadata.
    first: rows that stand before all others of the file. not_beside: of classes with several names for one thing, a
    tensor of GGUF's block, and the pattern of names that none has beside it. text_types: the `model_type`s that the
    text model of a class may have, where that may be of several; any where empty.
    """

    hf_names: tuple[str, ...]
    arch: MODEL_ARCH
    metadata: tuple[Row, ...]
    tensors: Callable[[Hyperparameters, int], Iterator[Rule | Constant]]
    parts: tuple[Parts, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    left_out: Callable[[Hyperparameters, str], str | None] = nothing
    tokenizer: TokenizerRule = LLAMA_TOKENIZER
    facts: Facts = Facts()
    n_blocks: Callable[[Hyperparameters], int] = n_layers
    numbers: tuple[Numbers, ...] = ()
    first: tuple[Row, ...] = ()
    not_beside: tuple[tuple[str, str], ...] = ()
    text_types: tuple[str, ...] = ()
    counted: Counted | None = None
