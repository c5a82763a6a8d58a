"""A family's own metadata as rows, in the order in which the reference first adds each key.

A key that a later row gives again keeps its place and changes its value, as in the reference's writer.
Source: conversion/base.py, TextModel.set_gguf_parameters @ 0c1e570.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH_NAMES, ExpertGatingFuncType, GGUFValueType, Keys, RopeScalingType

from convert.architecture.family import N_EXPERTS, N_LAYERS, n_layers
from convert.architecture.given import under
from convert.architecture.hyperparameters import MAX_EXPERTS
from convert.architecture.rope import (
    rope_base,
    rope_base_of_windows,
    rope_beyond_defaults,
    rope_scaling,
    rope_sections,
)
from convert.architecture.rope_back import rope_of_file, sections_of_file
from convert.errors import ConfigError, UnsupportedError
from convert.gguf_file import KeyValue
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from convert.architecture.family import Family
    from convert.architecture.given import Back, Given
    from convert.architecture.hyperparameters import Hyperparameters

Value = tuple[str, Any, GGUFValueType]  # a key with `{arch}` in it, its value and type
U32: Final = GGUFValueType.UINT32
F32: Final = GGUFValueType.FLOAT32
BOOL: Final = GGUFValueType.BOOL


@dataclass(frozen=True, slots=True)
class Row:
    """One key, or several that belong together. values: gives them for a config; none where it has no such thing.

    key, back: the row read from right to left: for what a file says under the key, the keys of a config. sure: they are
    said in any case, not only where the config made so far says otherwise.
    """

    values: Callable[[Hyperparameters], Iterator[Value]]
    key: str | None = None
    back: Back | None = None
    sure: bool = False


def metadata_of(family: Family, h: Hyperparameters) -> dict[str, KeyValue]:
    """Give a family's own entries, by key, in file order. Raises ConfigError or UnsupportedError."""
    return _entries(family, family.metadata, h)


def first_metadata_of(family: Family, h: Hyperparameters) -> dict[str, KeyValue]:
    """Give those that the reference adds while it goes through the tensors: they stand before all others."""
    return _entries(family, family.first, h)


def _entries(family: Family, rows: tuple[Row, ...], h: Hyperparameters) -> dict[str, KeyValue]:
    arch = MODEL_ARCH_NAMES[family.arch]
    entries: dict[str, KeyValue] = {}
    for row in rows:
        for template, value, value_type in row.values(h):
            key = template.format(arch=arch)
            entries[key] = KeyValue(key, value, value_type)
    return entries


def u32(key: str, *aliases: str, default: int | None = None, limit: int | None = None) -> Row:
    """Make a row of a whole number: of the first of the aliases that the config has, null included."""

    def values(h: Hyperparameters) -> Iterator[Value]:
        bound = {} if limit is None else {"limit": limit}
        value = h.optional_size(*aliases, **bound)
        value = default if value is None and not h.has(*aliases) else value
        if value is not None:
            yield key, value, U32

    return Row(values, key, under(key, *aliases), sure=True)


def count(key: str, *aliases: str) -> Row:
    """Make a row of a whole number that may be 0."""
    return Row(computed(key, U32, lambda h: h.optional_count(*aliases)).values, key, under(key, *aliases), sure=True)


def f32(key: str, *aliases: str, default: float | None = None) -> Row:
    """Make a row of a number in float32."""

    def values(h: Hyperparameters) -> Iterator[Value]:
        value = h.number(*aliases)
        value = default if value is None and not h.has(*aliases) else value
        if value is not None:
            yield key, value, F32

    return Row(values, key, under(key, *aliases), sure=True)


def required(row: Row, name: str) -> Row:
    """Make a row that the model cannot do without: ConfigError names the config's key."""

    def values(h: Hyperparameters) -> Iterator[Value]:
        found = list(row.values(h))
        if not found:
            raise ConfigError(f"{h.where} lacks `{name}`")
        yield from found

    return replace(row, values=values)


def computed(
    key: str,
    value_type: GGUFValueType,
    compute: Callable[[Hyperparameters], Any],
    back: Back | tuple[str, ...] | None = None,
) -> Row:
    """Make a row of what a function gives; None: no entry. back: the reverse, or the names of a config key."""

    def values(h: Hyperparameters) -> Iterator[Value]:
        value = compute(h)
        if value is not None:
            yield key, value, value_type

    return Row(values, key, under(key, *back) if isinstance(back, tuple) else back)


