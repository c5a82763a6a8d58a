"""The type of each tensor, as rules; that they are llama-quantize's own is what test_identity.py proves."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from gguf import GGMLQuantizationType as T

from convert.errors import PlanError, UsageError
from convert.quant_mix import (
    FILE_TYPES,
    SETS,
    ModelFacts,
    TensorToType,
    TypeChoice,
    choose_float_types,
    choose_types,
    file_order,
    find_file_types,
    ggml_n_dims,
    quantize_options,
)

if TYPE_CHECKING:
    from pathlib import Path

    from reference import Reference

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


@pytest.mark.parametrize(
    ("written", "found"),
    [("q4_k_m", "Q4_K_M"), ("Q4_K", "Q4_K_M"), ("q3_k", "Q3_K_M"), ("q5_k", "Q5_K_M"), (" iq4_XS ", "IQ4_XS"),
     ("15", "Q4_K_M"), ("0", "F32"), ("copy", "COPY"), ("mxfp4_moe", "MXFP4_MOE")],
)  # fmt: skip
def test_a_type_is_found_by_its_names(written: str, found: str) -> None:
    assert [kind.name for kind in find_file_types(written)] == [found]


def test_sets_of_types() -> None:
    assert find_file_types("All") == tuple(kind for name, kind in FILE_TYPES.items() if name != "COPY")
    assert {"F16", "Q8_0", "Q4_K_M", "IQ4_XS"} <= {kind.name for kind in find_file_types("standard")}


@pytest.mark.parametrize(
    ("written", "nearest"),
    [("q4_k_l", "q4_k_m, with the token embedding and the output matrix in q8_0"), ("iq4_k", "iq4_nl"),
     ("IQ2_KS", "iq2_xs"), ("iq4_ks_r4", "iq4_xs"), ("UD-Q4_K_XL", "q4_k_m"), ("q4_0_8_8", "q4_0"), ("Q4_KM", "q4_k_m"),
     ("nvfp4", "mxfp4_moe")],
)  # fmt: skip
def test_a_type_that_only_others_know_is_an_error_that_names_the_nearest(written: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"unknown type `{written}`") as caught:
        find_file_types(written)
    assert (caught.value.hint or "").startswith(f"nearest is {nearest}")


def test_an_unknown_type_is_an_error_that_lists_all() -> None:
    with pytest.raises(UsageError) as caught:
        find_file_types("fp8")
    assert all(name.lower() in (caught.value.hint or "") for name in FILE_TYPES)


def test_the_types_and_numbers_are_llama_quantizes(reference: Reference) -> None:
    usage = subprocess.run([reference.quantize, "--help"], capture_output=True, text=True, check=False).stdout
    listed = dict(reversed(pair) for pair in re.findall(r"^ +(\d+) +or +(\w+)", usage, re.MULTILINE))
    assert {name: str(find_file_types(name)[0].declared) for name in listed} == listed
    assert set(listed) >= {kind.name for kind in SETS["ALL"]}


@pytest.mark.parametrize(
    "words",
    [
        {"tensor_type": ["attn_v"]}, {"tensor_type": ["=q8_0"]}, {"tensor_type": ["attn_v=q9"]},
        {"tensor_type": ["(=q8_0"]}, {"tensor_type": ["(?i)a=q8_0"]}, {"tensor_type": [r"\x41=q8_0"]},
        {"tensor_type": ["a=q8_K"]}, {"output_tensor_type": "q8_1"}, {"prune_layers": "1,x"},
        {"override_kv": ["a=int:x"]}, {"override_kv": ["a"]}, {"override_kv": ["a=u32:1"]},
        {"override_kv": ["a=bool:1"]}, {"override_kv": ["general.alignment=int:64"]},
        {"override_kv": ["a=int:5000000000"]}, {"override_kv": [f"a=str:{'x' * 128}"]},
        {"include_weights": ["a"]}, {"tensor_type_file": "/nowhere"},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_make_no_sense_are_errors(words: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        quantize_options(**words)


def test_a_file_of_types_is_read_after_the_options(tmp_path: Path) -> None:
    (tmp_path / "types.txt").write_text("attn_v=q8_0 ffn=q4_0\n\tattn=f16\n")
    options = quantize_options(tensor_type=["attn_q=bf16"], tensor_type_file=tmp_path / "types.txt")
    chosen = {name: options.type_for(f"blk.0.{name}.weight") for name in ("attn_q", "attn_v", "attn_k", "ssm")}
    assert {name: rule and rule.type for name, rule in chosen.items()} == {
        "attn_q": T.BF16, "attn_v": T.Q8_0, "attn_k": T.F16, "ssm": None,
    }  # fmt: skip


def test_a_tensor_in_no_layer_is_an_error_where_experts_are_counted_by_name() -> None:
    with pytest.raises(PlanError, match=r"`blk\.7\.ffn_down\.weight` is in no layer of the model's 1"):
        _choice("blk.7.ffn_down.weight", (64, 256), "Q4_K_M", EIGHT)


def test_every_choice_of_the_mixture_has_a_reason() -> None:
    assert (
        _choice("blk.0.attn_v.weight", (64, 256), "Q4_K_M").reason
        == "attention value: first and last eighth of the layers, every third between"
    )
    assert _choice("output.weight", (64, 256), "IQ2_XS").reason == "output matrix"
    assert _choice("token_embd.weight", (64, 256), "Q4_K_M", None).reason is not None


def test_a_type_that_was_asked_for_and_does_not_fit_is_an_error_that_names_the_tensor() -> None:
    tensors = [TensorToType("output.weight", (8, 288), T.F16)]
    with pytest.raises(PlanError, match=r"`output\.weight` was asked for in Q6_K, which its rows of 288 do not fill"):
        choose_types(tensors, FILE_TYPES["Q8_0"], LLAMA, quantize_options(output_tensor_type="q6_k"))
