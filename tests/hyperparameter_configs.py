"""Configs to read hyperparameters from: as published, with both spellings of rotary scaling, with odd values."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from convert.architecture.transformers_defaults import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    "phi3": SMALL
    | {
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "embd_pdrop": 0.0,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 32000,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {"long_factor": [1.0] * 6, "short_factor": [1.0] * 6, "type": "su"},
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "torch_dtype": "bfloat16",
    },
    "gpt_oss": SMALL
    | {
        "experts_per_token": 4,
        "head_dim": 64,
        "initial_context_length": 4096,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_experts_per_tok": 4,
        "num_local_experts": 32,
        "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "swiglu_limit": 7.0,
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

# Of families whose config has a spelling of its own, cut to that.
PUBLISHED_SPELLINGS: Final[Mapping[str, Config]] = {
    "cohere2": SMALL | {"rope_theta": 50000, "rotary_pct": 1.0, "sliding_window": 4096, "sliding_window_pattern": 4},
    "exaone4": SMALL | {"rope_scaling": LLAMA3 | {"rope_type": "llama3"}, "sliding_window": None, "layer_types": None},
    "falcon": SMALL | {"alibi": False, "multi_query": True, "n_head": 71, "n_layer": 32, "num_kv_heads": 71},
    "glm4": SMALL | {"head_dim": 128, "partial_rotary_factor": 0.5, "rope_theta": 10000.0},
    "glm4_moe": SMALL | {"first_k_dense_replace": 1, "num_nextn_predict_layers": 1, "rope_theta": 1000000},
    "gpt2": {"n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257},
    "gpt_neox": SMALL | {"rotary_emb_base": 10000, "rotary_pct": 0.25, "use_parallel_residual": True},
    "lfm2": SMALL
    | {"block_auto_adjust_ff_dim": True, "block_ff_dim": 12288, "full_attn_idxs": [1], "tie_embedding": False},
    "minimax_m2": SMALL | {"head_dim": 128, "rope_theta": 5000000, "rotary_dim": 64, "scoring_func": "sigmoid"},
    "mpt": {
        "attn_config": {"alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "clip_qkv": None, "qk_ln": False},
        "d_model": 4096,
        "expansion_ratio": 4,
        "init_config": {"name": "kaiming_normal_"},
        "max_seq_len": 2048,
        "n_heads": 32,
        "n_layers": 2,
        "vocab_size": 50432,
    },
    "nemotron": SMALL | {"norm_eps": 1e-5, "partial_rotary_factor": 0.5, "rope_percent": 0.5, "rope_theta": 10000},
    "olmo3": SMALL | {"rope_scaling": YARN | {"rope_type": "yarn"}, "rope_theta": 500000, "sliding_window": 4096},
    "qwen3_5_text": SMALL | {"full_attention_interval": 2, "rope_parameters": {"mrope_section": [1, 1, 2]}},
    "qwen3_next": SMALL | {"full_attention_interval": 2, "partial_rotary_factor": 0.25, "rope_theta": 10000000},
    "smollm3": SMALL | {"no_rope_layers": [1, 0], "rope_scaling": None, "rope_theta": 5000000.0},
    "stablelm": SMALL | {"partial_rotary_factor": 0.25, "rope_theta": 10000, "use_qkv_bias": True},
}

# Of models that are more than their text model, what their text config's `model_type` is.
WHOLES: Final = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "llama4": "llama4_text",
    "mistral3": "ministral3",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
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


def _published(model_type: str) -> Config:
    return PUBLISHED.get(model_type) or PUBLISHED_SPELLINGS.get(model_type) or {}


def _base(model_type: str) -> Config:
    base: Config = {"architectures": ["AnyForCausalLM"], "model_type": model_type}
    if model_type == "bloom":
        return base | {"vocab_size": 320, "hidden_size": 64, "n_layer": 2, "n_head": 4}
    return base if model_type in WHOLES else base | SMALL


def config_variants(model_type: str) -> Iterator[Config]:
    base = _base(model_type)
    yield {"architectures": ["AnyForCausalLM"], "model_type": model_type}
    published = {"architectures": ["AnyForCausalLM"], "model_type": model_type} | _published(model_type)
    yield published
    for key in _published(model_type):
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
        if model_type in WHOLES:
            yield base | {"text_config": SMALL | {"model_type": WHOLES[model_type]} | change}
        yield base | change
    for key in base:
        yield {kept: value for kept, value in base.items() if kept != key}


def gemma3_nests() -> Iterator[Config]:
    base = _base("gemma3") | {"text_config": SMALL}
    yield base | {"vision_config": {"hidden_size": 32, "model_type": "siglip_vision_model", "image_size": 896}}
    yield base | {"vision_config": {"hidden_size": "32"}}
    yield base | {"vision_config": {"model_type": "unheard_of"}}
    yield base | {"vision_config": None, "tie_word_embeddings": False, "eos_token_id": [1, 106]}
    yield base | {"text_config": None}
    yield base | {"text_config": SMALL | {"tie_word_embeddings": False, "architectures": ["OtherForCausalLM"]}}
