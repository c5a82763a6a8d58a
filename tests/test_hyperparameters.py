"""Hyperparameters: what the reference sees in a `config.json`, judged by transformers itself."""

from __future__ import annotations

import copy
import json
import pickle
import random
from typing import TYPE_CHECKING, Any, Final

import pytest

from convert.architecture.hyperparameters import Fields, read_hyperparameters
from convert.architecture.transformers_defaults import FIELDS
from convert.errors import ConfigError, ConvertError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Config = dict[str, Any]

SMALL: Final[Config] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 320,
}
LLAMA3: Final = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN: Final = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
}
LONGROPE: Final = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 4096}

# Both spellings of rotary scaling, and what stands beside them.
ROPES: Final[tuple[Config, ...]] = (
    {},
    {"rope_theta": 1000000},
    {"rope_theta": None},
    {"rope_theta": 5e5, "rope_scaling": None},
    {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 10000.0},
    {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    {"rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 5e5}},
    {"rope_parameters": {"rope_theta": 1e6}, "rope_theta": 2e6},
    {"rope_parameters": {"rope_theta": None}, "rope_theta": 2e6},
    {"rope_parameters": None, "rope_scaling": {"factor": 2.0}},
    {"rope_parameters": {}, "rope_scaling": {}},
    {"rope_scaling": LLAMA3 | {"rope_type": "llama3", "original_max_position_embeddings": 8192}, "rope_theta": 5e5},
    {"rope_parameters": LLAMA3 | {"rope_type": "llama3"}},
    {"rope_scaling": LLAMA3 | {"rope_type": "LLAMA3"}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
    {"rope_scaling": YARN | {"type": "yarn"}, "rope_theta": 10000},
    {"rope_scaling": {"type": "yarn", "factor": 2.0, "finetuned": True}},
    {"rope_scaling": {"type": "yarn", "factor": 2.0}, "original_max_position_embeddings": 1024},
    {"rope_scaling": {"type": "yarn"}},
    {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": "32"}},
    {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}},
    {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    {"rope_scaling": {"type": "dynamic", "alpha": 1000}},
    {"rope_scaling": LONGROPE | {"type": "longrope"}},
    {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}},
    {"rope_scaling": {"type": "su", "factor": 2.0}},
    {"rope_scaling": {"rope_type": "proportional"}, "partial_rotary_factor": 0.5},
    {"rope_scaling": [], "rope_theta": 20000.0},
    {"partial_rotary_factor": 0.5, "head_dim": 9},
    {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}, "sliding_attention": None}},
    {
        "rope_parameters": {"full_attention": {"type": "yarn", "factor": 2.0}, "sliding_attention": {}},
        "layer_types": ["full_attention", "sliding_attention"],
    },
    {"rope_local_base_freq": 20000.0, "rope_theta": 1e6, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
)

# Odd things seen beside them, and some not seen.
EXTRAS: Final[tuple[Config, ...]] = (
    {"layer_types": ["full_attention", "full_attention"]},
    {"layer_types": ["attention", "mamba"]},
    {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": None},
    {"layer_types": ["full_attention"]},
    {"layer_types": ["full_attention", "none"]},
    {"layer_types": None, "sliding_window": None},
    {"layer_types": ["full_attention"] * 2, "mlp_layer_types": ["dense", "sparse"]},
    {"layer_types": ["full_attention"] * 2, "mlp_layer_types": ["dense"]},
    {"torch_dtype": "bfloat16"},
    {"torch_dtype": "torch.float16"},
    {"torch_dtype": "auto"},
    {"torch_dtype": None, "dtype": "half"},
    {"dtype": {"": "float16"}},
    {"eos_token_id": [1, 2]},
    {"eos_token_id": [1, "2"]},
    {"head_dim": 32},
    {"head_dim": 9},
    {"head_dim": None, "num_key_value_heads": None},
    {"hidden_size": 66},
    {"initializer_range": 2.0},
    {"num_attention_heads": 0},
    {"max_length": 20, "n_ctx": 512, "temperature": 0.5},
    {"num_experts": 4, "num_local_experts": 6},
    {"num_local_experts": "six"},
    {"num_experts": 4},
    {"n_routed_experts": None},
    {"num_mtp_layers": 2, "num_nextn_predict_layers": 3},
    {"q_lora_rank": None, "v_head_dim": None, "head_dim": 12},
    {"n_embed": 128},
    {"n_embed": "128"},
    {"n_embd": 128, "seq_length": 2048, "n_inner": None},
    {"num_hidden_layers": 3, "n_layer": 4},
    {"use_sliding_window": True, "sliding_window": 128},
    {"use_sliding_window": False, "sliding_window": 128, "max_window_layers": 28},
    {"use_bidirectional_attention": True, "sliding_window": 513},
    {"use_bidirectional_attention": True, "sliding_window": None},
    {"sliding_window_pattern": 2, "num_hidden_layers": 5},
    {"sliding_window_pattern": 0},
    {"sliding_window_pattern": None},
    {"cache_implementation": "hybrid", "final_logit_softcapping": 30.0},
    {"is_encoder_decoder": "no", "return_dict": 3, "output_hidden_states": None},
    {"use_return_dict": True},
    {"id2label": {"0": "yes", "1": "no"}, "num_labels": 2},
    {"id2label": {"zero": "yes"}},
    {"num_labels": None},
    {"num_labels": 1, "problem_type": "single_label_classification"},
    {"output_attentions": True, "attn_implementation": "sdpa"},
    {"auto_map": {"AutoConfig": "configuration_other.OtherConfig"}},
    {"auto_map": None},
    {"quantization_config": {"quant_method": "fp8"}},
    {"quantization_config": "fp8"},
    {"num_heads": 4, "embed_dim": 63, "head_dim": 16},
    {"decoder": {}, "generator": {}},
    {"is_causal": False, "norm_epsilon": 1e-5},
    {"model_type": None},
    {"model_type": "unheard_of"},
    {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1, "ep_size": 1},
)

# As published, cut to what matters.
PUBLISHED: Final[Mapping[str, Config]] = {
    "qwen3_moe": SMALL
    | {
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
    },
    "gemma3_text": SMALL
    | {
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 106],
        "final_logit_softcapping": None,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    },
    "gemma3": {
        "boi_token_index": 255999,
        "eos_token_id": [1, 106],
        "mm_tokens_per_image": 256,
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "vision_use_head": False},
    },
    "bloom": {
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "masked_softmax_fusion": True,
        "n_embed": 1024,
        "n_inner": None,
        "n_layer": 24,
        "num_attention_heads": 16,
        "offset_alibi": 100,
        "pad_token_id": 3,
        "seq_length": 2048,
        "skip_bias_add": True,
        "vocab_size": 250880,
    },
    "deepseek_v3": SMALL
    | {
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        "aux_loss_alpha": 0.001,
        "first_k_dense_replace": 3,
        "kv_lora_rank": 512,
        "n_routed_experts": 256,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "quantization_config": {"fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
        "rope_scaling": YARN | {"type": "yarn"},
        "rope_theta": 10000,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    },
}

ODD_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    64,
    1.0,
    0.5,
    1e-5,
    "x",
    "",
    [],
    [1],
    ["a"],
    {},
    {"a": 1},
)

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


def _base(model_type: str) -> Config:
    base: Config = {"architectures": ["AnyForCausalLM"], "model_type": model_type}
    if model_type == "bloom":
        return base | {"vocab_size": 320, "hidden_size": 64, "n_layer": 2, "n_head": 4}
    return base if model_type == "gemma3" else base | SMALL


def _variants(model_type: str) -> Iterator[Config]:
    base = _base(model_type)
    yield {"architectures": ["AnyForCausalLM"], "model_type": model_type}
    published = {"architectures": ["AnyForCausalLM"], "model_type": model_type} | PUBLISHED.get(model_type, {})
    yield published
    for key in PUBLISHED.get(model_type, {}):
        yield {kept: value for kept, value in published.items() if kept != key}
        yield published | {key: None}
    changes = list(ROPES + EXTRAS)
    draw = random.Random(model_type)  # noqa: S311 - seeded, to be the same each time
    keys = sorted({*FIELDS[model_type], *SMALL, "rope_theta", "rope_scaling", "partial_rotary_factor"})
    for key in keys:
        changes.append({key: None})
        changes += [{key: draw.choice(ODD_VALUES)} for _ in range(3)]
    changes += [{draw.choice(keys): draw.choice(ODD_VALUES) for _ in range(2)} for _ in range(20)]
    for change in changes:
        if model_type == "gemma3":
            yield base | {"text_config": SMALL | {"model_type": "gemma3_text"} | change}
        yield base | change
    for key in base:
        yield {kept: value for kept, value in base.items() if kept != key}


def _gemma3_nests() -> Iterator[Config]:
    base = _base("gemma3") | {"text_config": SMALL}
    yield base | {"vision_config": {"hidden_size": 32, "model_type": "siglip_vision_model", "image_size": 896}}
    yield base | {"vision_config": {"hidden_size": "32"}}
    yield base | {"vision_config": {"model_type": "unheard_of"}}
    yield base | {"vision_config": None, "tie_word_embeddings": False, "eos_token_id": [1, 106]}
    yield base | {"text_config": None}
    yield base | {"text_config": SMALL | {"tie_word_embeddings": False, "architectures": ["OtherForCausalLM"]}}


@pytest.mark.parametrize("model_type", [name for name in FIELDS if name not in {"ministral", "siglip_vision_model"}])
@pytest.mark.filterwarnings("ignore")
def test_hyperparameters_are_those_that_the_reference_sees(model_type: str, tmp_path: Path) -> None:
    from transformers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    differences = []
    n_accepted = 0
    variants = [*_variants(model_type), *(_gemma3_nests() if model_type == "gemma3" else ())]
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


def test_a_flag_among_the_rope_parameters_carries_no_number() -> None:
    rope = read_hyperparameters(LLAMA | {"rope_scaling": {"type": "linear", "factor": True}}).rope
    assert rope.number("factor") is None


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
