"""Rows of Qwen3-Next and Qwen3.5, whose layers have a gated delta rule; see family_checkpoints.py."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from family_configs import NARROW, NEOX_TOKENS, small
from family_making import FamilyRow, write_gpt_neox

if TYPE_CHECKING:
    from family_making import Weights

_MTP: Final = {"mtp_num_hidden_layers": 1}
_TOWER: Final = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}


def gated(**changes: object) -> dict[str, Any]:
    """Give a Qwen3.5 config, 64 wide and of 4 layers, the last with attention, with changes."""
    rule: dict[str, object] = {
        "head_dim": 32,
        "linear_key_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 16,
        "num_hidden_layers": 4,
    }
    mixture: dict[str, object] = {
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "shared_expert_intermediate_size": 32,
    }
    return small() | rule | mixture | changes


def with_predicting_layer(weights: Weights) -> Weights:
    """Add the layer that predicts the token behind the next, as published: one with attention, and what joins it."""
    import torch

    last = re.compile(r"model\.(language_model\.)?layers\.3\.")
    added = {last.sub("mtp.layers.0.", name): tensor.clone() for name, tensor in weights.items() if last.match(name)}
    norm = next(tensor for name, tensor in weights.items() if name.endswith("layers.0.input_layernorm.weight"))
    for part in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        added[f"mtp.{part}.weight"] = norm.clone()
    eye = torch.eye(len(norm), dtype=norm.dtype)
    return weights | added | {"mtp.fc.weight": torch.cat([eye, eye], dim=1)}


SCALES: Final = {"A_log": 2.0, "out_proj": 0.3, "o_proj": 0.3, "down_proj": 0.3, "mlp.gate.": 2.0}
FEW_PAIRS: Final = {"rope_parameters": {"mrope_section": [1, 1, 0], "rope_theta": 1e4, "rope_type": "default"}}
# Of models that see the `model_type` is another's: for theirs transformers reads every tokenizer as Qwen 3.5's, which
# the reference then knows by its hash alone.
Row: Final = partial(FamilyRow, scales=SCALES, tokenizer=write_gpt_neox, shared=True)
ROWS: Final = (
    Row(
        "Qwen3-Next-80B-A3B",
        "queries, keys, values and gates together, experts one by one, a layer that predicts",
        "Qwen3NextForCausalLM",
        gated(**NEOX_TOKENS),
        change_weights=with_predicting_layer,
    ),
    Row(
        "Qwen3-Next-narrow",
        "as many keys as values, MHA, tied, rows of 48, no such layer, float16",
        "Qwen3NextForCausalLM",
        gated(**NARROW, **NEOX_TOKENS, head_dim=16, linear_num_value_heads=2, moe_intermediate_size=48),
        dtype="float16",
        options=("--no-mtp",),
    ),
    Row(
        "Qwen3.5-9B",
        "a vision tower beside, two values to a key, a layer that predicts",
        "Qwen3_5ForConditionalGeneration",
        {"text_config": gated(**NEOX_TOKENS), "vision_config": _TOWER, "tie_word_embeddings": False},
        change_weights=with_predicting_layer,
        saved_config={"model_type": "qwen3_5_text"},
        judge_unchanged=True,
    ),
    Row(
        "Qwen3.5-fine-tuned",
        "saved without the layer that the config speaks of; MHA, tied, rows of 48, three values to a key, float16",
        "Qwen3_5ForCausalLM",
        gated(**NARROW, **NEOX_TOKENS, **FEW_PAIRS, head_dim=16, linear_num_value_heads=6),
        dtype="float16",
        saved_config=_MTP,
        options=("--no-mtp",),
    ),
    Row(
        "Qwen3.5-35B-A3B",
        "fused experts, a shared one, a vision tower beside, attention in every second layer",
        "Qwen3_5MoeForConditionalGeneration",
        {
            "text_config": gated(**NEOX_TOKENS, layer_types=["linear_attention", "full_attention"] * 2),
            "tie_word_embeddings": False,
            "vision_config": _TOWER,
        },
        saved_config={"model_type": "qwen3_next"},
        judge_unchanged=True,
        options=("--no-mtp",),
    ),
)
