"""Rows of Gemma 3n; see family_checkpoints.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from checkpoint_configs import ABSENT, VOCABULARY
from family_making import FamilyRow, gemma3, write_gemma_sentencepiece

if TYPE_CHECKING:
    from family_making import Weights

GEMMA3N: Final = "Gemma3nForCausalLM"


def gemma3n(**changes: object) -> dict[str, Any]:
    """Give a Gemma 3n config, 64 wide and of 5 layers, the last of which sees all, with changes.

    Its feed-forward is wide since llama.cpp divides by one less where it measures how values spread there.
    """
    config = gemma3(intermediate_size=1536, num_hidden_layers=5, num_key_value_heads=2) | {
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": VOCABULARY,
    }
    config |= changes
    config |= {"activation_sparsity_pattern": [0.95 if n < 10 else 0.0 for n in range(config["num_hidden_layers"])]}
    del config["query_pre_attn_scalar"]
    return config


def of_a_whole(weights: Weights) -> Weights:
    """Name the tensors as the model that also sees and hears, whose small embeddings end before the last tokens."""
    import torch

    named = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in weights.items()}
    small = "model.language_model.embed_tokens_per_layer.weight"
    beside = {f"model.{part}.weight": torch.zeros(2, 2) for part in ("vision_tower.conv", "audio_tower.conv")}
    return named | beside | {small: named[small][:-24]}


CALM: Final = {"prediction_coefs": 0.1, "correction_coefs": 0.1, "down_proj": 0.3}
NARROW: Final = gemma3n(
    hidden_size=48, intermediate_size=1040, num_attention_heads=2, num_hidden_layers=2, num_key_value_heads=2
)
ROWS: Final = (
    FamilyRow(
        "gemma-3n-E2B-text", "GQA, tied, bfloat16", GEMMA3N, gemma3n(), scales=CALM, tokenizer=write_gemma_sentencepiece
    ),
    FamilyRow(
        "gemma-3n-E4B-it",
        "as published: names of what also sees and hears, tokens without small embeddings; MHA, rows of 48, float16",
        GEMMA3N,
        NARROW,
        scales=CALM,
        dtype="float16",
        change_weights=of_a_whole,
        judge_unchanged=True,
        saved_config={
            **dict.fromkeys(("layer_types", "rope_parameters", *NARROW), ABSENT),
            "architectures": ["Gemma3nForConditionalGeneration"],
            "model_type": "gemma3n",
            "text_config": NARROW | {"model_type": "gemma3n_text"},
        },
        tokenizer=write_gemma_sentencepiece,
    ),
    FamilyRow(
        "gemma-3n-as-saved",
        "22 layers, of which the last two share the keys of others, and have none in the file of transformers 5",
        GEMMA3N,
        gemma3n(hidden_size=32, num_hidden_layers=22, num_kv_shared_layers=2, num_attention_heads=2),
        scales=CALM | {"o_proj": 0.3, "down_proj": 0.1},
        tokenizer=write_gemma_sentencepiece,
        differs="it has no keys of layers that share others', which llama.cpp looks for",
    ),
)
