"""Rows for `family_checkpoints.py`: families that share Llama's blocks."""

from __future__ import annotations

from typing import Final

from family_configs import GPT2_TOKENS, NARROW, NEOX_TOKENS, small
from family_making import FamilyRow, write_gpt2, write_gpt_neox

FACTORS: Final[dict[str, object]] = {
    "attention_multiplier": 0.2,
    "embedding_multiplier": 12.0,
    "logits_scaling": 0.5,
    "residual_multiplier": 0.22,
}

# Where the output is the embedding, whose factor then must not let each token predict itself.
TIED_FACTORS: Final = {**FACTORS, "embedding_multiplier": 0.5, "logits_scaling": 2.0, "residual_multiplier": 0.7}

LLAMA_LIKE: Final[tuple[FamilyRow, ...]] = (
    FamilyRow("SmolLM3-3B", "5 layers, the fourth not rotated; GQA", "SmolLM3ForCausalLM", small(num_hidden_layers=5)),
    FamilyRow(
        "SmolLM3-narrow",
        "MHA, tied, rows of 48, float16",
        "SmolLM3ForCausalLM",
        small(**NARROW),
        dtype="float16",
    ),
    FamilyRow("granite-3.3-2b", "factors, GQA", "GraniteForCausalLM", small(**FACTORS)),
    FamilyRow(
        "granite-narrow",
        "MHA, tied, rows of 48, biases, linear scaling, float16",
        "GraniteForCausalLM",
        small(
            **NARROW,
            **TIED_FACTORS,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters={"factor": 4.0, "rope_theta": 1e4, "rope_type": "linear"},
        ),
        dtype="float16",
    ),
    FamilyRow("granite-3.1-3b-a800m", "8 experts", "GraniteMoeForCausalLM", small(**FACTORS)),
    FamilyRow(
        "granite-shared-narrow",
        "4 experts and shared ones, MHA, tied, rows of 48",
        "GraniteMoeSharedForCausalLM",
        small(**NARROW, **TIED_FACTORS, num_local_experts=4, shared_intermediate_size=64),
    ),
    FamilyRow(
        "OLMo-1.7-7B",
        "GQA, clipped, rows of 256, float32",
        "OlmoForCausalLM",
        small(**GPT2_TOKENS, clip_qkv=2.0, hidden_size=256, intermediate_size=256),
        dtype="float32",
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow(
        "OLMo-narrow",
        "MHA, tied, rows of 48",
        "OlmoForCausalLM",
        small(**NARROW, **GPT2_TOKENS),
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow("OLMo-2-1124-7B", "GQA", "Olmo2ForCausalLM", small(**NEOX_TOKENS), tokenizer=write_gpt_neox, shared=True),
    FamilyRow(
        "OLMo-2-narrow",
        "MHA, tied, rows of 48, float16",
        "Olmo2ForCausalLM",
        small(**NARROW, **NEOX_TOKENS),
        dtype="float16",
        tokenizer=write_gpt_neox,
        shared=True,
        differs="it leaves the output matrix out, which llama.cpp needs",
    ),
    FamilyRow(
        "Olmo-3-7B",
        "5 layers, all but every fourth with a window of 24, YaRN in the others",
        "Olmo3ForCausalLM",
        small(
            **NEOX_TOKENS,
            num_hidden_layers=5,
            sliding_window=24,
            rope_parameters={
                "full_attention": {
                    "factor": 8.0,
                    "original_max_position_embeddings": 512,
                    "rope_theta": 5e5,
                    "rope_type": "yarn",
                },
                "sliding_attention": {"rope_theta": 5e5, "rope_type": "default"},
            },
        ),
        tokenizer=write_gpt_neox,
        shared=True,
    ),
    FamilyRow(
        "OLMoE-1B-7B-0924",
        "8 experts, MHA",
        "OlmoeForCausalLM",
        small(**GPT2_TOKENS, num_experts=8, num_experts_per_tok=2, num_key_value_heads=4),
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow(
        "OLMoE-narrow",
        "4 experts, rows of 48, a state dict with fused experts, float32",
        "OlmoeForCausalLM",
        small(**(NARROW | {"tie_word_embeddings": False}), **GPT2_TOKENS, num_experts=4, num_experts_per_tok=2),
        dtype="float32",
        tokenizer=write_gpt2,
        state_dict=True,
        shared=True,
        only_ours="ValueError: Unprocessed experts: ['model.layers.0.mlp.experts.gate_up_proj', "
        "'model.layers.0.mlp.experts.down_proj', 'model.layers.1.mlp.experts.gate_up_proj', "
        "'model.layers.1.mlp.experts.down_proj']",
    ),
)
