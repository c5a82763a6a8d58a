"""Gemma 3n, text. Source: conversion/gemma.py, Gemma3NModel @ 0c1e570; src/models/gemma3n.cpp.

Beside Gemma 3's a layer has a small input of its own for every token, four states that predict one another (AltUp),
and a way round of low rank (LAuReL). The last layers use earlier ones' keys and values; llama.cpp looks for theirs all
the same, which transformers 5 saves no longer: it gets those of the layer that they are from, and does not compute
with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, GGUFValueType, Keys

from convert.architecture.blocks import attention, feed_forward, norm, tied_output, vocabulary_size
from convert.architecture.family import Counted, Facts, Family, Rule, n_layers
from convert.architecture.gemma3 import GEMMA3
from convert.architecture.metadata import (
    U32,
    Row,
    Value,
    changed,
    computed,
    count,
    kinds_of_windows,
    meant,
    required,
    u32,
)
from convert.checkpoint.columns import Padded
from convert.errors import ConfigError, PlanError, UnsupportedError
from convert.tokenizer import GEMMA_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor

_WITH_KEYS: Final = "layers_with_keys"  # none of config.json's: the tensors tell
_N_STATES: Final = 4
_EVERY: Final = 5  # has full attention
_N_SPARSE: Final = 10  # layers, of which each lets through what is this far beyond the mean
_SPARSITY: Final = {0.95: float.fromhex("0x1.a5152p+0"), 0.0: float("-inf")}
_N_OWN_KEYS: Final = 20
_SMALL_INPUT: Final = 256
_RANK: Final = 64
_SMALL_EMBEDDINGS: Final = "per_layer_token_embd.weight"


def _n_own_keys(h: Hyperparameters) -> int:
    return n_layers(h) - (h.optional_count("num_kv_shared_layers") or 0)


def _sparsity(h: Hyperparameters) -> list[float]:
    pattern = h.get("activation_sparsity_pattern")
    if not isinstance(pattern, list) or len(pattern) != n_layers(h):
        raise ConfigError(f"`activation_sparsity_pattern` in {h.where} has no number for each of {n_layers(h)} layers")
    return pattern


def _check(h: Hyperparameters) -> Iterator[Value]:
    """Refuse what llama.cpp knows otherwise of every Gemma 3n."""
    usual = _of_layers(n_layers(h)) | {
        "altup_num_inputs": _N_STATES,
        "altup_active_idx": 0,
        "altup_correct_scale": True,
        "hidden_size_per_layer_input": _SMALL_INPUT,
        "laurel_rank": _RANK,
        "final_logit_softcapping": 30.0,
    }
    for key, value in usual.items():
        if h.get(key) != value:
            raise UnsupportedError(
                f"`{key}` in {h.where} is {h.get(key)!r:.60}, llama.cpp's Gemma 3n has {value!r:.60}"
            )
    yield from ()


def _of_layers(n: int) -> dict[str, object]:
    """Give what llama.cpp takes for granted of so many layers."""
    return {
        "layer_types": ["full_attention" if _sees_all(layer) else "sliding_attention" for layer in range(n)],
        "activation_sparsity_pattern": [0.95 if layer < _N_SPARSE else 0.0 for layer in range(n)],
        "num_kv_shared_layers": max(n - _N_OWN_KEYS, 0),
    }


def _usual_of_file(given: Given) -> Mapping[str, Any]:
    return _of_layers(given.get(Keys.LLM.BLOCK_COUNT))


def _inner_of_file(given: Given) -> Mapping[str, Any]:
    return {"intermediate_size": list(given.get(Keys.LLM.FEED_FORWARD_LENGTH))}


def _of_all_tokens(h: Hyperparameters, name: str, n_cols: int) -> Iterator[Rule]:
    """Yield embeddings; tokens without, those of images and sound, have zeros."""
    n_tokens = vocabulary_size(h)

    def padded(tensor: Tensor) -> Tensor:
        if tensor.shape[0] > n_tokens:
            raise PlanError(f"tensor `{tensor.name}` has {tensor.shape[0]} rows, config.json says {n_tokens}")
        return tensor if tensor.shape[0] == n_tokens else Padded(tensor, tensor.name, (n_tokens, n_cols))

    yield Rule(name, (None, n_cols), padded)


def _tensors(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    del n_tokens
    hidden, small = h.size("hidden_size"), h.size("hidden_size_per_layer_input")
    yield from _of_all_tokens(h, "token_embd.weight", hidden)
    yield from _of_all_tokens(h, _SMALL_EMBEDDINGS, small * n_layers(h))
    yield Rule("per_layer_model_proj.weight", (small * n_layers(h), hidden))
    yield from norm("per_layer_proj_norm", small)
    for part in ("altup_proj", "altup_unembd_proj"):
        yield Rule(f"{part}.weight", (hidden, hidden), n_stacked=_N_STATES - 1)
    for layer in range(n_layers(h)):
        yield from _layer(h, layer)
    yield from norm("output_norm", hidden)


def _layer(h: Hyperparameters, layer: int) -> Iterator[Rule]:
    block, hidden = f"blk.{layer}", h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from _attention(h, layer)
    yield from norm(f"{block}.post_attention_norm", hidden)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield from feed_forward(hidden, _inner(h)[layer], block, biases=False)
    yield from norm(f"{block}.post_ffw_norm", hidden)
    yield from _beside(h, block)


def _attention(h: Hyperparameters, layer: int) -> Iterator[Rule]:
    block, first = f"blk.{layer}", _n_own_keys(h)
    lacks_keys = layer >= first and (h.optional_count(_WITH_KEYS) or 0) <= first
    shared = max((other for other in range(first) if _sees_all(other) == _sees_all(layer)), default=0)
    for rule in attention(h, block, head_norms=True, output_bias=False):
        part = rule.name.removeprefix(f"{block}.")
        of = f"blk.{shared}.{part}" if lacks_keys and part.startswith(("attn_k", "attn_v")) else None
        yield Rule(rule.name, rule.shape, rule.make, rule.required, of)


def _sees_all(layer: int) -> bool:
    return (layer + 1) % _EVERY == 0


def _beside(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, small, rank = h.size("hidden_size"), h.size("hidden_size_per_layer_input"), h.size("laurel_rank")
    yield Rule(f"{block}.inp_gate.weight", (small, hidden))
    yield Rule(f"{block}.proj.weight", (hidden, small))
    yield from norm(f"{block}.post_norm", hidden)
    yield Rule(f"{block}.altup_correct_coef.weight", (_N_STATES, _N_STATES))
    yield Rule(f"{block}.altup_correct_scale.weight", (hidden,))
    yield Rule(f"{block}.altup_predict_coef.weight", (_N_STATES * _N_STATES, _N_STATES))
    yield Rule(f"{block}.altup_router.weight", (_N_STATES, hidden))
    yield from norm(f"{block}.altup_router_norm", hidden)
    yield Rule(f"{block}.laurel_l.weight", (rank, hidden))
    yield Rule(f"{block}.laurel_r.weight", (hidden, rank))
    yield from norm(f"{block}.laurel_post_norm", hidden)


def _inner(h: Hyperparameters) -> tuple[int, ...]:
    inner = h.get("intermediate_size")
    listed = inner if isinstance(inner, list) else [inner] * n_layers(h)
    if len(listed) != n_layers(h) or not all(type(size) is int and size > 0 for size in listed):
        raise ConfigError(f"`intermediate_size` in {h.where} is {inner!r:.60}, wanted sizes for {n_layers(h)} layers")
    return tuple(listed)


def _windows(h: Hyperparameters) -> tuple[bool, ...]:
    return tuple(kind == "sliding_attention" for kind in h.texts("layer_types") or ())


GEMMA3N: Final = Family(
    hf_names=("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
    arch=MODEL_ARCH.GEMMA3N,
    metadata=(
        Row(_check, back=_usual_of_file, sure=True),
        *changed(
            GEMMA3.metadata[:-2], lambda h: h.replaced(intermediate_size=_inner(h)[0])
        ),  # without the windows' period, and the scale of queries
        computed(Keys.LLM.FEED_FORWARD_LENGTH, GGUFValueType.ARRAY, _inner, _inner_of_file),
        count(Keys.LLM.ALTUP_ACTIVE_IDX, "altup_active_idx"),
        required(u32(Keys.LLM.ALTUP_NUM_INPUTS, "altup_num_inputs"), "altup_num_inputs"),
        u32(Keys.LLM.EMBD_LENGTH_PER_LAYER_INP, "hidden_size_per_layer_input"),
        computed(Keys.Attention.SHARED_KV_LAYERS, U32, lambda h: n_layers(h) - _n_own_keys(h)),
        computed(
            Keys.LLM.ACTIVATION_SPARSITY_SCALE,
            GGUFValueType.ARRAY,
            lambda h: tuple(_SPARSITY[value] for value in _sparsity(h)),
        ),
        computed(Keys.Attention.SLIDING_WINDOW_PATTERN, GGUFValueType.ARRAY, _windows, kinds_of_windows),
        meant(vocab_size_per_layer_input=lambda given: given.tensors[_SMALL_EMBEDDINGS].shape[0]),
    ),
    tensors=_tensors,
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    renames=((r"_scale$", "_scale.weight"),),
    left_out=tied_output,
    tokenizer=GEMMA_TOKENIZER,
    counted=Counted(_WITH_KEYS, r"layers\.(\d+)\.self_attn\.k_proj\.", is_of_all=True),
)
