"""Rows for `family_checkpoints.py`: GLM, EXAONE, ERNIE, Nemotron and others."""

from __future__ import annotations

from functools import partial, reduce
from typing import TYPE_CHECKING, Final

from checkpoint_configs import ABSENT
from family_configs import LLAMA3, NARROW, NEOX_TOKENS, small
from family_making import FamilyRow, deepseek_v3, with_next_token_layer, write_glm, write_gpt2, write_gpt_neox

if TYPE_CHECKING:
    from family_making import Weights

NeoxRow: Final = partial(FamilyRow, tokenizer=write_gpt_neox, shared=True)
GlmRow: Final = partial(FamilyRow, tokenizer=write_glm, shared=True)
# Experts and what DeepSeek and GLM say of them.
MIXTURE: Final[dict[str, object]] = {
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
}
MINICPM: Final = {
    "architectures": ["MiniCPMForCausalLM"],
    "model_type": "minicpm",
    "scale_depth": 1.4,
    **dict.fromkeys(("attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"), ABSENT),
}
EXAONE: Final = {
    "activation_function": "silu",
    "architectures": ["ExaoneForCausalLM"],
    "layer_norm_epsilon": 1e-5,
    "model_type": "exaone",
    "num_layers": 2,
    **dict.fromkeys(("hidden_act", "num_hidden_layers", "rms_norm_eps"), ABSENT),
}
_EXAONES_NAMES: Final = (
    ("model.embed_tokens", "transformer.wte"),
    ("model.norm", "transformer.ln_f"),
    ("model.layers", "transformer.h"),
    ("self_attn.o_proj", "attn.attention.out_proj"),
    ("self_attn", "attn.attention"),
    ("input_layernorm", "ln_1"),
    ("post_attention_layernorm", "ln_2"),
    ("mlp.gate_proj", "mlp.c_fc_0"),
    ("mlp.up_proj", "mlp.c_fc_1"),
    ("mlp.down_proj", "mlp.c_proj"),
)
UNTIED: Final = {**NARROW, "tie_word_embeddings": False}


def with_exaones_names(weights: Weights) -> Weights:
    """Name a Llama's tensors as EXAONE 3's."""
    return {
        reduce(lambda text, pair: text.replace(*pair), _EXAONES_NAMES, name): each for name, each in weights.items()
    }


