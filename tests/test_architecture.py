"""Checkpoint tensors meet GGUF tensors: tested from names and shapes alone, with no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.architecture import find_family, map_tensors, plain_names, read_hyperparameters
from convert.architecture.family import Rule
from convert.architecture.hyperparameters import Rope
from convert.architecture.rope import llama3_rope_factors
from convert.checkpoint import StoredType, Tensor, TensorSource
from convert.checkpoint.normalized import Normalized
from convert.checkpoint.views import Constant, Swapped, leaves
from convert.errors import PlanError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 320,
}
MIXTRAL = LLAMA | {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 2}

Shapes = dict[str, tuple[int, ...]]


def _block(layer: int) -> Shapes:
    prefix = f"model.layers.{layer}."
    return {
        f"{prefix}input_layernorm.weight": (64,),
        f"{prefix}mlp.down_proj.weight": (64, 96),
        f"{prefix}mlp.gate_proj.weight": (96, 64),
        f"{prefix}mlp.up_proj.weight": (96, 64),
        f"{prefix}post_attention_layernorm.weight": (64,),
        f"{prefix}self_attn.k_proj.weight": (32, 64),
        f"{prefix}self_attn.o_proj.weight": (64, 64),
        f"{prefix}self_attn.q_proj.weight": (64, 64),
        f"{prefix}self_attn.v_proj.weight": (32, 64),
    }


def _llama_shapes() -> Shapes:
    ends = {"lm_head.weight": (320, 64), "model.embed_tokens.weight": (320, 64), "model.norm.weight": (64,)}
    return ends | _block(0) | _block(1)


def _mixtral_shapes() -> Shapes:
    shapes = {name: shape for name, shape in _llama_shapes().items() if ".mlp." not in name}
    for layer in range(2):
        prefix = f"model.layers.{layer}.block_sparse_moe."
        shapes[f"{prefix}gate.weight"] = (2, 64)
        for expert in range(2):
            experts = {"w1": (96, 64), "w2": (64, 96), "w3": (96, 64)}
            shapes |= {f"{prefix}experts.{expert}.{part}.weight": shape for part, shape in experts.items()}
    return shapes


def _map(raw: dict[str, Any], shapes: Shapes) -> dict[str, Tensor]:
    h = read_hyperparameters(raw)
    stored = {name: TensorSource(name, Path("none"), 0, StoredType.F16, shape) for name, shape in shapes.items()}
    return dict(map_tensors(find_family(h.architecture), h, stored, n_tokens=320).tensors)


def test_tensors_keep_the_checkpoints_order() -> None:
    assert list(_map(LLAMA, _llama_shapes()))[:6] == [
        "output.weight",
        "token_embd.weight",
        "output_norm.weight",
        "blk.0.attn_norm.weight",
        "blk.0.ffn_down.weight",
        "blk.0.ffn_gate.weight",
    ]


def test_queries_and_keys_are_interleaved_head_by_head_and_nothing_else_is() -> None:
    mapped = _map(LLAMA, _llama_shapes())
    moved = {name for name, view in mapped.items() if isinstance(view, Swapped) and view.row_unit == 16}
    assert moved == {f"blk.{layer}.attn_{part}.weight" for layer in (0, 1) for part in "qk"}


def _respelled(old: str, new: str) -> Shapes:
    return {name.replace(old, new): shape for name, shape in _llama_shapes().items()}


@pytest.mark.parametrize("spelling", ["self_attn.q_proj_no_perm", "attention.wq"])
def test_queries_that_are_called_otherwise_are_in_ggufs_order_already(spelling: str) -> None:
    view = _map(LLAMA, _respelled("self_attn.q_proj", spelling))["blk.0.attn_q.weight"]
    assert isinstance(view, TensorSource)


def test_a_spelling_whose_order_of_rows_nobody_knows_is_an_error() -> None:
    shapes = _llama_shapes()
    shapes["encoder.layer.1.attention.self.query.weight"] = shapes.pop("model.layers.1.self_attn.q_proj.weight")
    with pytest.raises(
        PlanError, match=r"`encoder\.layer\.1\.attention\.self\.query\.weight` has rows in an order that"
    ):
        _map(LLAMA, shapes)


QWEN = LLAMA | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 2,
    "num_experts_per_tok": 2,
}


def test_metas_order_is_refused_where_gguf_wants_halves_and_ggufs_own_is_not() -> None:
    h = read_hyperparameters(QWEN | {"moe_intermediate_size": 32, "head_dim": 16})
    rules = {rule.name: rule for rule in find_family("Qwen3MoeForCausalLM").tensors(h, 320) if isinstance(rule, Rule)}
    make = rules["blk.0.attn_q.weight"].make
    own, metas = (
        TensorSource(name, Path("none"), 0, StoredType.F16, (64, 64))
        for name in ("blk.0.attn_q.weight", "layers.0.attention.wq.weight")
    )
    assert make(own) is own
    with pytest.raises(PlanError, match="in Meta's order"):
        make(metas)


def test_what_gguf_has_done_to_values_is_not_done_to_tensors_of_its_names() -> None:
    h = read_hyperparameters(
        LLAMA | {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "head_dim": 16}
    )
    rules = {rule.name: rule for rule in find_family("Gemma3ForCausalLM").tensors(h, 320) if isinstance(rule, Rule)}
    own = TensorSource("output_norm.weight", Path("none"), 0, StoredType.F32, (64,))
    assert rules["output_norm.weight"].make(own) is own
    stored = TensorSource("model.norm.weight", Path("none"), 0, StoredType.F32, (64,))
    assert rules["output_norm.weight"].make(stored) is not stored


def test_experts_are_stacked_where_the_last_of_their_block_stands() -> None:
    mapped = _map(MIXTRAL, _mixtral_shapes())
    names = [name for name in mapped if name.startswith("blk.0.ffn")]
    assert names == [
        "blk.0.ffn_norm.weight",
        "blk.0.ffn_gate_inp.weight",
        "blk.0.ffn_gate_exps.weight",
        "blk.0.ffn_down_exps.weight",
        "blk.0.ffn_up_exps.weight",
    ]
    down = mapped["blk.0.ffn_down_exps.weight"]
    assert down.shape == (2, 64, 96)
    wanted = [f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight" for expert in (0, 1)]
    assert [source.name for source in leaves(down)] == wanted


def test_a_tied_model_needs_no_output_matrix() -> None:
    shapes = _llama_shapes()
    del shapes["lm_head.weight"]
    assert "output.weight" not in _map(LLAMA | {"tie_word_embeddings": True}, shapes)
    with pytest.raises(PlanError, match=r"lacks 1 tensors that the model needs: `lm_head\.weight`"):
        _map(LLAMA, shapes)


def test_old_rotary_buffers_are_ignored() -> None:
    shapes = _llama_shapes() | {"model.layers.0.self_attn.rotary_emb.inv_freq": (8,)}
    assert list(_map(LLAMA, shapes)) == list(_map(LLAMA, _llama_shapes()))


def test_a_tensor_nobody_maps_is_an_error() -> None:
    with pytest.raises(PlanError, match=r"1 tensors have no place in a LlamaForCausalLM of 2 layers: `model\.extra"):
        _map(LLAMA, _llama_shapes() | {"model.extra.weight": (1,)})


def test_a_layer_beyond_the_configs_is_an_error() -> None:
    with pytest.raises(PlanError, match="9 tensors have no place"):
        _map(LLAMA, _llama_shapes() | _block(2))


def test_two_sources_for_one_output_are_an_error_that_names_both() -> None:
    shapes = _llama_shapes() | {"layers.0.attention.wq.weight": (64, 64)}
    with pytest.raises(
        PlanError, match=r"self_attn\.q_proj\.weight` and `layers\.0\.attention\.wq\.weight` both become"
    ):
        _map(LLAMA, shapes)


def test_a_missing_layer_is_an_error_that_names_the_tensors() -> None:
    with pytest.raises(PlanError, match=r"lacks 9 tensors .*`model\.layers\.2\.input_layernorm\.weight`"):
        _map(LLAMA | {"num_hidden_layers": 3}, _llama_shapes())


def test_a_missing_expert_is_an_error() -> None:
    shapes = _mixtral_shapes()
    del shapes["model.layers.1.block_sparse_moe.experts.1.w2.weight"]
    with pytest.raises(PlanError, match=r"`model\.layers\.1\.block_sparse_moe\.experts\.1\.w2\.weight`"):
        _map(MIXTRAL, shapes)


def test_more_experts_than_the_config_says_are_an_error() -> None:
    shapes = _mixtral_shapes() | {"model.layers.0.block_sparse_moe.experts.2.w2.weight": (64, 96)}
    with pytest.raises(PlanError, match="no place"):
        _map(MIXTRAL, shapes)


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("model.embed_tokens.weight", (321, 64), "(320, 64)"),
        ("model.layers.0.self_attn.k_proj.weight", (64, 64), "(32, 64)"),
        ("model.layers.1.mlp.down_proj.weight", (96, 64), "(64, 96)"),
        ("model.norm.weight", (1, 64), "(64,)"),
    ],
)
def test_a_shape_that_contradicts_the_config_names_both(name: str, shape: tuple[int, ...], wanted: str) -> None:
    with pytest.raises(PlanError) as caught:
        _map(LLAMA, _llama_shapes() | {name: shape})
    assert name in caught.value.message
    assert str(shape) in caught.value.message
    assert f"config.json says {wanted}" in caught.value.message


# Llama 3.1, 3.2 and 3.3 scale by 8 or 32 from 8192 at head sizes 64 and 128; the others are fine-tunes' freedom.
@pytest.mark.parametrize("theta", [500000.0, 10000.0, 1000000.0])
@pytest.mark.parametrize("head_dim", [16, 32, 64, 128])
@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("length", [8192, 4096])
def test_llama3_rope_factors_are_those_of_torch(theta: float, head_dim: int, factor: float, length: int) -> None:
    import torch

    rope = Rope({"rope_theta": theta, "factor": factor, "original_max_position_embeddings": length}, "here")
    frequencies = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    expected = []
    for frequency in frequencies:
        wavelength = 2 * np.pi / frequency
        share = (length / wavelength - 1.0) / 3.0
        mixed = 1 / ((1 - share) / factor + share)
        expected.append(1.0 if wavelength < length / 4 else factor if wavelength > length else float(mixed))
    assert llama3_rope_factors(rope, head_dim).tolist() == np.array(expected, np.float32).tolist()


def test_the_llama3_factors_stand_first_in_the_file() -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    mapped = _map(LLAMA | {"rope_scaling": scaling}, _llama_shapes())
    first = next(iter(mapped.values()))
    assert isinstance(first, Constant)
    assert (first.name, first.shape, len(first.data)) == ("rope_freqs.weight", (8,), 32)


def test_an_explicit_head_dim_sizes_the_attention() -> None:
    shapes = _llama_shapes()
    for name in list(shapes):
        if "q_proj" in name or "o_proj" in name:
            shapes[name] = (128, 64) if "q_proj" in name else (64, 128)
        if "k_proj" in name or "v_proj" in name:
            shapes[name] = (64, 64)
    assert _map(LLAMA | {"head_dim": 32}, shapes)["blk.0.attn_q.weight"].shape == (128, 64)
    with pytest.raises(PlanError, match=r"config\.json says"):
        _map(LLAMA, shapes)


def test_deepseeks_layers_for_several_tokens_are_left_out_with_a_note() -> None:
    raw = {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "num_hidden_layers": 1}
    h = read_hyperparameters(raw)
    name = "model.layers.1.eh_proj.weight"
    assert find_family(h.architecture).left_out(h, name) == "layers that predict several tokens (MTP)"
    assert find_family(h.architecture).left_out(h, "model.layers.0.mlp.up_proj.weight") is None


@pytest.mark.parametrize(("vocab_size", "is_divided"), [(64000, False), (125696, True)])
def test_only_the_second_baichuans_output_is_divided_by_its_rows_lengths(vocab_size: int, *, is_divided: bool) -> None:
    h = read_hyperparameters(LLAMA | {"architectures": ["BaichuanForCausalLM"], "vocab_size": vocab_size})
    stored = TensorSource("x", Path("none"), 0, StoredType.F16, (vocab_size, 64))
    rules = {rule.name: rule for rule in find_family(h.architecture).tensors(h, vocab_size) if isinstance(rule, Rule)}
    assert isinstance(rules["output.weight"].make(stored), Normalized) == is_divided
    assert rules["token_embd.weight"].make(stored) is stored


@pytest.mark.parametrize("shape", [(), (4,), (3, 64, 96), (2, 2, 64, 96)])
def test_fused_experts_of_an_odd_shape_are_an_error(shape: tuple[int, ...]) -> None:
    h = read_hyperparameters(MIXTRAL)
    family = find_family(h.architecture)
    name = "model.layers.0.mlp.experts.down_proj"
    stored = {name: TensorSource(name, Path("none"), 0, StoredType.F16, shape)}
    with pytest.raises(PlanError, match=r"experts|no place"):
        map_tensors(family, h, plain_names(family, h, stored), n_tokens=320)
