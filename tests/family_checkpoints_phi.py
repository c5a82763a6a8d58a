"""Rows of Phi-2, Phi-3 and its successors, and PhiMoE; see family_checkpoints.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from checkpoint_configs import VOCABULARY
from checkpoint_tokenizers import TOKENIZER_CONFIG, TWO_ADDED, added_token
from family_making import FamilyRow, write_gpt2, write_gpt_neox, write_sentencepiece

if TYPE_CHECKING:
    from pathlib import Path

PHI2: Final = "PhiForCausalLM"
PHI3: Final = "Phi3ForCausalLM"
PHI_MOE: Final = "PhimoeForCausalLM"
MSCALES: Final = dict.fromkeys(("long_mscale", "short_mscale"), 1.1902380714238083)
PUBLISHED: Final = {"architectures": ["PhiMoEForCausalLM"]}
N_ADDED: Final = 8


def write_phi_sentencepiece(folder: Path) -> None:
    """Write a sentencepiece model with tokens added as Phi-3 adds them, some in tokenizer.json only."""
    write_sentencepiece(folder)
    decoder = TWO_ADDED | {str(VOCABULARY + 2): added_token("<|▁odd|>", special=False)}
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG | {"added_tokens_decoder": decoder}))
    added = [{"id": VOCABULARY + 3, **added_token("<|user|>", special=True)}]
    added += [{"id": VOCABULARY + 4, **added_token("▁plain", special=False)}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    (folder / "added_tokens.json").write_text(json.dumps({"<|end|>": VOCABULARY + 5}))


def write_gpt2_json(folder: Path) -> None:
    """Write GPT-2's vocabulary as Phi-4 has its own: a tokenizer.json, and the class's name."""
    from tokenizers import ByteLevelBPETokenizer

    write_gpt2(folder)
    files = folder / "vocab.json", folder / "merges.txt"
    ByteLevelBPETokenizer(*map(str, files)).save(str(folder / "tokenizer.json"))
    for file in files:
        file.unlink()


def phi3(**changes: object) -> dict[str, Any]:
    """Give a Phi-3 config, 64 wide, with changes."""
    return {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": 64,
        "intermediate_size": 192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "pad_token_id": 2,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "vocab_size": VOCABULARY + N_ADDED,
    } | changes


def longrope(size: int, **more: object) -> dict[str, object]:
    """Give rotary factors of two lengths, for `size` rotated values of a head."""
    factors = range(size // 2)
    return {
        "long_factor": [1.0 + 0.7 * index for index in factors],
        "rope_theta": 10000.0,
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.1 * index for index in factors],
    } | more


def phi_moe(**changes: object) -> dict[str, Any]:
    """Give a PhiMoE config, 64 wide, with changes."""
    mixture = {"attention_bias": True, "lm_head_bias": True, "num_experts_per_tok": 2, "num_local_experts": 4}
    return phi3(**mixture) | changes


WEIGHED: Final = "llama.cpp has other norms than PhiMoE, and weighs its two experts by one softmax"
ROWS: Final = (
    FamilyRow(
        "phi-2",
        "biases everywhere, a part of each head rotated, untied, bfloat16",
        PHI2,
        phi3(
            bos_token_id=50256,
            eos_token_id=50256,
            intermediate_size=256,
            pad_token_id=None,
            rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": 10000.0, "rope_type": "default"},
            vocab_size=50257,
        ),
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow(
        "phi-1_5-narrow",
        "rows of 48, three heads, a vocabulary padded to 50304, float16",
        PHI2,
        phi3(
            bos_token_id=0,
            eos_token_id=0,
            hidden_size=48,
            intermediate_size=192,
            num_attention_heads=3,
            num_key_value_heads=3,
            pad_token_id=None,
            rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": 10000.0, "rope_type": "default"},
            vocab_size=50304,
        ),
        dtype="float16",
        tokenizer=write_gpt_neox,
        shared=True,
    ),
    FamilyRow(
        "phi-2-other-theta",
        "a base frequency of 1000000, a feed-forward not four times as wide, GQA",
        PHI2,
        phi3(
            hidden_size=32,
            num_key_value_heads=2,
            rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": 1e6, "rope_type": "default"},
            vocab_size=50257,
        ),
        tokenizer=write_gpt2,
        shared=True,
        differs="it writes other widths than the model has, and no base frequency",
    ),
    FamilyRow(
        "Phi-3-mini-4k-instruct",
        "MHA, untied, a window that llama.cpp leaves out, tokens added in three files, bfloat16",
        PHI3,
        phi3(sliding_window=2047),
        tokenizer=write_phi_sentencepiece,
    ),
    FamilyRow(
        "Phi-3.5-mini-instruct",
        "rotary factors, those below the original length; GQA, rows of 96, float16",
        PHI3,
        phi3(
            hidden_size=96,
            max_position_embeddings=131072,
            num_key_value_heads=2,
            original_max_position_embeddings=4096,
            rope_parameters=longrope(24),
            sliding_window=262144,
        ),
        dtype="float16",
        tokenizer=write_phi_sentencepiece,
    ),
    FamilyRow(
        "Phi-4-mini-instruct",
        "rotary factors, those beyond the original length, of three quarters of each head; tied, GQA, byte-level",
        PHI3,
        phi3(
            bos_token_id=50256,
            eos_token_id=50256,
            hidden_size=128,
            max_position_embeddings=2048,
            num_key_value_heads=2,
            original_max_position_embeddings=64,
            pad_token_id=50256,
            rope_parameters=longrope(24, partial_rotary_factor=0.75),
            tie_word_embeddings=True,
            vocab_size=50257,
        ),
        tokenizer=write_gpt2_json,
        shared=True,
    ),
    FamilyRow(
        "Phi-3.5-MoE-instruct",
        "biases, 4 experts, GQA, factors with the scale that their lengths give",
        PHI_MOE,
        phi_moe(
            max_position_embeddings=131072,
            num_key_value_heads=2,
            original_max_position_embeddings=4096,
            rope_parameters=longrope(
                16,
                **MSCALES,
                original_max_position_embeddings=4096,
            ),
        ),
        saved_config=PUBLISHED,
        tokenizer=write_phi_sentencepiece,
        not_run=WEIGHED,
    ),
    FamilyRow(
        "Phi-tiny-MoE",
        "transformers' own class name and fused experts, a scale that lengths do not give, tied, MHA, float16",
        PHI_MOE,
        phi_moe(
            hidden_size=48,
            intermediate_size=96,
            num_attention_heads=3,
            num_key_value_heads=3,
            rope_parameters=longrope(16, long_mscale=1.3, short_mscale=1.3, original_max_position_embeddings=1024),
            tie_word_embeddings=True,
        ),
        dtype="float16",
        state_dict=True,
        tokenizer=write_phi_sentencepiece,
        scales={"router": 2.0},
        only_ours="exit 1",
        not_run=WEIGHED,
    ),
)
