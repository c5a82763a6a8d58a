"""`config.json`: spellings and defaults as transformers resolves them, absurd values refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from convert.architecture import FAMILIES, Hyperparameters, find_family, metadata_of, read_hyperparameters
from convert.checkpoint import Checkpoint
from convert.errors import ConfigError, PlanError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

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


QWEN3_MOE = SMALL | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 4}
GEMMA3 = SMALL | {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
DEEPSEEK = SMALL | {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"}
BLOOM: dict[str, Any] = {"architectures": ["BloomForCausalLM"], "model_type": "bloom", "vocab_size": 320}
YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "mscale_all_dim": 1.0}

CONFIGS |= {
    "bare qwen3-moe": QWEN3_MOE,
    "qwen3-moe with a head_dim and whole numbers": QWEN3_MOE | {"head_dim": 32, "rope_theta": 1000000},
    "bare gemma 3": GEMMA3,
    "gemma 3, old spellings": GEMMA3
    | {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "gemma 3, new spelling": GEMMA3
    | {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        }
    },
    "bare bloom": BLOOM,
    "bloom, as published": BLOOM | {"n_embed": 96, "num_attention_heads": 3, "n_layer": 2, "seq_length": 512},
    "bare deepseek": DEEPSEEK,
    "deepseek, as published": DEEPSEEK
    | {"q_lora_rank": None, "num_key_value_heads": 4, "rope_scaling": YARN, "n_routed_experts": 16, "n_group": 4},
}

# What a GGUF is made of.
KEYS = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "num_local_experts",
    "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "sliding_window", "attn_logit_softcapping",
    "final_logit_softcapping", "n_layer", "n_head", "layer_norm_epsilon", "seq_length", "n_group", "topk_group",
    "first_k_dense_replace", "q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim",
    "n_shared_experts", "routed_scaling_factor", "norm_topk_prob",
)  # fmt: skip
ROPE_KEYS = ("rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "mscale_all_dim")


def _values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values.get(key) for key in KEYS}


def _rope(rope: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    parts = [rope[kind] for kind in ("full_attention", "sliding_attention") if kind in rope] or [rope]
    return [(part.get("rope_type", "default"), *(part.get(key) for key in ROPE_KEYS)) for part in parts]


def _resolve(raw: Mapping[str, Any]) -> Hyperparameters:
    """Read a config, and have its family look at all of it."""
    h = read_hyperparameters(raw)
    family = find_family(h.architecture)
    metadata_of(family, h)
    list(family.tensors(h, 320))
    return h


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore")
def test_a_config_reads_as_transformers_reads_it(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    reference = AutoConfig.from_pretrained(tmp_path).to_dict()
    ours = read_hyperparameters(CONFIGS[name])
    assert _values(ours.values) == _values(reference)
    assert _rope(ours.rope.values) == _rope(reference.get("rope_parameters") or {})


def test_without_a_model_type_no_default_is_filled_in() -> None:
    raw = {key: value for key, value in LLAMA.items() if key != "model_type"}
    h = read_hyperparameters(raw | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5})
    assert (h.get("head_dim"), h.get("num_key_value_heads"), h.rope.get("rope_theta")) == (None, None, None)


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
    assert read_hyperparameters(raw).get("head_dim") is None


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
        _resolve(LLAMA | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5} | {key: value})
    assert says in caught.value.message


def test_more_experts_used_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="exceeds"):
        _resolve(MIXTRAL | {"num_local_experts": 2, "num_experts_per_tok": 4})


def test_a_missing_config_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json` is missing"):
        Checkpoint(tmp_path, {}).require_config()


def test_a_missing_key_without_default_is_named() -> None:
    raw = {key: value for key, value in LLAMA.items() if key not in ("model_type", "vocab_size")}
    raw["rms_norm_eps"] = 1e-5
    with pytest.raises(ConfigError, match="lacks `vocab_size`"):
        _resolve(raw)


def test_an_unknown_architecture_is_told_what_is_supported() -> None:
    with pytest.raises(UnsupportedError) as caught:
        find_family("GPT2LMHeadModel")
    assert caught.value.message == "unsupported architecture `GPT2LMHeadModel`"
    names = ", ".join(name for family in FAMILIES for name in family.hf_names)
    assert caught.value.hint == f"supported are {names}"


@pytest.mark.parametrize("scaling", [{"type": "longrope"}, {"rope_type": "su", "factor": 2.0}])
def test_a_rope_scaling_that_gguf_cannot_carry_is_refused(scaling: dict[str, object]) -> None:
    with pytest.raises(UnsupportedError, match="rope scaling"):
        _resolve(LLAMA | {"rope_scaling": scaling})


def test_a_scaling_factor_of_zero_is_refused() -> None:
    with pytest.raises(PlanError, match="factor"):
        _resolve(LLAMA | {"rope_scaling": {"type": "linear", "factor": 0}})


def test_what_transformers_fills_in_is_what_was_generated() -> None:
    script = Path(__file__).with_name("generate_transformers_defaults.py")
    finished = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
