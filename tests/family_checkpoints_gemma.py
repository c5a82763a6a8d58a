"""Rows of Gemma 1 and 2; see family_checkpoints.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from family_making import FamilyRow, gemma3, write_gemma_sentencepiece

if TYPE_CHECKING:
    from collections.abc import Mapping

GEMMA: Final = "GemmaForCausalLM"
GEMMA2: Final = "Gemma2ForCausalLM"
_ONLY_GEMMA_3: Final = ("query_pre_attn_scalar", "sliding_window")


def gemma(**changes: object) -> dict[str, Any]:
    """Give a Gemma config, 64 wide, with changes."""
    config: Mapping[str, Any] = gemma3(num_hidden_layers=2) | changes
    return {key: value for key, value in config.items() if key not in _ONLY_GEMMA_3}


def gemma2(**changes: object) -> dict[str, Any]:
    """Give a Gemma 2 config whose caps are low enough to matter, with changes."""
    return gemma3(attn_logit_softcapping=10.0, final_logit_softcapping=12.0, num_hidden_layers=4) | changes


ROWS: Final = (
    FamilyRow("gemma-2b-it", "one key-value head, tied, bfloat16", GEMMA, gemma(), tokenizer=write_gemma_sentencepiece),
    FamilyRow(
        "codegemma-7b",
        "MHA, `gelu` in config.json as first published, rows of 48, float16",
        GEMMA,
        gemma(hidden_size=48, intermediate_size=96, num_attention_heads=2, num_key_value_heads=2),
        dtype="float16",
        saved_config={"hidden_act": "gelu"},
    ),
    FamilyRow(
        "gemma-other-theta",
        "a base frequency of 1000000",
        GEMMA,
        gemma(hidden_size=32, rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"}),
        differs="it does not write the base frequency",
    ),
    FamilyRow(
        "gemma-2-2b-it",
        "GQA, tied, caps, a window of 24 tokens in every second layer, bfloat16",
        GEMMA2,
        gemma2(num_key_value_heads=2),
        tokenizer=write_gemma_sentencepiece,
    ),
    FamilyRow(
        "gemma-2-9b-float16",
        "float16, in which 1 is added to the norms; rows of 96 and 48 wide heads, MHA",
        GEMMA2,
        gemma2(head_dim=48, hidden_size=96, num_key_value_heads=4, query_pre_attn_scalar=48),
        dtype="float16",
    ),
    FamilyRow(
        "gemma-2-every-third",
        "full attention in every third layer",
        GEMMA2,
        gemma2(
            hidden_size=32,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
            num_hidden_layers=6,
        ),
        differs="it does not write the pattern",
    ),
)
