"""Llama, Mistral and Mixtral: one GGUF architecture.

Source: conversion/llama.py, LlamaModel, and conversion/base.py, TextModel.set_gguf_parameters @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType, get_tensor_name_map

from convert.architecture.experts import EXPERT_OUTPUTS, expert_part, unfuse_experts
from convert.architecture.family import Architecture, Constant, ExpectedTensor, SourcePart
from convert.errors import PlanError, UnsupportedError
from convert.transform import InterleaveHalves

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from convert.model_config import ModelConfig, RopeParameters

# Buffers that old transformers versions saved beside the weights.
_IGNORED: Final = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")

_POSITIVE: Final = ("factor", "low_freq_factor", "high_freq_factor")

# "dynamic" scaling leaves nothing in the file: llama.cpp runs such a model at its original length.
_ROPE_TYPES: Final = ("default", "linear", "yarn", "llama3", "dynamic")


def _check(config: ModelConfig) -> None:
    if config.rope.type is not None and config.rope.type not in _ROPE_TYPES:
        raise UnsupportedError(
            f"rope scaling `{config.rope.type}` in config.json", hint=f"supported are {', '.join(_ROPE_TYPES)}"
        )
    _check_rope(config.rope)
    if config.rms_norm_eps is None:
        raise PlanError("config.json lacks `rms_norm_eps`")


def _check_rope(rope: RopeParameters) -> None:
    positive = {"rope_theta": rope.theta} | {key: rope.values.get(key) for key in _POSITIVE}
    for key, value in positive.items():
        if value is not None and value <= 0:
            raise PlanError(f"`{key}` in config.json is {value}, wanted a positive number")
    if rope.type == "llama3" and rope.values.get("low_freq_factor", 1.0) == rope.values.get("high_freq_factor", 4.0):
        raise PlanError("the rope scaling's `low_freq_factor` and `high_freq_factor` in config.json are equal")


def _write_parameters(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.n_heads)
    if config.n_kv_heads is not None:
        writer.add_head_count_kv(config.n_kv_heads)
    if not config.is_causal:
        writer.add_causal_attention(False)  # noqa: FBT003 - gguf's own signature
    _write_rope_scaling(writer, config.rope)
    if config.rope.theta is not None:
        writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.layer_norm_eps is not None:
        writer.add_layer_norm_eps(config.layer_norm_eps)
    if config.n_experts is not None:
        writer.add_expert_count(config.n_experts)
    if config.n_experts_used is not None:
        writer.add_expert_used_count(config.n_experts_used)
    if config.head_dim is not None:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    # The reference writes the file type here; the plan knows it.
    writer.add_file_type(0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.resolved_head_dim)


def _write_rope_scaling(writer: GGUFWriter, rope: RopeParameters) -> None:
    factor = rope.values.get("factor")
    if rope.type == "linear" and factor is not None:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(factor)
    elif rope.type == "yarn" and factor is not None:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(int(rope.values["original_max_position_embeddings"]))
        _write_yarn_factors(writer, rope.values)


def _write_yarn_factors(writer: GGUFWriter, values: Mapping[str, float]) -> None:
    adders = (
        (("extrapolation_factor",), writer.add_rope_scaling_yarn_ext_factor),
        (("attention_factor", "attn_factor"), writer.add_rope_scaling_yarn_attn_factor),
        (("beta_fast",), writer.add_rope_scaling_yarn_beta_fast),
        (("beta_slow",), writer.add_rope_scaling_yarn_beta_slow),
    )
    for keys, add in adders:
        value = next((values[key] for key in keys if key in values), None)
        if value is not None:
            add(value)


def _expected_tensors(config: ModelConfig) -> Mapping[str, ExpectedTensor]:
    embedding = ExpectedTensor((config.vocab_size, config.hidden_size))
    expected = {"token_embd.weight": embedding}
    for layer in range(config.n_layers):
        names = _attention(config) | (_dense_ffn(config) if config.n_experts is None else _expert_ffn(config, layer))
        expected |= {f"blk.{layer}.{name}": tensor for name, tensor in names.items()}
    expected["output_norm.weight"] = ExpectedTensor((config.hidden_size,), always_f32=True)
    expected["output.weight"] = ExpectedTensor(embedding.shape, required=not config.tie_word_embeddings)
    return expected


def _attention(config: ModelConfig) -> dict[str, ExpectedTensor]:
    head_dim, hidden = config.resolved_head_dim, config.hidden_size
    q_rows, kv_rows = config.n_heads * head_dim, config.resolved_kv_heads * head_dim
    rotary = InterleaveHalves(head_dim)
    return {
        "attn_norm.weight": ExpectedTensor((hidden,), always_f32=True),
        "attn_q.weight": ExpectedTensor((q_rows, hidden), transform=rotary),
        "attn_k.weight": ExpectedTensor((kv_rows, hidden), transform=rotary),
        "attn_v.weight": ExpectedTensor((kv_rows, hidden)),
        "attn_output.weight": ExpectedTensor((hidden, q_rows)),
        "attn_q.bias": ExpectedTensor((q_rows,), required=False, transform=rotary, always_f32=True),
        "attn_k.bias": ExpectedTensor((kv_rows,), required=False, transform=rotary, always_f32=True),
        "attn_v.bias": ExpectedTensor((kv_rows,), required=False, always_f32=True),
        "attn_output.bias": ExpectedTensor((hidden,), required=False, always_f32=True),
        "ffn_norm.weight": ExpectedTensor((hidden,), always_f32=True),
    }


def _dense_ffn(config: ModelConfig) -> dict[str, ExpectedTensor]:
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "ffn_gate.weight": ExpectedTensor((inner, hidden)),
        "ffn_up.weight": ExpectedTensor((inner, hidden)),
        "ffn_down.weight": ExpectedTensor((hidden, inner)),
        "ffn_gate.bias": ExpectedTensor((inner,), required=False, always_f32=True),
        "ffn_up.bias": ExpectedTensor((inner,), required=False, always_f32=True),
        "ffn_down.bias": ExpectedTensor((hidden,), required=False, always_f32=True),
    }


def _expert_ffn(config: ModelConfig, layer: int) -> dict[str, ExpectedTensor]:
    n_experts, hidden, inner = config.n_experts or 0, config.hidden_size, config.intermediate_size
    shapes = {"w1": (inner, hidden), "w2": (hidden, inner), "w3": (inner, hidden)}
    experts = {
        f"{output}.weight": ExpectedTensor((n_experts, *shapes[part]), stack=n_experts, group=f"experts of {layer}")
        for part, output in EXPERT_OUTPUTS.items()
    }
    return {"ffn_gate_inp.weight": ExpectedTensor((n_experts, hidden), always_f32=True)} | experts


def _locate(config: ModelConfig) -> Callable[[str], SourcePart | None]:
    name_map = get_tensor_name_map(MODEL_ARCH.LLAMA, config.n_layers)
    expected = _expected_tensors(config)

    def locate(name: str) -> SourcePart | None:
        part = expert_part(name)
        if part is None:
            part = SourcePart(name_map.get_name(name, try_suffixes=(".weight", ".bias")) or "")
        if part.output not in expected or part.index >= (expected[part.output].stack or 1):
            return None
        return part

    return locate


def _constants(config: ModelConfig) -> Sequence[Constant]:
    if (config.rope.type or "").lower() != "llama3":
        return ()
    return (
        Constant(
            "rope_freqs.weight", llama3_rope_factors(config.rope, config.resolved_head_dim).astype("<f4").tobytes()
        ),
    )


def llama3_rope_factors(rope: RopeParameters, head_dim: int) -> NDArray[np.float32]:
    """Compute what llama.cpp divides each rotary frequency by.

    Returns float32 (head_dim / 2,): 1 for short wavelengths, `factor` for long ones, a smooth mix between.
    Every operation is rounded to float32, in the reference's order; its powers are correctly rounded
    here, while torch's may be one unit in the last place off, depending on the processor.
    Source: conversion/llama.py, LlamaModel.generate_extra_tensors @ 0c1e570.
    """
    single = np.float32
    base = float(single(rope.theta if rope.theta is not None else 10000.0))
    low, high = rope.values.get("low_freq_factor", 1.0), rope.values.get("high_freq_factor", 4.0)
    factor, old_length = rope.values.get("factor", 8.0), rope.values.get("original_max_position_embeddings", 8192)
    exponents = np.arange(0, head_dim, 2, dtype=single) / single(head_dim)
    frequencies = single(1) / np.power(base, exponents.astype(np.float64)).astype(single)
    wavelengths = (single(1) / frequencies) * single(2 * np.pi)
    smooth = ((single(1) / wavelengths) * single(old_length) - single(low)) / single(high - low)
    mixed = single(1) / ((single(1) - smooth) / single(factor) + smooth)
    factors = np.where(wavelengths > single(old_length / low), single(factor), mixed)
    scaled: NDArray[np.float32] = np.where(wavelengths < single(old_length / high), single(1), factors).astype(single)
    return scaled


LLAMA: Final = Architecture(
    hf_names=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
    gguf_arch=MODEL_ARCH.LLAMA,
    unfuse=unfuse_experts,
    ignored=_IGNORED,
    check=_check,
    write_parameters=_write_parameters,
    expected_tensors=_expected_tensors,
    locate=_locate,
    constants=_constants,
)
