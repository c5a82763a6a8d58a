"""The type of each tensor, as rules; that they are llama-quantize's own is what test_identity.py proves."""

from __future__ import annotations

import pytest
from gguf import GGMLQuantizationType as T

from convert.quant_mix import Choice, ModelFacts, OutputType, converter_choice, file_order, ggml_n_dims, quantize_choice

UNTIED = ModelFacts("llama", 0, tied_embeddings=False)
TIED = ModelFacts("llama", 0, tied_embeddings=True)
EIGHT = ModelFacts("llama", 8, tied_embeddings=False)
FALCON = ModelFacts("falcon", 0, tied_embeddings=False)


@pytest.mark.parametrize(
    ("name", "shape", "wanted", "facts", "chosen"),
    [
        ("blk.0.ffn_up.weight", (512, 256), OutputType.Q4_0, UNTIED, T.Q4_0),
        ("output.weight", (320, 256), OutputType.Q4_0, UNTIED, T.Q6_K),
        ("output.weight", (320, 256), OutputType.Q8_0, UNTIED, T.Q8_0),
        ("output.weight", (320, 96), OutputType.Q5_1, UNTIED, T.Q8_0),
        ("output.weight", (320, 48), OutputType.Q5_1, UNTIED, T.F16),
        ("output.weight", (320, 256), OutputType.Q4_0, FALCON, T.Q8_0),
        ("token_embd.weight", (320, 256), OutputType.Q4_0, UNTIED, T.Q4_0),
        ("token_embd.weight", (320, 256), OutputType.Q4_0, TIED, T.Q6_K),
        ("blk.0.attn_v.weight", (64, 256), OutputType.Q4_0, EIGHT, T.Q8_0),
        ("blk.0.attn_k.weight", (64, 256), OutputType.Q4_0, EIGHT, T.Q8_0),
        ("blk.0.attn_q.weight", (64, 256), OutputType.Q4_0, EIGHT, T.Q4_0),
        ("blk.0.ffn_up.weight", (512, 48), OutputType.Q4_0, UNTIED, T.F16),
        ("blk.0.attn_norm.weight", (256,), OutputType.Q4_0, UNTIED, T.F16),
        ("blk.0.ffn_gate_inp.weight", (8, 256), OutputType.Q4_0, EIGHT, T.F16),
        ("blk.0.ffn_up.weight", (512, 256), OutputType.F32, UNTIED, T.F32),
        ("blk.0.ffn_up_exps.weight", (1, 1, 256), OutputType.Q4_0, UNTIED, T.F16),
    ],
)
def test_a_tensor_gets_its_type(
    name: str, shape: tuple[int, ...], wanted: OutputType, facts: ModelFacts, chosen: T
) -> None:
    assert quantize_choice(name, shape, T.F16, wanted, facts).type is chosen


def test_a_deviation_has_a_reason_and_the_rule_has_none() -> None:
    assert quantize_choice("blk.0.ffn_up.weight", (64, 256), T.F16, OutputType.Q4_0, UNTIED).reason is None
    fallback = quantize_choice("blk.0.ffn_up.weight", (64, 48), T.F16, OutputType.Q4_0, UNTIED)
    assert fallback == Choice(T.F16, "rows of 48 are not a multiple of 32")


@pytest.mark.parametrize(
    ("always_f32", "shape", "wanted", "chosen"),
    [
        (False, (64, 64), T.F16, T.F16),
        (False, (64,), T.F16, T.F32),
        (True, (8, 64), T.BF16, T.F32),
        (False, (64, 64), T.F32, T.F32),
    ],
)
def test_the_converter_keeps_vectors_and_routers_in_float32(
    always_f32: bool, shape: tuple[int, ...], wanted: T, chosen: T
) -> None:
    assert converter_choice(always_f32=always_f32, shape=shape, wanted=wanted).type is chosen


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
