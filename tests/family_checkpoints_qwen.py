"""Rows of Qwen's families beside Qwen3-MoE; see family_checkpoints.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from checkpoint_configs import VOCABULARY
from family_making import FamilyRow, qwen3_moe, write_gpt2, write_gpt_neox, write_qwen, write_sentencepiece

if TYPE_CHECKING:
    from pathlib import Path

QWEN2: Final = "Qwen2ForCausalLM"
QWEN2_MOE: Final = "Qwen2MoeForCausalLM"
QWEN3: Final = "Qwen3ForCausalLM"


def qwen(**changes: object) -> dict[str, Any]:
    """Give a dense Qwen config, 64 wide, with changes."""
    return {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": 64,
        "intermediate_size": 192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "vocab_size": VOCABULARY,
    } | changes


def qwen2_moe(**changes: object) -> dict[str, Any]:
    """Give a Qwen2-MoE config, 64 wide, with changes."""
    config = qwen3_moe(norm_topk_prob=False, num_experts=6, shared_expert_intermediate_size=160) | changes
    return {key: value for key, value in config.items() if key != "head_dim"}


def write_sentencepiece_with_pooling(folder: Path) -> None:
    """Write the small sentencepiece model, and what sentence-transformers writes beside Qwen3-Embedding."""
    write_sentencepiece(folder)
    parts = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in parts.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))


ROWS: Final = (
    FamilyRow("Qwen2.5-0.5B", "biases, GQA, tied, bfloat16", QWEN2, qwen(tie_word_embeddings=True)),
    FamilyRow(
        "Qwen2.5-yarn",
        "yarn as published for long contexts, MHA, untied, rows of 48, float16",
        QWEN2,
        qwen(
            hidden_size=48,
            intermediate_size=80,
            num_attention_heads=3,
            num_key_value_heads=3,
            rope_parameters={
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
                "rope_theta": 1000000.0,
                "rope_type": "yarn",
            },
        ),
        dtype="float16",
    ),
    FamilyRow(
        "Qwen2.5-rows-of-256",
        "no fallback, the published tokenizer with fewer tokens than embedding rows, float32",
        QWEN2,
        qwen(
            bos_token_id=151643,
            eos_token_id=151645,
            hidden_size=256,
            intermediate_size=256,
            num_hidden_layers=1,
            tie_word_embeddings=True,
            vocab_size=151936,
        ),
        tokenizer=write_qwen,
        shared=True,
    ),
    FamilyRow(
        "Qwen3-0.6B",
        "norms on heads wider than hidden / heads, GQA, tied, bfloat16",
        QWEN3,
        qwen(head_dim=32, tie_word_embeddings=True),
    ),
    FamilyRow(
        "Qwen3-Embedding-0.6B",
        "an embedding model of sentence-transformers: pooling by the last token",
        QWEN3,
        qwen(head_dim=16, num_hidden_layers=1, tie_word_embeddings=True),
        tokenizer=write_sentencepiece_with_pooling,
        not_run="llama-perplexity gives an embedding model no logits",
    ),
    FamilyRow(
        "Qwen3-Embedding-bare",
        "the same class without a head: names without `model.`; MHA, rows of 48",
        "Qwen3Model",
        qwen(head_dim=16, hidden_size=48, num_attention_heads=3, num_hidden_layers=1, num_key_value_heads=3),
        tokenizer=write_sentencepiece_with_pooling,
        not_run="llama-perplexity gives an embedding model no logits",
    ),
    FamilyRow(
        "gte-Qwen2-bare",
        "without a head, GQA, float16",
        "Qwen2Model",
        qwen(num_hidden_layers=1),
        dtype="float16",
        tokenizer=write_sentencepiece_with_pooling,
        not_run="llama-perplexity gives an embedding model no logits",
    ),
    FamilyRow(
        "Qwen3-byte-level",
        "MHA, untied, rows of 48, float16, a byte-level vocabulary",
        QWEN3,
        qwen(
            bos_token_id=50256,
            eos_token_id=50256,
            head_dim=16,
            hidden_size=48,
            intermediate_size=80,
            num_attention_heads=3,
            num_key_value_heads=3,
            vocab_size=50257,
        ),
        dtype="float16",
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow(
        "Qwen1.5-MoE",
        "6 experts and a shared one, GQA, untied, bfloat16",
        QWEN2_MOE,
        qwen2_moe(),
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow(
        "Qwen2-MoE-tied",
        "tied: llama.cpp wants an output matrix",
        QWEN2_MOE,
        qwen2_moe(hidden_size=32, num_hidden_layers=1, tie_word_embeddings=True),
        tokenizer=write_gpt2,
        shared=True,
        differs="it has no output matrix",
    ),
    FamilyRow(
        "Qwen2-57B-A14B",
        "8 experts, MHA, untied, rows of 32 and 48, a vocabulary padded to 50304, float16",
        QWEN2_MOE,
        qwen2_moe(
            bos_token_id=0,
            eos_token_id=0,
            hidden_size=32,
            moe_intermediate_size=48,
            num_experts=8,
            num_key_value_heads=4,
            shared_expert_intermediate_size=96,
            vocab_size=50304,
        ),
        dtype="float16",
        tokenizer=write_gpt_neox,
        shared=True,
    ),
)
