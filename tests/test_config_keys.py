"""Each key of a config is used, known to be harmless, or an error that names it: none changes the result in silence."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from checkpoint_configs import ABSENT, LLAMA_3_SCALING, llama, mistral
from checkpoints import CHECKPOINTS

from convert.architecture import FAMILIES, check_keys, find_family, metadata_of, read_hyperparameters
from convert.errors import ConfigError, ConvertError, UnsupportedError

Config = dict[str, Any]

QWEN: Final = llama(
    architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", norm_topk_prob=True, num_experts=4,
    num_experts_per_tok=2, moe_intermediate_size=32,
)  # fmt: skip
GEMMA: Final = llama(
    architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", hidden_act=ABSENT, head_dim=32, sliding_window=24,
    query_pre_attn_scalar=32, hidden_activation="gelu_pytorch_tanh",
)  # fmt: skip
BLOOM: Final = {
    "architectures": ["BloomForCausalLM"], "model_type": "bloom", "n_layer": 2, "n_head": 4, "hidden_size": 64,
    "vocab_size": 320, "layer_norm_epsilon": 1e-5,
}  # fmt: skip
# As published beside the keys that every config has.
HARMLESS: Final[dict[str, tuple[Config, Config]]] = {
    "trainers": (llama(), {"_attn_implementation_autoset": True, "unsloth_fixed": True, "unsloth_version": "2025.3"}),
    "llama 3": (llama(), {"mlp_bias": False, "rope_scaling": LLAMA_3_SCALING, "head_dim": 16, "eos_token_id": [1, 2]}),
    "falcon 3": (llama(), {"activation": "swiglu", "hidden_act": "silu"}),
    "smollm": (llama(), {"rope_interleaved": False, "is_llama_config": True, "transformers.js_config": {}}),
    "mistral 0.3": (mistral(), {"sliding_window": None}),
    "ministral, its window its length": (mistral(), {"sliding_window": 32768}),
    "a window that is off": (QWEN, {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 48}),
    "bloom": (BLOOM, {"attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "masked_softmax_fusion": True,
                      "n_inner": None, "offset_alibi": 100, "pretraining_tp": 4, "seq_length": 2048,
                      "skip_bias_add": True, "skip_bias_add_qkv": False, "slow_but_exact": False}),
    "gemma": (GEMMA, {"cache_implementation": "hybrid", "attn_logit_softcapping": None}),
    "a scaling of one": (llama(), {"partial_rotary_factor": 1.0, "rope_scaling": {"factor": 1.0, "type": "default"}}),
}  # fmt: skip


def _notes(config: Config) -> tuple[str, ...]:
    h = read_hyperparameters({key: value for key, value in config.items() if value is not ABSENT})
    family = find_family(h.architecture)
    metadata_of(family, h)
    list(family.tensors(h, 320))
    return check_keys(family.arch, h)


@pytest.mark.parametrize("name", HARMLESS)
def test_keys_that_change_nothing_say_nothing(name: str) -> None:
    config, more = HARMLESS[name]
    assert _notes(config | more) == ()


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (llama(), "hidden_act", "relu"),
        (llama(), "hidden_act", "gelu"),
        (mistral(), "hidden_act", "gelu_pytorch_tanh"),
        (QWEN, "hidden_act", "relu2"),
        (GEMMA, "hidden_activation", "silu"),
        (GEMMA, "hidden_activation", "relu"),
        (llama(), "partial_rotary_factor", 0.5),
        (llama(), "rope_pct", 0.25),
        (llama(), "rotary_dim", 8),
        (QWEN, "partial_rotary_factor", 0.25),
        (llama(), "attention_multiplier", 0.015625),
        (llama(), "embedding_multiplier", 12.0),
        (llama(), "logits_scaling", 8.0),
        (llama(), "attn_logit_softcapping", 50.0),
        (mistral(), "final_logit_softcapping", 30.0),
        (llama(), "mup_output_multiplier", 0.25),
        (llama(), "embedding_scale", 2.0),
        (llama(), "alibi", True),
        (llama(), "clip_qkv", 8),
        (llama(), "rope_scaling_type", "linear"),
        (llama(), "layer_types", ["full_attention", "chunked_attention"]),
        (QWEN, "norm_topk_prob", False),
        (QWEN, "norm_topk_prob", ABSENT),
        (GEMMA, "query_pre_attn_scalar", 168),
        (GEMMA, "use_bidirectional_attention", True),
        (BLOOM, "apply_residual_connection_post_layernorm", True),
        (llama(), "rope_scaling", {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}),
        (llama(), "rope_scaling", {"type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.0}),
    ],
)
def test_a_key_by_which_transformers_computes_otherwise_is_an_error_that_names_it(
    config: Config, key: str, value: object
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        _notes(config | {key: value})
    named = key if key != "rope_scaling" else "mscale" if "mscale" in str(value) else "partial_rotary_factor"
    assert f"`{named}`" in caught.value.message


@pytest.mark.parametrize(
    ("config", "change", "says"),
    [
        (mistral(), {}, "a sliding window of 4096 tokens has no place in GGUF's llama"),
        (llama(), {"my_own_key": 7}, "keys that are not known, and taken to be harmless: `my_own_key`"),
        (
            llama(),
            {"rope_scaling": {"factor": 4.0}},
            "the rope scaling's `factor` 4.0 is not used without a `rope_type`",
        ),
        (llama(), {"rope_scaling": {"type": "dynamic", "factor": 2.0, "alpha": 9}}, "not known, and not used: `alpha`"),
        (
            llama(),
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}},
            "`truncate: false` has no place",
        ),
    ],
)
def test_what_may_change_something_is_a_note(config: Config, change: Config, says: str) -> None:
    (note,) = _notes(config | change)
    assert says in note


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": "4.0"},
        {"type": "linear", "factor": True},
        {"type": "linear", "factor": None},
        {"type": "linear"},
        {"rope_type": "yarn", "factor": [4.0]},
        {"rope_type": "yarn", "factor": 4.0, "beta_fast": "32"},
        {"rope_type": "yarn", "factor": 4.0, "attention_factor": False},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": "4096"},
        {**LLAMA_3_SCALING, "factor": None},
        {**LLAMA_3_SCALING, "high_freq_factor": "4"},
        {**LLAMA_3_SCALING, "original_max_position_embeddings": True},
    ],
    ids=str,
)
def test_a_rope_number_of_an_odd_type_is_an_error_and_never_left_out(scaling: Config) -> None:
    with pytest.raises(ConfigError, match="rope scaling"):
        _notes(llama(rope_scaling=scaling))


@pytest.mark.parametrize(
    ("key", "value"), [("sliding_window", "4096"), ("use_sliding_window", "no"), ("layer_types", 3)]
)
def test_other_values_of_an_odd_type_are_errors_too(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"`{key}` in config.json is"):
        _notes(mistral(**{key: value}))


# Spellings of classes that were never transformers' own, or are no more.
NOT_TRANSFORMERS: Final = {
    "Ernie4_5_ForCausalLM", "ExaoneForCausalLM", "LFM2ForCausalLM", "LLaMAForCausalLM", "MPTForCausalLM",
    "MiniCPMForCausalLM", "OLMoForCausalLM", "PhiMoEForCausalLM", "RWForCausalLM", "StableLMEpochForCausalLM",
}  # fmt: skip
# Where what transformers fills in is no model yet, or none that llama.cpp computes.
FILLED_IN: Final[dict[str, Config]] = {
    "Exaone4ForCausalLM": {"layer_types": ["full_attention"] * 32},
    "Glm4MoeForCausalLM": {"head_dim": 128},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"] * 16},
    "OlmoeForCausalLM": {"norm_topk_prob": False},
    "Qwen2MoeForCausalLM": {"norm_topk_prob": False},
}


@pytest.mark.parametrize(
    "name", [name for family in FAMILIES for name in family.hf_names if name not in NOT_TRANSFORMERS]
)
@pytest.mark.filterwarnings("ignore")
def test_every_key_that_transformers_fills_in_is_known(name: str) -> None:
    import transformers

    config = getattr(transformers, name).config_class()
    generated = json.loads(config.to_json_string(use_diff=False)) | {"architectures": [name]}
    generated |= {"norm_topk_prob": True} if "norm_topk_prob" in generated else {}
    generated |= FILLED_IN.get(name, {})
    assert [note for note in _notes(generated) if "not known" in note] == []


@pytest.mark.parametrize("name", [row.name for row in CHECKPOINTS.values() if not row.refused_by_convert])
def test_published_configs_have_no_key_that_is_not_known(name: str) -> None:
    try:
        notes = _notes(dict(CHECKPOINTS[name].config))
    except ConvertError as error:
        pytest.fail(error.message)
    assert [note for note in notes if "not known" in note] == []