def meant(**config: Callable[[Given], Any]) -> Row:
    """Make a row that writes nothing, of what a file means without saying it: keys of a config that has them."""

    def back(given: Given) -> Mapping[str, Any]:
        return {key: value(given) for key, value in config.items() if key in given.defaults}

    return Row(lambda _h: iter(()), back=back, sure=True)


def only(keys: tuple[str, ...], values: tuple[object, ...] = ()) -> Row:
    """Make a row that writes nothing: UnsupportedError where the first present of the keys says another value.

    It is for what llama.cpp computes in one way only. A key that is absent or null says nothing.
    """

    def check(h: Hyperparameters) -> Iterator[Value]:
        value = h.get(*keys)
        if value is not None and value not in values:
            wanted = " or ".join(f"`{json.dumps(value)}`" for value in values) or "none"
            raise UnsupportedError(
                f"`{h.key(*keys)}` in {h.where} is {shown(value)}; llama.cpp's {h.architecture} has {wanted}"
            )
        yield from ()

    return Row(check, back=partial(_in_one_way, keys, values), sure=True)


def _in_one_way(keys: tuple[str, ...], values: tuple[object, ...], given: Given) -> Mapping[str, Any]:
    name = given.spelled(*keys)
    default = given.defaults.get(name)
    return {} if default is None or default in values else {name: next(iter(values), None)}


def changed(
    rows: tuple[Row, ...], change: Callable[[Hyperparameters], Hyperparameters], **renamed: str
) -> tuple[Row, ...]:
    """Make the same rows, of a config that is changed first. renamed: keys that are read from others, and which."""
    return tuple(
        replace(
            row,
            values=partial(_of_changed, row, change),
            back=None if row.back is None else partial(_renamed, row.back, renamed),
        )
        for row in rows
    )


def _renamed(back: Back, renamed: Mapping[str, str], given: Given) -> Mapping[str, Any]:
    return {renamed.get(key, key): value for key, value in back(given).items()}


def _of_changed(row: Row, change: Callable[[Hyperparameters], Hyperparameters], h: Hyperparameters) -> Iterator[Value]:
    yield from row.values(change(h))


def _windows(h: Hyperparameters) -> Iterator[Value]:
    """Yield the window, and which layers have it, where `layer_types` says so."""
    window, kinds = h.optional_size("sliding_window"), h.get("layer_types")
    if window is not None:
        yield Keys.Attention.SLIDING_WINDOW, window, U32
        if isinstance(kinds, list):
            pattern = tuple(kind == "sliding_attention" for kind in kinds)
            yield Keys.Attention.SLIDING_WINDOW_PATTERN, pattern, GGUFValueType.ARRAY


def kinds_of_windows(given: Given) -> Mapping[str, Any]:
    """Read which layers have a window."""
    pattern, window = given.get(Keys.Attention.SLIDING_WINDOW_PATTERN), given.get(Keys.Attention.SLIDING_WINDOW)
    kinds = [] if pattern is None else [_KINDS[bool(has_window)] for has_window in pattern]
    said = {"sliding_window": window} if window is not None or "sliding_window" in given.defaults else {}
    return said | ({"layer_types": kinds} if kinds else {})


_KINDS: Final = ("full_attention", "sliding_attention")
WINDOWS: Final = Row(_windows, Keys.Attention.SLIDING_WINDOW, kinds_of_windows)


def window_period(usual: int) -> Row:
    """Make a row of n where every nth layer has full attention, and the others a window.

    usual: what llama.cpp takes without the key. The reference writes none, and such a model then runs as usual.
    Raises UnsupportedError for layers in another order: GGUF's key holds one number.
    """

    def period(h: Hyperparameters) -> int | None:
        kinds = h.texts("layer_types")
        if kinds is None:
            found = h.optional_size("sliding_window_pattern") or usual
        else:
            found = kinds.index("full_attention") + 1 if "full_attention" in kinds else max(len(kinds) + 1, usual)
            if any((kind == "full_attention") != ((index + 1) % found == 0) for index, kind in enumerate(kinds)):
                raise UnsupportedError(f"the `layer_types` in {h.where} are not every nth with full attention")
        return None if found == usual or min(found, usual) > n_layers(h) else found

    def kinds(given: Given) -> Mapping[str, Any]:
        every = given.get(Keys.Attention.SLIDING_WINDOW_PATTERN, usual)
        n_blocks = given.get(Keys.LLM.BLOCK_COUNT)
        return {"layer_types": [_KINDS[(index + 1) % every != 0] for index in range(n_blocks)]}

    return computed(Keys.Attention.SLIDING_WINDOW_PATTERN, U32, period, kinds)


