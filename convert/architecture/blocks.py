"""Rules that families share: plain functions of the hyperparameters, a part of a model each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Protocol

from convert.architecture.family import Rule, as_stored, n_experts, n_layers
from convert.architecture.hyperparameters import MAX_VOCABULARY
from convert.architecture.metadata import head_dim
from convert.architecture.rope import llama3_rope_factors, rope_of, rope_type
from convert.architecture.row_order import is_ggufs_own, rotary_rows
from convert.checkpoint.columns import Columns
from convert.checkpoint.views import Blocks, Constant, Rows, Shifted, Transposed, concatenated
from convert.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor

Make = Callable[["Tensor"], "Tensor"]
_ALL: Final = slice(None)


class Matrix(Protocol):
    """Yields the rules of a layer's matrix and of its bias, as `linear` does."""

    def __call__(
        self, name: str, n_out: int, n_in: int, make: Make = ..., *, needs_bias: bool = False
    ) -> Iterator[Rule]:
        """Yield them."""


# The three matrices of a gated feed-forward, in the order in which stacks of experts are written by most families.
DOWN_GATE_UP = ("down", "gate", "up")

# Experts fused and transposed, of which gate and up are made: see `transposed_experts`.
TRANSPOSED_EXPERTS: Final = (
    (r"\.experts\.gate_up_proj$", ".experts.gate_proj.weight"),
    (r"\.experts\.gate_up_proj_bias$", ".experts.gate_proj.bias"),
    (r"\.experts\.down_proj$", ".experts.down_proj.weight"),
    (r"\.experts\.down_proj_bias$", ".experts.down_proj.bias"),
)


def decoder(
    block: Callable[[Hyperparameters, str], Iterator[Rule | Constant]],
    *,
    bias: bool = False,
    needs_output: bool = False,
    plus_one: bool = False,
    rope_freqs: bool = False,
) -> Callable[[Hyperparameters, int], Iterator[Rule | Constant]]:
    """Make a family's rules: embeddings, blocks, the last norm, the output.

    block: yields the rules of one, `blk.0`. bias, plus_one: of the last norm. needs_output: see `output`.
    rope_freqs: llama.cpp looks for the factors of Llama 3's rotary scaling.
    """

    def rules(h: Hyperparameters, _n_tokens: int) -> Iterator[Rule | Constant]:
        if rope_freqs and rope_type(h) == "llama3":
            yield Constant("rope_freqs.weight", llama3_rope_factors(rope_of(h), head_dim(h)).astype("<f4").tobytes())
        yield from embeddings(h)
        for layer in range(n_layers(h)):
            yield from block(h, f"blk.{layer}")
        yield from norm("output_norm", h.size("hidden_size"), bias=bias, plus_one=plus_one)
        yield from output(h, needed=needs_output)

    return rules


def gated_block(
    h: Hyperparameters, block: str, *, interleave: bool = False, head_norms: bool = False, biases: bool = True
) -> Iterator[Rule]:
    """Yield Llama's block: norm, attention, norm, gated feed-forward. biases: beyond queries, keys and values."""
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block, interleave=interleave, head_norms=head_norms, output_bias=biases)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield from feed_forward(hidden, h.size("intermediate_size"), block, biases=biases)


def embeddings(h: Hyperparameters) -> Iterator[Rule]:
    """Yield the token embeddings."""
    yield Rule("token_embd.weight", (vocabulary_size(h), h.size("hidden_size")))


