"""Hyperparameters: what the reference sees in a `config.json`, judged by transformers itself."""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING, Any, Final

import pytest
from hyperparameter_configs import EXTRAS, SMALL, Config, config_variants, gemma3_nests

from convert.architecture.hyperparameters import read_hyperparameters
from convert.architecture.transformers_defaults import FIELDS
from convert.errors import ConfigError, ConvertError, UnsupportedError
from convert.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

# Where a wrong value is an error of ours, though the reference goes on to fail elsewhere or to write nonsense.
OURS: Final = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "model_type")

KEYS: Final = sorted(
    {key for fields in FIELDS.values() for key in fields if not key.endswith("_config")}
    | {key for extra in EXTRAS for key in extra}
    | {"num_nextn_predict_layers", "num_local_experts", "qk_head_dim", "rope_theta", "sliding_window_pattern"}
)
# Kept by nobody, or differently where no GGUF can tell.
UNSEEN: Final = {
    "dtype", "torch_dtype", "id2label", "num_labels", "problem_type", "output_attentions", "attn_implementation",
    "is_encoder_decoder", "return_dict", "output_hidden_states", "rope_parameters",
}  # fmt: skip

PARTS: Final = {"ministral", "siglip_vision_model", "mpt_attention"}  # no config.json says these itself


def _seen_by_the_reference(directory: Path) -> tuple[Config, Config, bool]:
    """Emulate load_hparams and TextModel.__init__ (conversion/base.py @ 0c1e570) with the real AutoConfig."""
    from transformers import AutoConfig

    try:
        hparams = AutoConfig.from_pretrained(directory, trust_remote_code=False).to_dict()
        is_accepted = True
    except Exception:  # noqa: BLE001 - as there
        hparams = json.loads((directory / "config.json").read_text())
        is_accepted = False
    if "text_config" in hparams:
        hparams = {**hparams, **hparams["text_config"]}

    def find(keys: list[str]) -> Any:  # noqa: ANN401
        return next((hparams[key] for key in keys if key in hparams), None)

    rope = copy.deepcopy(hparams.get("rope_parameters", hparams.get("rope_scaling")) or {})
    theta = find(["global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base"])
    local = find(["local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq"])
    part = find(["partial_rotary_factor", "rope_pct", "rope_percent"])
    length = find(["original_max_position_embeddings"])
    if "full_attention" not in rope and "sliding_attention" not in rope:
        if local is not None:
            rope["sliding_attention"] = {"rope_theta": local}
        if "rope_theta" not in rope and theta is not None:
            rope["rope_theta"] = theta
        if "rope_type" not in rope and (kind := rope.get("type")) is not None:
            rope["rope_type"] = kind
        if "partial_rotary_factor" not in rope and part is not None:
            rope["partial_rotary_factor"] = part
        if "original_max_position_embeddings" not in rope and length is not None:
            rope["original_max_position_embeddings"] = length
    return hparams, rope, is_accepted


@pytest.mark.parametrize("model_type", [name for name in FIELDS if name not in PARTS])
@pytest.mark.filterwarnings("ignore")
def test_hyperparameters_are_those_that_the_reference_sees(model_type: str, tmp_path: Path) -> None:
    from transformers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    differences = []
    n_accepted = 0
    variants = [*config_variants(model_type), *(gemma3_nests() if model_type == "gemma3" else ())]
    for config in variants:
        (tmp_path / "config.json").write_text(json.dumps(config))
        try:
            expected = _seen_by_the_reference(tmp_path)
        except (TypeError, AttributeError, ValueError):
            continue  # the reference ends there
        try:
            found = read_hyperparameters(config)
        except ConvertError as error:
            if not any(f"`{key}`" in error.message for key in (*OURS, "rope_type", "architectures")):
                differences.append((config, error.message, expected[2]))
            continue
        n_accepted += expected[2]
        sides = [(_seen(found.values), found.rope.values, found.is_accepted), (_seen(expected[0]), *expected[1:])]
        if len({json.dumps(side, sort_keys=True) for side in sides}) > 1:
            differences.append((config, *sides))
    assert differences == []
    assert n_accepted > len(variants) // 5


def _seen(values: Mapping[str, Any]) -> Config:
    return {key: values[key] for key in KEYS if key in values and key not in UNSEEN}


LLAMA: Final = SMALL | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def test_the_config_itself_is_left_as_it_was() -> None:
    config = LLAMA | {"rope_scaling": {"type": "linear"}, "rope_theta": 5e5, "layer_types": ["attention"] * 2}
    before = copy.deepcopy(config)
    read_hyperparameters(config)
    assert config == before


