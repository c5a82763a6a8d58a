"""What llama.cpp computes in one way only, and a config that says another, is an error that names the key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from checkpoint_tokenizers import write_byte_level_bpe
from family_configs import LLAMA3, gpt2, small

from convert.architecture import find_family, map_tensors, metadata_of, read_hyperparameters, take_numbers
from convert.checkpoint.views import Constant
from convert.errors import PlanError, TokenizerError, UnsupportedError
from convert.tokenizer import GLM4_TOKENIZER, read_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from convert.architecture import Family, Hyperparameters

YARN: Final = {"factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4, "rope_type": "yarn"}
# class → model_type, what its config says otherwise than the family's, and the words of the error
REFUSED: Final[dict[str, tuple[str, str, dict[str, Any], str]]] = {
    "other layers not rotated": ("SmolLM3ForCausalLM", "smollm3", {"no_rope_layers": [1, 0]}, "`no_rope_layers`"),
    "SmolLM3's windows": ("SmolLM3ForCausalLM", "smollm3", {"layer_types": ["sliding_attention"] * 2}, "`layer_types`"),
    "Granite's heads": ("GraniteForCausalLM", "granite", {"head_dim": 32}, "`head_dim`"),
    "OLMoE, clipped": ("OlmoeForCausalLM", "olmoe", {"clip_qkv": 8.0}, "`clip_qkv`"),
    "norms of heads": ("CohereForCausalLM", "cohere", {"use_qk_norm": True}, "`use_qk_norm`"),
    "Cohere, untied": ("CohereForCausalLM", "cohere", {"tie_word_embeddings": False}, "`tie_word_embeddings`"),
    "StarCoder 2 without biases": ("Starcoder2ForCausalLM", "starcoder2", {"use_bias": False}, "`use_bias`"),
    "Falcon RW": ("FalconForCausalLM", "falcon", {"alibi": True}, "`alibi`"),
    "MPT's norms of queries": ("MptForCausalLM", "mpt", {"attn_config": {"qk_ln": True}}, "`qk_ln`"),
    "EXAONE's windows": ("Exaone4ForCausalLM", "exaone4", {"sliding_window": 24}, "`layer_types`"),
    "dense layers behind": ("Ernie4_5_MoeForCausalLM", "ernie4_5_moe", {"moe_layer_end_index": 0}, "end_index"),
    "Hunyuan's base": (
        "HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense",
        {"rope_parameters": {"alpha": 9.0, "factor": 1.0, "rope_theta": 5e5, "rope_type": "dynamic"}}, "dynamic",
    ),
    "Nemotron's YaRN": ("NemotronForCausalLM", "nemotron", {"rope_parameters": YARN}, "`yarn`"),
    "LFM2's biases": ("Lfm2ForCausalLM", "lfm2", {"conv_bias": True}, "`conv_bias`"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_does_not_compute_is_named(name: str) -> None:
    architecture, model_type, change, says = REFUSED[name]
    config = small(architectures=[architecture], model_type=model_type, tie_word_embeddings=True) | change
    with pytest.raises(UnsupportedError, match=says):
        metadata_of(find_family(architecture), read_hyperparameters(config))


@pytest.mark.parametrize("key", ["scale_attn_by_inverse_layer_idx", "add_cross_attention"])
def test_of_gpt2_too(key: str) -> None:
    config = gpt2(architectures=["GPT2LMHeadModel"], model_type="gpt2") | {key: True}
    with pytest.raises(UnsupportedError, match=f"`{key}`"):
        metadata_of(find_family("GPT2LMHeadModel"), read_hyperparameters(config))


def test_llama_3s_rope_scaling_is_refused_where_the_file_has_no_place_for_its_factors() -> None:
    config = small(architectures=["OlmoForCausalLM"], model_type="olmo", rope_parameters=LLAMA3)
    with pytest.raises(UnsupportedError, match="rope scaling `llama3`"):
        map_tensors(find_family("OlmoForCausalLM"), read_hyperparameters(config), {}, n_tokens=1024)


def _numbers(**of_layers: tuple[float, ...]) -> dict[str, Constant]:
    data = {f"model.layers.{key[-1]}.mlp.act_fn.{key[:-2]}": values for key, values in of_layers.items()}
    return {name: Constant(name, np.array(values, "<f4").tobytes()) for name, values in data.items()}


def _apertus() -> tuple[Family, Hyperparameters]:
    config = small(architectures=["ApertusForCausalLM"], model_type="apertus")
    return find_family("ApertusForCausalLM"), read_hyperparameters(config)


ONE: Final = {f"{key}_{layer}": (1.0,) for key in ("alpha_n", "alpha_p", "beta", "eps") for layer in (0, 1)}


def test_numbers_of_layers_become_lists_in_the_order_in_which_they_are_complete() -> None:
    tensors = _numbers(**(ONE | {"beta_1": (0.5,)}))
    found, left = take_numbers(*_apertus(), {**tensors, "other": Constant("other", b"")})
    assert {key: entry.value for key, entry in found.items()}["xielu.beta"] == (1.0, 0.5)
    assert list(found) == ["xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"]
    assert list(left) == ["other"]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"eps_1": None}, "`xielu.eps` of 1 layers, the model has 2"), ({"eps_1": (1.0, 2.0)}, "one number")],
)
def test_a_layer_without_its_number_is_an_error(change: dict[str, Any], says: str) -> None:
    numbers = {key: value for key, value in (ONE | change).items() if value is not None}
    with pytest.raises(PlanError, match=says):
        take_numbers(*_apertus(), _numbers(**numbers))


def test_a_tokenizer_without_the_tokens_that_a_family_ends_turns_with_is_an_error(tmp_path: Path) -> None:
    write_byte_level_bpe(tmp_path)
    with pytest.raises(TokenizerError, match=r"lacks the token `<\|endoftext\|>`"):
        read_vocabulary(tmp_path, vocab_size=None, rule=GLM4_TOKENIZER)
