"""Rows of Llama 4, Ministral 3 and gpt-oss; see family_checkpoints.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from family_configs import GPT2_TOKENS, NARROW, NEOX_TOKENS, small
from family_making import FamilyRow, write_gpt2, write_gpt_neox

if TYPE_CHECKING:
    from family_making import Weights

GPT_OSS: Final = "GptOssForCausalLM"
LLAMA4: Final = "Llama4ForCausalLM"
MINISTRAL3: Final = "Ministral3ForCausalLM"
SCALED: Final = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 1000000.0,
    "rope_type": "yarn",
}


def gpt_oss(**changes: object) -> dict[str, Any]:
    """Give a gpt-oss config, 64 wide, with changes."""
    mixture: dict[str, object] = {
        "head_dim": 32,
        "num_experts_per_tok": 2,
        "num_local_experts": 4,
        "sliding_window": 24,
    }
    rope = {"rope_parameters": {"rope_theta": 150000.0, "rope_type": "default"}}
    return small(**GPT2_TOKENS) | mixture | rope | {"intermediate_size": 96} | changes


def with_packed_experts(weights: Weights) -> Weights:
    """Pack the experts as gpt-oss is published: an exponent and 32 of MXFP4's numbers, the nearest, a block."""
    import torch

    steps = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    packed: Weights = {}
    for name, tensor in weights.items():
        if not name.endswith("experts.gate_up_proj") and not name.endswith("experts.down_proj"):
            packed[name] = tensor
            continue
        blocks = tensor.float().transpose(1, 2).reshape(len(tensor), tensor.shape[2], -1, 32)
        exponents = blocks.abs().amax(-1).log2().floor() - 2
        scaled = blocks / exponents.exp2()[..., None]
        codes = (scaled.abs()[..., None] - steps).abs().argmin(-1) + 8 * (scaled < 0)
        packed[f"{name}_blocks"] = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)
        packed[f"{name}_scales"] = (exponents + 127).to(torch.uint8)
    return packed


def llama4(**changes: object) -> dict[str, Any]:
    """Give a Llama 4 config, 64 wide, whose every second layer has experts, with changes."""
    mixture: dict[str, object] = {
        "head_dim": 32,
        "interleave_moe_layer_step": 2,
        "intermediate_size": 96,
        "intermediate_size_mlp": 160,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 4,
        "num_local_experts": 4,
    }
    return small(**GPT2_TOKENS) | mixture | changes


ROWS: Final = (
    FamilyRow(
        "Llama-4-Scout",
        "every second of 4 layers with 4 experts, GQA, Llama 3's rotary scaling between equal wavelengths, untied",
        LLAMA4,
        llama4(
            rope_parameters={
                "factor": 16.0,
                "high_freq_factor": 1.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_theta": 500000.0,
                "rope_type": "llama3",
            }
        ),
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow(
        "Llama-4-narrow",
        "all layers with experts, MHA, tied, rows of 48, float16",
        LLAMA4,
        llama4(
            **NEOX_TOKENS,
            head_dim=16,
            hidden_size=48,
            interleave_moe_layer_step=1,
            num_attention_heads=3,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
        dtype="float16",
        scales={"router": 3.0},
        tokenizer=write_gpt_neox,
        shared=True,
    ),
    FamilyRow(
        "Ministral-3-8B",
        "GQA, untied, YaRN beyond the original length, where queries grow",
        MINISTRAL3,
        small(head_dim=32, max_position_embeddings=4096, rope_parameters=SCALED),
    ),
    FamilyRow(
        "Ministral-3-narrow",
        "MHA, tied, rows of 48, float16",
        MINISTRAL3,
        small(**NARROW, head_dim=16, rope_parameters=SCALED | {"original_max_position_embeddings": 4096}),
        dtype="float16",
    ),
    FamilyRow(
        "gpt-oss-20b-bf16",
        "sinks, biases, 4 experts, GQA, a window of 24 tokens in every second layer, untied, bfloat16",
        GPT_OSS,
        gpt_oss(),
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow(
        "gpt-oss-narrow",
        "YaRN, MHA, rows of 48, float16, a vocabulary padded to 50304",
        GPT_OSS,
        gpt_oss(
            **NEOX_TOKENS,
            head_dim=16,
            hidden_size=48,
            intermediate_size=48,
            num_attention_heads=3,
            num_key_value_heads=3,
            rope_parameters={
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "rope_theta": 150000.0,
                "rope_type": "yarn",
                "truncate": True,
            },
        ),
        dtype="float16",
        tokenizer=write_gpt_neox,
        shared=True,
    ),
    FamilyRow(
        "gpt-oss-20b",
        "experts packed as published, which stay MXFP4; GQA, untied",
        GPT_OSS,
        gpt_oss(),
        tokenizer=write_gpt2,
        shared=True,
        saved_config={
            "quantization_config": {
                "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
                "quant_method": "mxfp4",
            }
        },
        change_weights=with_packed_experts,
        only_float="requantizing from type mxfp4 is disabled",
    ),
)