def test_hyperparameters_travel_to_other_processes() -> None:
    found = read_hyperparameters(LLAMA)
    assert pickle.loads(pickle.dumps(found)) == found


def test_the_first_present_key_counts_null_included() -> None:
    fields = Fields({"b": None, "c": 3}, "config.json")
    assert fields.get("a", "b", "c") is None
    assert fields.optional_size("a", "c") == 3
    with pytest.raises(ConfigError, match=r"config\.json lacks `b`"):
        fields.size("a", "b", "c")


def test_replaced_values_stand_beside_the_others() -> None:
    found = read_hyperparameters(LLAMA).replaced(num_key_value_heads=1)
    assert (found.size("num_key_value_heads"), found.size("hidden_size")) == (1, 64)


def test_a_text_config_names_the_architecture() -> None:
    config = {"architectures": ["Outer"], "text_config": {"architectures": ["Inner"], "hidden_size": 3}}
    found = read_hyperparameters(config)
    assert (found.architecture, found.size("hidden_size")) == ("Inner", 3)


def test_rope_parameters_are_told_apart_by_kind_of_layer() -> None:
    found = read_hyperparameters({"architectures": ["Any"], "model_type": "gemma3_text", "num_hidden_layers": 6})
    rope = found.rope
    assert (rope.full_attention.number("rope_theta"), rope.sliding_attention.number("rope_theta")) == (1e6, 1e4)


@pytest.mark.parametrize("value", [True, "4.0", [4.0], {}])
def test_a_rope_number_of_another_type_is_an_error(value: object) -> None:
    rope = read_hyperparameters(LLAMA | {"rope_scaling": {"type": "linear", "factor": value}}).rope
    with pytest.raises(
        ConfigError, match=r"`factor` in the rope scaling of config\.json is .*, wanted a finite number"
    ):
        rope.number("factor")


def test_an_original_length_may_be_written_as_a_float() -> None:
    scaling = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8192.0}
    assert read_hyperparameters(LLAMA | {"rope_scaling": scaling}).rope.original_length() == 8192


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("num_hidden_layers", 10**9, "`num_hidden_layers` in config.json is 1000000000"),
        ("rope_theta", [1], "`rope_theta` in config.json is [1], wanted a finite number"),
        ("rope_theta", 10**40, "`rope_theta` in config.json"),
        ("rope_scaling", "linear", "`rope_scaling` in config.json is 'linear', wanted an object"),
        ("rope_scaling", {"type": 3}, "`rope_type` in the rope scaling of config.json is 3, wanted a string"),
        ("text_config", [], "`text_config` in config.json is [], wanted an object"),
        ("thinker_config", {}, "`text_config` in config.json is None, wanted an object"),
        ("architectures", "LlamaForCausalLM", "`architectures`"),
        ("architectures", [3], "`architectures`"),
        ("model_type", 3, "`model_type`"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_key(key: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_hyperparameters(LLAMA | {"max_position_embeddings": 2048} | {key: value})
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("read", "value", "says"),
    [
        (Fields.size, "64", "`key` in config.json is '64', wanted a whole number"),
        (Fields.size, True, "`key` in config.json is True"),
        (Fields.size, 0, "`key` in config.json is 0"),
        (Fields.size, 1 << 40, "`key`"),
        (Fields.size, None, "config.json lacks `key`"),
        (Fields.optional_size, 2.5, "`key`"),
        (Fields.number, "small", "`key` in config.json is 'small', wanted a finite number"),
        (Fields.number, 1e300, "`key`"),
        (Fields.number, float("nan"), "`key`"),
        (Fields.flag, "yes", "`key` in config.json is 'yes', wanted true or false"),
        (Fields.text, 3, "`key` in config.json is 3, wanted a string"),
        (Fields.mapping, [1], "`key` in config.json is [1], wanted an object"),
    ],
)
def test_a_field_of_another_type_is_an_error(read: Callable[..., object], value: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(Fields({"key": value}, "config.json"), "key")
    assert says in caught.value.message


@pytest.mark.parametrize("change", [{"architectures": None}, {"per_layer_config": {"0": {"head_dim": 8}}}])
def test_what_cannot_be_read_so_is_unsupported(change: Config) -> None:
    with pytest.raises(UnsupportedError):
        read_hyperparameters(LLAMA | change)