def cut_embeddings(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    """Yield the token embeddings, of which rows beyond the tokens are left out; fewer rows than tokens are an error.

    Raises PlanError, when the rule is applied.
    """

    def cut(tensor: Tensor) -> Tensor:
        n_rows, n_cols = tensor.shape
        if n_rows < n_tokens:
            raise PlanError(f"tensor `{tensor.name}` has {n_rows} rows, the tokenizer has {n_tokens} tokens")
        return Rows(tensor, tensor.name, (n_tokens, n_cols))

    yield Rule("token_embd.weight", (None, h.size("hidden_size")), cut)


def output(h: Hyperparameters, *, needed: bool = False) -> Iterator[Rule]:
    """Yield the output matrix: none where it is the embeddings, unless llama.cpp needs one all the same."""
    shape, is_tied = (vocabulary_size(h), h.size("hidden_size")), h.flag("tie_word_embeddings")
    if is_tied and needed:
        yield Rule("output.weight", shape, of="token_embd.weight")
    else:
        # A model without a head (`LlamaModel`) may be saved with one, or run as if it were tied.
        yield Rule("output.weight", shape, required=not is_tied and not h.architecture.endswith("Model"))


def tied_output(h: Hyperparameters, name: str) -> str | None:
    """Leave out an output matrix that is the embeddings: state dicts hold both."""
    tied = h.flag("tie_word_embeddings") and name in ("lm_head.weight", "model.lm_head.weight")
    return "the output matrix, which is the embeddings" if tied else None


def vocabulary_size(h: Hyperparameters) -> int:
    """Return the rows of the embeddings that the config says."""
    return h.size("vocab_size", limit=MAX_VOCABULARY)


def norm(name: str, n_values: int, *, plus_one: bool = False, bias: bool = False) -> Iterator[Rule]:
    """Yield a norm's weight; plus_one: the model adds 1 to what is stored; bias: it has one."""
    yield Rule(f"{name}.weight", (n_values,), _plus_one if plus_one else as_stored)
    if bias:
        yield Rule(f"{name}.bias", (n_values,))


def _plus_one(tensor: Tensor) -> Tensor:
    return tensor if is_ggufs_own(tensor.name) else Shifted(tensor, tensor.name, 1.0)


def linear(
    name: str, n_out: int, n_in: int, make: Make = as_stored, *, needs_bias: bool = False, no_bias: bool = False
) -> Iterator[Rule]:
    """Yield a layer's weight and its bias, which may be missing, or must not, or which llama.cpp has no place for."""
    yield Rule(f"{name}.weight", (n_out, n_in), make)
    if not no_bias:
        yield Rule(f"{name}.bias", (n_out,), make, required=needs_bias)


def attention(
    h: Hyperparameters,
    block: str,
    *,
    interleave: bool = False,
    head_norms: bool = False,
    plus_one: bool = False,
    output_bias: bool = True,
) -> Iterator[Rule]:
    """Yield query, key, value and output. block: `blk.0`.

    interleave: GGUF's architecture turns neighbouring rows, as llama's does. head_norms: queries and keys have one.
    output_bias: llama.cpp has a place for it.
    Raises ConfigError for heads that cannot be; PlanError, when a rule is applied, for rows in an unknown order.
    """
    hidden, size = h.size("hidden_size"), head_dim(h)
    n_heads = h.size("num_attention_heads")
    n_kv_heads = h.optional_size("num_key_value_heads") or n_heads
    check_heads(h, n_heads, n_kv_heads, size)

    def rotary(tensor: Tensor) -> Tensor:
        return rotary_rows(tensor, head_dim=size, in_pairs=interleave)

    yield from linear(f"{block}.attn_q", n_heads * size, hidden, rotary)
    yield from linear(f"{block}.attn_k", n_kv_heads * size, hidden, rotary)
    yield from linear(f"{block}.attn_v", n_kv_heads * size, hidden)
    yield from linear(f"{block}.attn_output", hidden, n_heads * size, no_bias=not output_bias)
    if head_norms:
        yield from norm(f"{block}.attn_q_norm", size, plus_one=plus_one)
        yield from norm(f"{block}.attn_k_norm", size, plus_one=plus_one)


def check_heads(h: Hyperparameters, n_heads: int, n_kv_heads: int, size: int) -> None:
    """Raise ConfigError for numbers of heads that do not go together, or a head that has no halves."""
    hidden = h.size("hidden_size")
    if h.optional_size("head_dim") is None and hidden % n_heads:
        raise ConfigError(f"`hidden_size` {hidden} is not a multiple of `num_attention_heads` {n_heads} in {h.where}")
    if n_heads % n_kv_heads:
        raise ConfigError(
            f"`num_attention_heads` {n_heads} is not a multiple of `num_key_value_heads` {n_kv_heads} in {h.where}"
        )
    if size % 2:
        raise ConfigError(f"the head size {size} in {h.where} is odd; rotary embedding needs pairs")


def feed_forward(hidden: int, inner: int, block: str, *, suffix: str = "", biases: bool = True) -> Iterator[Rule]:
    """Yield gate, up and down. suffix: `_shexp` for experts that all tokens go through. biases: see `linear`."""
    yield from linear(f"{block}.ffn_gate{suffix}", inner, hidden, no_bias=not biases)
    yield from linear(f"{block}.ffn_up{suffix}", inner, hidden, no_bias=not biases)
    yield from linear(f"{block}.ffn_down{suffix}", hidden, inner, no_bias=not biases)


def ungated(
    hidden: int, inner: int, block: str, matrix: Matrix = linear, *, needs_bias: bool = False
) -> Iterator[Rule]:
    """Yield a feed-forward without gate: up and down."""
    yield from matrix(f"{block}.ffn_up", inner, hidden, needs_bias=needs_bias)
    yield from matrix(f"{block}.ffn_down", hidden, inner, needs_bias=needs_bias)


def one_after_the_other(n_groups: int, sizes: tuple[int, ...]) -> Make:
    """Make the view that puts what is stored group by group one after the other: all queries, all keys, all values.

    sizes: rows of each in a group.
    """
    return partial(grouped, n_groups=n_groups, sizes=sizes)


def grouped(tensor: Tensor, n_groups: int, sizes: tuple[int, ...], taken: slice = _ALL) -> Tensor:
    """Put the first part of every group one after the other, then the second; only the parts that are taken."""
    if is_ggufs_own(tensor.name) or len(sizes) == 1:
        return tensor
    period, first_rows = sum(sizes), accumulate(sizes, initial=0)
    parts = [
        Blocks(tensor, tensor.name, (n_groups * size, *tensor.shape[1:]), period, first, size)
        for size, first in zip(sizes, first_rows, strict=False)
    ][taken]
    return parts[0] if len(parts) == 1 else concatenated(tensor.name, tuple(parts))


def fused_block(
    block: str,
    hidden: int,
    inner: int,
    *,
    matrix: Matrix = linear,
    make: Make = as_stored,
    n_qkv: int | None = None,
    bias: bool = True,
) -> Iterator[Rule]:
    """Yield a block of GPT-2's kind: norms, queries, keys and values in one matrix, a feed-forward without gate.

    make, n_qkv: that matrix' view and rows. bias: all have one.
    """
    yield from norm(f"{block}.attn_norm", hidden, bias=bias)
    yield from matrix(f"{block}.attn_qkv", n_qkv or 3 * hidden, hidden, make, needs_bias=bias)
    yield from matrix(f"{block}.attn_output", hidden, hidden, needs_bias=bias)
    yield from norm(f"{block}.ffn_norm", hidden, bias=bias)
    yield from ungated(hidden, inner, block, matrix, needs_bias=bias)


def experts(h: Hyperparameters, inner: int, block: str, order: tuple[str, ...] = DOWN_GATE_UP) -> Iterator[Rule]:
    """Yield the router and the stacked experts, which are written together."""
    count, hidden = n_experts(h) or 0, h.size("hidden_size")
    used = h.optional_size("num_experts_per_tok")
    if used is not None and used > count:
        raise ConfigError(f"`num_experts_per_tok` {used} exceeds the {count} experts in {h.where}")
    yield Rule(f"{block}.ffn_gate_inp.weight", (count, hidden))
    for part in order:
        shape = (hidden, inner) if part == "down" else (inner, hidden)
        yield Rule(f"{block}.ffn_{part}_exps.weight", shape, n_stacked=count, group=f"{block} experts")


def turned(tensor: Tensor, period: int = 1, first: int = 0) -> Tensor:
    """Give what is stored transposed as GGUF has it: of each `period` columns the half that begins at `first`."""
    if period > 1:
        tensor = Columns(tensor, tensor.name, period, first, period // 2)
    return Transposed(tensor, tensor.name)


def transposed_experts(
    h: Hyperparameters, inner: int, block: str, *, together: int, turn: Callable[..., Tensor] = turned
) -> Iterator[Rule]:
    """Yield the router and experts that are stored transposed: (experts, hidden, 2 x inner), (experts, inner, hidden).

    together: how many columns of gate stand together, before as many of up. turn: see `turned`. See TRANSPOSED_EXPERTS.
    """
    count, hidden, gate_up = n_experts(h) or 0, h.size("hidden_size"), f"{block}.ffn_gate_exps.weight"

    yield Rule(f"{block}.ffn_gate_inp.weight", (count, hidden))
    stored, gate = (count, hidden, 2 * inner), partial(turn, period=2 * together)
    yield Rule(gate_up, stored, gate)
    yield Rule(f"{block}.ffn_up_exps.weight", stored, partial(gate, first=together), of=gate_up)
    yield Rule(f"{block}.ffn_down_exps.weight", (count, inner, hidden), turn)