BEYOND: Final[tuple[FamilyRow, ...]] = (
    GlmRow("GLM-4-9B-0414", "GQA", "Glm4ForCausalLM", small(**NEOX_TOKENS, head_dim=16)),
    GlmRow(
        "GLM-4-narrow",
        "MHA, tied, rows of 48, no biases, heads of 32, float16",
        "Glm4ForCausalLM",
        small(**NARROW, **NEOX_TOKENS, attention_bias=False, head_dim=32),
        dtype="float16",
    ),
    GlmRow(
        "GLM-4.5-Air",
        "a dense layer, a layer that predicts several tokens",
        "Glm4MoeForCausalLM",
        small(**MIXTURE, **NEOX_TOKENS, attention_bias=True, num_hidden_layers=3),
        change_weights=with_next_token_layer,
    ),
    GlmRow(
        "GLM-4.5",
        "norms of heads, MHA, tied, rows of 48, no such layer, as transformers saves it",
        "Glm4MoeForCausalLM",
        small(**NARROW, **(MIXTURE | {"n_routed_experts": 4}), **NEOX_TOKENS, use_qk_norm=True),
    ),
    GlmRow(
        "GLM-4.7-Flash",
        "latent attention, a layer that predicts several tokens, first_k_dense_replace and scoring_func said",
        "Glm4MoeLiteForCausalLM",
        deepseek_v3(**NEOX_TOKENS, n_group=1, num_hidden_layers=3, topk_group=1),
        saved_config={"first_k_dense_replace": 1, "num_nextn_predict_layers": 1, "scoring_func": "sigmoid"},
        change_weights=with_next_token_layer,
        judge_unchanged=True,
    ),
    GlmRow(
        "GLM-4.7-as-saved",
        "as transformers saves it; tied, rows of 48",
        "Glm4MoeLiteForCausalLM",
        deepseek_v3(**NEOX_TOKENS, hidden_size=48, n_group=1, tie_word_embeddings=True, topk_group=1),
        differs="it does not know the dense layer from mlp_layer_types, nor the sigmoid",
    ),
    NeoxRow(
        "EXAONE-3.5-2.4B-Instruct",
        "names and keys as published, made by a Llama: GQA, tied, Llama 3's scaling",
        "LlamaForCausalLM",
        small(**NEOX_TOKENS, rms_norm_eps=1e-5, rope_parameters=LLAMA3, tie_word_embeddings=True),
        change_weights=with_exaones_names,
        saved_config=EXAONE,
        judge_unchanged=True,
        differs="it writes no epsilon that llama.cpp looks for",
    ),
    NeoxRow(
        "EXAONE-3-narrow",
        "with the norms' epsilon by Llama's name too, MHA, untied, rows of 48, float16",
        "LlamaForCausalLM",
        small(**UNTIED, **NEOX_TOKENS, rms_norm_eps=1e-5),
        dtype="float16",
        change_weights=with_exaones_names,
        saved_config=EXAONE | {"rms_norm_eps": 1e-5},
        judge_unchanged=True,
    ),
    NeoxRow(
        "EXAONE-4.0-1.2B",
        "GQA, tied, Llama 3's scaling",
        "Exaone4ForCausalLM",
        small(
            **NEOX_TOKENS,
            layer_types=["full_attention"] * 2,
            rope_parameters=LLAMA3,
            sliding_window=None,
            sliding_window_pattern=None,
            tie_word_embeddings=True,
        ),
        saved_config={"sliding_window_pattern": 4},
    ),
    NeoxRow(
        "EXAONE-4.0-32B",
        "64 layers, three of four with a window of 24, rows of 48, untied, float16",
        "Exaone4ForCausalLM",
        small(**UNTIED, **NEOX_TOKENS, num_hidden_layers=64, sliding_window=24),
        dtype="float16",
        scales={"o_proj": 0.1, "down_proj": 0.1},
    ),
    FamilyRow("ERNIE-4.5-0.3B-PT", "GQA, tied", "Ernie4_5ForCausalLM", small(head_dim=32, tie_word_embeddings=True)),
    FamilyRow(
        "ERNIE-4.5-narrow",
        "MHA, untied, rows of 48, float16",
        "Ernie4_5ForCausalLM",
        small(**UNTIED, head_dim=16),
        dtype="float16",
    ),
    FamilyRow(
        "ERNIE-4.5-21B-A3B-PT",
        "a dense layer, two shared experts",
        "Ernie4_5_MoeForCausalLM",
        small(
            moe_intermediate_size=48,
            moe_k=2,
            moe_layer_start_index=1,
            moe_num_experts=8,
            moe_num_shared_experts=2,
            num_hidden_layers=3,
        ),
    ),
    FamilyRow(
        "Minitron-4B",
        "GQA, half of a head rotated",
        "NemotronForCausalLM",
        small(head_dim=16),
        scales={"layernorm": 1.0},
    ),
    FamilyRow(
        "Nemotron-narrow",
        "MHA, rows of 48, linear scaling, float16",
        "NemotronForCausalLM",
        small(**UNTIED, rope_parameters={"factor": 4.0, "rope_theta": 1e4, "rope_type": "linear"}),
        dtype="float16",
    ),
    FamilyRow("AFM-4.5B", "GQA, Llama 3's scaling", "ArceeForCausalLM", small(rope_parameters=LLAMA3)),
    FamilyRow("AFM-narrow", "MHA, tied, rows of 48, float16", "ArceeForCausalLM", small(**NARROW), dtype="float16"),
    NeoxRow("Seed-OSS-36B", "GQA, heads of 32", "SeedOssForCausalLM", small(**NEOX_TOKENS, head_dim=32)),
    NeoxRow(
        "Seed-OSS-narrow",
        "MHA, tied, rows of 48, no biases, float16",
        "SeedOssForCausalLM",
        small(**NARROW, **NEOX_TOKENS, attention_bias=False, head_dim=16),
        dtype="float16",
    ),
    FamilyRow(
        "DeepSeek-V2-Lite",
        "27 layers, of which one dense, no q_lora_rank",
        "DeepseekV2ForCausalLM",
        deepseek_v3(n_group=1, topk_group=1, num_hidden_layers=27, q_lora_rank=None, hidden_size=32),
        tokenizer=write_gpt2,
        scales={"o_proj": 0.3, "down_proj": 0.2},
        shared=True,
    ),
    FamilyRow(
        "DeepSeek-V2-narrow",
        "q_lora_rank, rows of 48, tied, float16",
        "DeepseekV2ForCausalLM",
        deepseek_v3(n_group=1, topk_group=1, hidden_size=48, moe_intermediate_size=48, tie_word_embeddings=True),
        dtype="float16",
        tokenizer=write_gpt2,
        shared=True,
    ),
    NeoxRow(
        "MiniMax-M2",
        "rotary_dim and scoring_func, as published; half of a head rotated",
        "MiniMaxM2ForCausalLM",
        small(**NEOX_TOKENS, head_dim=32, num_experts_per_tok=2, num_local_experts=8),
        saved_config={"rotary_dim": 16, "scoring_func": "sigmoid"},
    ),
    NeoxRow(
        "MiniMax-M2-as-saved",
        "as transformers 5 saves it, rows of 48, MHA",
        "MiniMaxM2ForCausalLM",
        small(**UNTIED, **NEOX_TOKENS, head_dim=16, num_experts_per_tok=2, num_local_experts=4),
        only_ours="KeyError: \"could not find any of: ['rotary_dim']\"",
    ),
    NeoxRow(
        "LFM2-1.2B",
        "a convolution in two layers of three, GQA, tied, feed-forward sizes rounded",
        "Lfm2ForCausalLM",
        small(
            **NEOX_TOKENS,
            block_multiple_of=32,
            layer_types=["conv", "conv", "full_attention"],
            num_hidden_layers=3,
            tie_word_embeddings=True,
        ),
    ),
    NeoxRow(
        "LFM2-narrow",
        "MHA, rows of 48, a kernel of 4, sizes as they are, float16",
        "Lfm2ForCausalLM",
        small(
            **UNTIED,
            **NEOX_TOKENS,
            block_auto_adjust_ff_dim=False,
            conv_L_cache=4,
            layer_types=["full_attention", "conv"],
        ),
        dtype="float16",
    ),
    NeoxRow(
        "LFM2-8B-A1B",
        "8 experts, a dense layer, tied",
        "Lfm2MoeForCausalLM",
        small(
            **NEOX_TOKENS,
            layer_types=["conv", "full_attention", "conv"],
            moe_intermediate_size=64,
            num_dense_layers=1,
            num_experts=8,
            num_experts_per_tok=2,
            num_hidden_layers=3,
            tie_word_embeddings=True,
        ),
        scales={"experts.down_proj": 0.05},
    ),
    NeoxRow(
        "Hunyuan-4B",
        "GQA, tied",
        "HunYuanDenseV1ForCausalLM",
        small(**NEOX_TOKENS, head_dim=32, tie_word_embeddings=True),
    ),
    NeoxRow(
        "Hunyuan-narrow",
        "MHA, untied, rows of 48, a base raised by alpha, float16",
        "HunYuanDenseV1ForCausalLM",
        small(
            **UNTIED,
            **NEOX_TOKENS,
            eod_token_id=7,
            head_dim=16,
            max_position_embeddings=32768,
            rope_parameters={"alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0, "rope_type": "dynamic"},
        ),
        dtype="float16",
        scales={"o_proj": 1.5},
    ),
    FamilyRow(
        "MiniCPM-2B-sft-bf16",
        "a class of its own code, of which transformers' Granite computes the same; GQA",
        "GraniteForCausalLM",
        small(
            attention_multiplier=0.25,
            embedding_multiplier=12.0,
            logits_scaling=0.5,
            residual_multiplier=1.4 / 2**0.5,
        ),
        saved_config=MINICPM | {"scale_emb": 12, "dim_model_base": 128},
        judge_unchanged=True,
    ),
    FamilyRow(
        "MiniCPM-narrow",
        "MHA, tied, rows of 48, float16",
        "GraniteForCausalLM",
        small(
            **NARROW,
            attention_multiplier=0.25,
            embedding_multiplier=0.5,
            logits_scaling=2.0,
            residual_multiplier=1.4 / 2**0.5,
        ),
        dtype="float16",
        saved_config=MINICPM | {"scale_emb": 0.5, "dim_model_base": 24},
        judge_unchanged=True,
    ),
    NeoxRow("Apertus-8B", "GQA, Llama 3's scaling", "ApertusForCausalLM", small(**NEOX_TOKENS)),
    NeoxRow(
        "Apertus-narrow",
        "MHA, rows of 48, no scaling, float16",
        "ApertusForCausalLM",
        small(**UNTIED, **NEOX_TOKENS, rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}),
        dtype="float16",
    ),
)
