"""The type of each tensor, as rules; that they are llama-quantize's own is what test_identity.py proves."""

from __future__ import annotations

import pytest
from gguf import GGMLQuantizationType as T

from convert.quant_mix import (
    FILE_TYPES,
    ModelFacts,
    TensorToType,
    TypeChoice,
    choose_float_types,
    choose_types,
    file_order,
    ggml_n_dims,
)

LLAMA = ModelFacts("llama", n_layers=1)
EIGHT = ModelFacts("llama", n_layers=1, n_experts=8)
FALCON = ModelFacts("falcon", n_layers=1)


@pytest.mark.parametrize(
    ("name", "shape", "wanted", "facts", "chosen"),
    [
        ("blk.0.ffn_up.weight", (512, 256), "Q4_0", LLAMA, T.Q4_0),
        ("output.weight", (320, 256), "Q4_0", LLAMA, T.Q6_K),
        ("output.weight", (320, 256), "Q8_0", LLAMA, T.Q8_0),
        ("output.weight", (320, 96), "Q5_1", LLAMA, T.Q8_0),
        ("output.weight", (320, 48), "Q5_1", LLAMA, T.F16),
        ("output.weight", (320, 256), "Q4_0", FALCON, T.Q8_0),
        ("token_embd.weight", (320, 256), "Q4_0", LLAMA, T.Q4_0),
        ("token_embd.weight", (320, 256), "Q4_0", None, T.Q6_K),
        ("blk.0.attn_v.weight", (64, 256), "Q4_0", EIGHT, T.Q8_0),
        ("blk.0.attn_k.weight", (64, 256), "Q4_0", EIGHT, T.Q8_0),
        ("blk.0.attn_q.weight", (64, 256), "Q4_0", EIGHT, T.Q4_0),
        ("blk.0.ffn_up.weight", (512, 48), "Q4_0", LLAMA, T.F16),
        ("blk.0.attn_norm.weight", (256,), "Q4_0", LLAMA, T.F16),
        ("blk.0.ffn_gate_inp.weight", (8, 256), "Q4_0", EIGHT, T.F16),
        ("blk.0.ffn_up.weight", (512, 256), "F32", LLAMA, T.F32),
        ("blk.0.ffn_up_exps.weight", (1, 1, 256), "Q4_0", LLAMA, T.F16),
    ],
)
def test_a_tensor_gets_its_type(
    name: str, shape: tuple[int, ...], wanted: str, facts: ModelFacts | None, chosen: T
) -> None:
    assert _choice(name, shape, wanted, facts).type is chosen


def _choice(name: str, shape: tuple[int, ...], wanted: str, facts: ModelFacts | None = LLAMA) -> TypeChoice:
    """Choose in a file that has an output matrix, but for facts None: there the embeddings are tied."""
    tensors = [TensorToType(name, shape, T.F16)]
    if facts is not None:
        tensors.append(TensorToType("output.weight", (320, 256), T.F16))
    return choose_types(tensors, FILE_TYPES[wanted], facts or LLAMA)[0]


def test_a_deviation_has_a_reason_and_the_rule_has_none() -> None:
    assert _choice("blk.0.ffn_up.weight", (64, 256), "Q4_0").reason is None
    fallback = _choice("blk.0.ffn_up.weight", (64, 48), "Q4_0")
    assert fallback == TypeChoice(T.F16, "rows of 48 are not a multiple of 32")


@pytest.mark.parametrize(
    ("name", "shape", "wanted", "chosen"),
    [
        ("blk.0.ffn_up.weight", (64, 64), "F16", T.F16),
        ("blk.0.ffn_up.weight", (64, 64), "F32", T.F32),
        ("blk.0.ffn_up.bias", (64,), "F16", T.F32),
        ("blk.0.ffn_gate_inp.weight", (8, 64), "BF16", T.F32),
        ("blk.0.ffn_gate_inp_shexp.weight", (1, 64), "F16", T.F32),
        ("blk.0.attn_q_norm.weight", (2, 64), "F16", T.F32),
        ("blk.0.ssm_a", (8, 64), "F16", T.F32),
        ("position_embd.weight", (8, 64), "F16", T.F32),
        ("token_embd.weight", (8, 64), "BF16", T.BF16),
    ],
)
def test_the_converter_keeps_vectors_norms_and_routers_in_float32(
    name: str, shape: tuple[int, ...], wanted: str, chosen: T
) -> None:
    (choice,) = choose_float_types([TensorToType(name, shape, T.F16)], FILE_TYPES[wanted])
    assert choice.type is chosen


def test_llama_quantize_orders_by_block_number_then_name() -> None:
    names = ["output.weight", "blk.10.a", "blk.2.b", "blk.2.a", "rope_freqs.weight", "output_norm.weight"]
    assert file_order(names) == [
        "output.weight",
        "output_norm.weight",
        "rope_freqs.weight",
        "blk.2.a",
        "blk.2.b",
        "blk.10.a",
    ]


@pytest.mark.parametrize(("shape", "n_dims"), [((64,), 1), ((1, 64), 1), ((2, 64), 2), ((1, 2, 64), 2), ((1,), 1)])
def test_leading_dimensions_of_one_do_not_count(shape: tuple[int, ...], n_dims: int) -> None:
    assert ggml_n_dims(shape) == n_dims
