"""Small configs that many families share."""

from __future__ import annotations

from typing import Any, Final

from checkpoint_configs import VOCABULARY


def small(**changes: object) -> dict[str, Any]:
    """Give a config of Llama's kind, 64 wide, with changes."""
    return {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": 64,
        "intermediate_size": 192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": None,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
    } | changes


# MHA, tied, rows of 48, which fit no type that is asked for.
NARROW: Final[dict[str, object]] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
GPT2_TOKENS: Final[dict[str, object]] = {"bos_token_id": 50256, "eos_token_id": 50256, "vocab_size": 50257}
NEOX_TOKENS: Final[dict[str, object]] = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": 50304}
LLAMA3: Final = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500000.0,
    "rope_type": "llama3",
}


def gpt2(**changes: object) -> dict[str, Any]:
    """Give a config of GPT-2's kind, 64 wide, with changes."""
    return {
        "n_embd": 64,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": 256,
        **GPT2_TOKENS,
    } | changes