ACTIVATION: Final = ("hidden_act", "hidden_activation", "activation_function", "activation")
SILU: Final = only(ACTIVATION, ("silu", "swish"))
GELU: Final = only(ACTIVATION, ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh"))
NO_SCALING: Final = computed(Keys.Rope.SCALING_TYPE, GGUFValueType.STRING, lambda _: RopeScalingType.NONE.value)


def head_dim(h: Hyperparameters) -> int:
    """Return the size of one attention head: the config's, or its share of the hidden size."""
    return h.optional_size("head_dim") or h.size("hidden_size") // h.size("num_attention_heads")


def _gating(h: Hyperparameters) -> int | None:
    name = h.text(
        "score_function", "scoring_func", "score_func", "moe_router_activation", "moe_router_activation_func",
        "expert_selection_fn",
    )  # fmt: skip
    if name is None:
        return None
    if name not in _GATING:
        raise UnsupportedError(f"the experts' score function `{name}` in {h.where}")
    return int(_GATING[name])


_GATING: Final = {"sigmoid": ExpertGatingFuncType.SIGMOID, "softmax": ExpertGatingFuncType.SOFTMAX}


def _gating_name(given: Given) -> Mapping[str, Any]:
    names = {int(kind): name for name, kind in _GATING.items()}
    found = names.get(given.get(Keys.LLM.EXPERT_GATING_FUNC))
    return {} if found is None else {"scoring_func": found}


def late_gating(compute: Callable[[Hyperparameters], Any]) -> Row:
    """Make a row of the score function where a config does not say it, after all rows of COMMON.

    Read backwards, its place in the file tells whether the config said it.
    """

    def back(given: Given) -> Mapping[str, Any]:
        return _gating_name(given) if given.is_early(Keys.LLM.EXPERT_GATING_FUNC) else {}

    return replace(computed(Keys.LLM.EXPERT_GATING_FUNC, U32, compute, back), sure=True)


BLOCK_COUNT: Final = computed(Keys.LLM.BLOCK_COUNT, U32, n_layers, N_LAYERS)
ROPE_BASE: Final = replace(computed(Keys.Rope.FREQ_BASE, F32, rope_base, rope_of_file), sure=True)
ROPE_BEYOND_DEFAULTS: Final = Row(rope_beyond_defaults, Keys.Rope.FREQ_BASE, rope_of_file, sure=True)

COMMON: Final = (
    BLOCK_COUNT,
    u32(
        Keys.LLM.CONTEXT_LENGTH,
        "max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length",
    ),
    u32(Keys.LLM.EMBEDDING_LENGTH, "hidden_size", "n_embd", "dim"),
    u32(
        Keys.LLM.FEED_FORWARD_LENGTH,
        "prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size", "n_inner", "hidden_dim",
    ),
    u32(Keys.Attention.HEAD_COUNT, "num_attention_heads", "n_head", "n_heads"),
    u32(Keys.Attention.HEAD_COUNT_KV, "num_key_value_heads", "n_kv_heads"),
    computed(
        Keys.Attention.CAUSAL, BOOL, lambda h: False if h.get("is_causal") is False else None, ("is_causal",)
    ),
    Row(rope_scaling, Keys.Rope.SCALING_TYPE, rope_of_file, sure=True),
    computed(Keys.Rope.DIMENSION_SECTIONS, GGUFValueType.ARRAY, rope_sections, sections_of_file),
    ROPE_BASE,
    computed(Keys.Rope.FREQ_BASE_SWA, F32, rope_base_of_windows, rope_of_file),
    f32(Keys.Attention.LAYERNORM_RMS_EPS, "rms_norm_eps", "norm_eps"),
    f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    u32(Keys.LLM.EXPERT_COUNT, *N_EXPERTS, limit=MAX_EXPERTS),
    u32(Keys.LLM.EXPERT_USED_COUNT, "num_experts_per_tok", "num_experts_per_token", "top_k_experts", limit=MAX_EXPERTS),
    u32(Keys.LLM.EXPERT_GROUP_COUNT, "n_group", limit=MAX_EXPERTS),
    u32(Keys.LLM.EXPERT_GROUP_USED_COUNT, "topk_group", limit=MAX_EXPERTS),
    computed(Keys.LLM.EXPERT_GATING_FUNC, U32, _gating, _gating_name),
    u32(Keys.Attention.KEY_LENGTH, "head_dim"),
    u32(Keys.Attention.VALUE_LENGTH, "head_dim"),
    computed(Keys.General.FILE_TYPE, U32, lambda _: 0),  # a hole: the plan knows it
)  # fmt: skip
