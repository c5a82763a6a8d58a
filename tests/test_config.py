"""`config.json` as a family looks at it: absurd values refused, each named; no default where transformers refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from convert.architecture import FAMILIES, Hyperparameters, find_family, metadata_of, read_hyperparameters
from convert.checkpoint import Checkpoint
from convert.errors import ConfigError, PlanError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping
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


def _resolve(raw: Mapping[str, Any]) -> Hyperparameters:
    """Read a config, and have its family look at all of it."""
    h = read_hyperparameters(raw)
    family = find_family(h.architecture)
    metadata_of(family, h)
    list(family.tensors(h, 320))
    return h


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
        find_family("NobodysForCausalLM")
    assert caught.value.message == "unsupported architecture `NobodysForCausalLM`"
    names = ", ".join(name for family in FAMILIES for name in family.hf_names)
    assert caught.value.hint == f"supported are {names}"


@pytest.mark.parametrize("scaling", [{"type": "longrope"}, {"rope_type": "su", "factor": 2.0}])
def test_a_rope_scaling_that_gguf_cannot_carry_is_refused(scaling: dict[str, object]) -> None:
    with pytest.raises(UnsupportedError, match="rope scaling"):
        _resolve(LLAMA | {"rope_scaling": scaling})


def test_a_scaling_factor_of_zero_is_refused() -> None:
    with pytest.raises(PlanError, match="factor"):
        _resolve(LLAMA | {"rope_scaling": {"type": "linear", "factor": 0}})
