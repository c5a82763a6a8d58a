"""`config.json`: spellings and defaults as transformers resolves them, absurd values refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from convert.architecture import find_architecture
from convert.errors import ConfigError, PlanError, UnsupportedError
from convert.model_config import ModelConfig, parse_model_config, read_model_config

if TYPE_CHECKING:
    from pathlib import Path

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 320,
}
LLAMA = SMALL | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
MISTRAL = SMALL | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_key_value_heads": 2}
MIXTRAL = SMALL | {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_key_value_heads": 2}
LLAMA3_SCALING = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

CONFIGS = {
    "bare llama": LLAMA,
    "bare mistral": MISTRAL,
    "bare mixtral": MIXTRAL,
    "mistral with the default of 8 kv heads": SMALL
    | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_attention_heads": 8},
    "explicit head_dim": LLAMA | {"head_dim": 32},
    "null head_dim": LLAMA | {"head_dim": None, "num_key_value_heads": None},
    "gqa": LLAMA | {"num_key_value_heads": 2},
    "whole rope_theta": LLAMA | {"rope_theta": 1000000},
    "linear, old": LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear, new": LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}},
    "llama3, old": LLAMA
    | {"max_position_embeddings": 131072, "rope_scaling": LLAMA3_SCALING | {"rope_type": "llama3"}, "rope_theta": 5e5},
    "llama3, new": LLAMA
    | {
        "max_position_embeddings": 131072,
        "rope_parameters": LLAMA3_SCALING | {"rope_type": "llama3", "rope_theta": 5e5},
    },
    "yarn, old": MISTRAL
    | {
        "rope_scaling": {"type": "yarn", "factor": 16.0, "finetuned": True, "original_max_position_embeddings": 8192},
        "max_position_embeddings": 131072,
    },
    "yarn without its original length": LLAMA | {"rope_scaling": {"type": "yarn", "factor": 2.0}},
    "dynamic": LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "scaling without a type": LLAMA | {"rope_scaling": {"factor": 2.0}},
    "tied": LLAMA | {"tie_word_embeddings": True},
    "few experts": MIXTRAL | {"num_local_experts": 4, "num_experts_per_tok": 1},
}


def _as_transformers_says(values: dict[str, Any]) -> tuple[Any, ...]:
    rope = values["rope_parameters"]
    return (
        values["num_hidden_layers"],
        values["hidden_size"],
        values["intermediate_size"],
        values["num_attention_heads"],
        values["num_key_value_heads"],
        values["head_dim"],
        values["vocab_size"],
        values["max_position_embeddings"],
        values["rms_norm_eps"],
        rope["rope_theta"],
        rope["rope_type"],
        rope.get("factor"),
        rope.get("original_max_position_embeddings"),
        values["tie_word_embeddings"],
        values.get("num_local_experts"),
        values.get("num_experts_per_tok"),
    )


def _as_we_say(config: ModelConfig) -> tuple[Any, ...]:
    return (
        config.n_layers,
        config.hidden_size,
        config.intermediate_size,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        config.vocab_size,
        config.context_length,
        config.rms_norm_eps,
        config.rope.theta,
        config.rope.type or "default",
        config.rope.values.get("factor"),
        config.rope.values.get("original_max_position_embeddings"),
        config.tie_word_embeddings,
        config.n_experts,
        config.n_experts_used,
    )


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore")
def test_a_config_reads_as_transformers_reads_it(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    reference = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert _as_we_say(read_model_config(tmp_path)) == _as_transformers_says(reference)


def test_without_a_model_type_no_default_is_filled_in() -> None:
    raw = {key: value for key, value in LLAMA.items() if key != "model_type"}
    config = parse_model_config(raw | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5})
    assert (config.head_dim, config.n_kv_heads, config.rope.theta) == (None, None, None)


REFUSED_BY_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "a null flag": {"attention_bias": None},
    "a whole number for a float": {"rms_norm_eps": 1},
    "an odd dtype": {"torch_dtype": "torch.float16"},
    "a token for an id": {"pad_token_id": "<pad>"},
    "dynamic scaling without a factor": {"rope_scaling": {"type": "dynamic", "alpha": 1000}},
    "an unknown layer type": {"layer_types": ["full_attention", "none"]},
}


@pytest.mark.parametrize("name", REFUSED_BY_TRANSFORMERS)
@pytest.mark.filterwarnings("ignore")
def test_where_transformers_refuses_a_config_no_default_is_filled_in(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    raw = LLAMA | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5} | REFUSED_BY_TRANSFORMERS[name]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(Exception, match=r"."):
        AutoConfig.from_pretrained(tmp_path)
    assert read_model_config(tmp_path).head_dim is None


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("hidden_size", "64", "`hidden_size` in config.json is '64', wanted a whole number"),
        ("hidden_size", True, "`hidden_size` in config.json is True"),
        ("hidden_size", 0, "`hidden_size` in config.json is 0"),
        ("hidden_size", -64, "`hidden_size`"),
        ("hidden_size", 1 << 40, "`hidden_size`"),
        ("hidden_size", 65, "not a multiple of `num_attention_heads`"),
        ("num_hidden_layers", 10**9, "`num_hidden_layers` in config.json is 1000000000"),
        ("num_attention_heads", 2.5, "`num_attention_heads`"),
        ("num_key_value_heads", 3, "not a multiple of `num_key_value_heads` 3"),
        ("head_dim", 15, "is odd"),
        ("rms_norm_eps", "small", "`rms_norm_eps`"),
        ("rms_norm_eps", 1e300, "`rms_norm_eps`"),
        ("rope_theta", [1], "`rope_theta`"),
        ("rope_scaling", "linear", "`rope_scaling`"),
        ("rope_scaling", {"type": 3}, "`rope_type`"),
        ("rope_scaling", {"type": "linear", "factor": {}}, "`factor` in the rope scaling of config.json"),
        ("tie_word_embeddings", "yes", "`tie_word_embeddings`"),
        ("architectures", "LlamaForCausalLM", "`architectures`"),
        ("architectures", [3], "`architectures`"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_key(key: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_model_config(LLAMA | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5} | {key: value})
    assert says in caught.value.message


def test_more_experts_used_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="exceeds"):
        parse_model_config(MIXTRAL | {"num_local_experts": 2, "num_experts_per_tok": 4})


def test_a_missing_config_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json` is missing"):
        read_model_config(tmp_path)


def test_a_missing_key_without_default_is_named() -> None:
    raw = {key: value for key, value in LLAMA.items() if key not in ("model_type", "vocab_size")}
    with pytest.raises(ConfigError, match="lacks `vocab_size`"):
        parse_model_config(raw)


def test_an_unknown_architecture_is_told_what_is_supported() -> None:
    with pytest.raises(UnsupportedError) as caught:
        find_architecture("GPT2LMHeadModel")
    assert caught.value.message == "unsupported architecture `GPT2LMHeadModel`"
    assert (
        caught.value.hint == "supported are LlamaForCausalLM, LLaMAForCausalLM, MistralForCausalLM, MixtralForCausalLM"
    )


@pytest.mark.parametrize("scaling", [{"type": "longrope"}, {"rope_type": "su", "factor": 2.0}])
def test_a_rope_scaling_that_gguf_cannot_carry_is_refused(scaling: dict[str, object]) -> None:
    config = parse_model_config(LLAMA | {"rope_scaling": scaling})
    with pytest.raises(UnsupportedError, match="rope scaling"):
        find_architecture(config.architecture).check(config)


def test_a_scaling_factor_of_zero_is_refused() -> None:
    config = parse_model_config(LLAMA | {"rope_scaling": {"type": "linear", "factor": 0}})
    with pytest.raises(PlanError, match="factor"):
        find_architecture(config.architecture).check(config)
