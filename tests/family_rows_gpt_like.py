"""Rows for `family_checkpoints.py`: families with one matrix for queries, keys and values, and some beside them."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from family_configs import GPT2_TOKENS, NARROW, NEOX_TOKENS, gpt2, small
from family_making import FamilyRow, Weights, write_falcon, write_gpt2, write_gpt_neox

NeoxRow: Final = partial(FamilyRow, tokenizer=write_gpt_neox, shared=True)
Gpt2Row: Final = partial(FamilyRow, tokenizer=write_gpt2, shared=True)


def with_masks(weights: Weights) -> Weights:
    """Add the causal masks that old versions saved."""
    import torch

    mask = torch.ones(1, 1, 8, 8).tril()
    return {f"transformer.h.{layer}.attn.bias": mask.clone() for layer in range(2)} | weights


def falcon(**changes: object) -> dict[str, Any]:
    """Give a Falcon config, 64 wide, with changes."""
    return {
        "bos_token_id": 11,
        "eos_token_id": 11,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 65024,
    } | changes


FalconRow: Final = partial(FamilyRow, tokenizer=write_falcon, shared=True, architecture="FalconForCausalLM")
TiedGpt2: Final = partial(
    Gpt2Row, architecture="GPT2LMHeadModel", config=gpt2(), scales={"wte": 4.0, "c_proj": 4.0, "c_attn": 1.5}
)
MPT_SCALES: Final = {"wte": 5.0, "out_proj": 1.5}
MPT_CLASS: Final = {"architectures": ["MPTForCausalLM"]}  # as Mosaic's own code calls it

GPT_LIKE: Final[tuple[FamilyRow, ...]] = (
    NeoxRow(
        "c4ai-command-r-v01",
        "GQA, the length it was trained with as model_max_length",
        "CohereForCausalLM",
        small(**NEOX_TOKENS, tie_word_embeddings=True, logit_scale=0.6),
        saved_config={"model_max_length": 131072},
    ),
    NeoxRow(
        "c4ai-command-r-plus",
        "64 layers with norms of heads, rows of 48, float16",
        "CohereForCausalLM",
        small(**NARROW, **NEOX_TOKENS, num_hidden_layers=64, use_qk_norm=True, logit_scale=0.6),
        dtype="float16",
        scales={"o_proj": 0.15, "down_proj": 0.15},
    ),
    NeoxRow(
        "c4ai-command-r7b",
        "rotary_pct, a window of 24 in all layers but the fourth",
        "Cohere2ForCausalLM",
        small(**NEOX_TOKENS, tie_word_embeddings=True, num_hidden_layers=5, sliding_window=24, logit_scale=0.6),
        saved_config={"rotary_pct": 1.0},
    ),
    NeoxRow(
        "command-r7b-as-saved",
        "as transformers 5 saves it; windows in every second layer; MHA, rows of 48",
        "Cohere2ForCausalLM",
        small(
            **NARROW,
            **NEOX_TOKENS,
            layer_types=["sliding_attention", "full_attention"] * 2,
            num_hidden_layers=4,
            sliding_window=24,
            logit_scale=0.6,
        ),
        only_ours="KeyError: 'rotary_pct'",
    ),
    NeoxRow(
        "stablelm-2-1_6b",
        "biases of queries, keys and values",
        "StableLmForCausalLM",
        small(**NEOX_TOKENS, use_qkv_bias=True, use_parallel_residual=False),
    ),
    NeoxRow(
        "stablelm-3b-4e1t",
        "MHA, rows of 48, float16",
        "StableLmForCausalLM",
        small(**(NARROW | {"tie_word_embeddings": False}), **NEOX_TOKENS),
        dtype="float16",
    ),
    NeoxRow(
        "stablelm-2-12b",
        "norms of heads, parallel residual",
        "StableLmForCausalLM",
        small(**NEOX_TOKENS, qk_layernorm=True, use_parallel_residual=True),
        only_ours="ValueError: Unprocessed norms: ['model.layers.0.self_attn.q_layernorm.norms.0.weight'",
    ),
    Gpt2Row("starcoder2-3b", "GQA, tied", "Starcoder2ForCausalLM", small(**GPT2_TOKENS, tie_word_embeddings=True)),
    Gpt2Row(
        "starcoder2-narrow",
        "MHA, untied, rows of 48, float32",
        "Starcoder2ForCausalLM",
        small(**(NARROW | {"tie_word_embeddings": False}), **GPT2_TOKENS),
        dtype="float32",
    ),
    NeoxRow(
        "starcoder",
        "one head of keys",
        "GPTBigCodeForCausalLM",
        gpt2(**NEOX_TOKENS),
        scales={"wte": 5.0, "c_proj": 1.5},
    ),
    NeoxRow(
        "starcoder-narrow",
        "rows of 48, untied, float16",
        "GPTBigCodeForCausalLM",
        gpt2(**NEOX_TOKENS, n_embd=48, n_head=3, tie_word_embeddings=False),
        dtype="float16",
        scales={"wte": 5.0, "c_proj": 1.2},
    ),
    TiedGpt2("gpt2", "n_ctx, as published", saved_config={"n_ctx": 256}),
    Gpt2Row(
        "gpt2-narrow",
        "rows of 48, untied, float32",
        "GPT2LMHeadModel",
        gpt2(n_embd=48, n_head=3, tie_word_embeddings=False),
        dtype="float32",
        saved_config={"n_ctx": 256},
    ),
    TiedGpt2("gpt2-as-saved", "as transformers 5 saves it", only_ours="KeyError: 'n_ctx'"),
    TiedGpt2(
        "gpt2-with-masks",
        "causal masks, as published",
        saved_config={"n_ctx": 256},
        change_weights=with_masks,
        only_ours="ValueError: Can not map tensor 'transformer.h.0.attn.bias'",
    ),
    NeoxRow(
        "pythia-70m",
        "as transformers 5 saves it",
        "GPTNeoXForCausalLM",
        small(**NEOX_TOKENS),
        only_ours="KeyError: 'rotary_pct'",
    ),
    NeoxRow(
        "pythia-narrow",
        "rows of 48, MHA, tied, another base frequency, sequential residual, half of a head rotated",
        "GPTNeoXForCausalLM",
        small(
            **NARROW,
            **NEOX_TOKENS,
            rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": 50000.0, "rope_type": "default"},
            use_parallel_residual=False,
        ),
        dtype="float16",
        only_ours="KeyError: 'rotary_pct'",
    ),
    NeoxRow(
        "pythia-unknown-to-transformers",
        "a model_type that transformers does not know: the reference then reads the config as it stands",
        "GPTNeoXForCausalLM",
        small(**NEOX_TOKENS),
        saved_config={"model_type": "gpt_neox_old", "rotary_pct": 0.25},
        not_run="transformers does not load it",
    ),
    FalconRow(
        name="falcon-7b-as-saved",
        covers="one head of keys, as transformers 5 saves it",
        config=falcon(),
        only_ours="RuntimeError: shape '[4, 3, 16, 64]'",
    ),
    FalconRow(
        name="falcon-7b",
        covers="one head of keys, as published",
        config=falcon(),
        saved_config={"num_kv_heads": 1},
    ),
    FalconRow(
        name="falcon-40b",
        covers="two groups, two norms, untied, rows of 48",
        config=falcon(
            hidden_size=96, new_decoder_architecture=True, num_kv_heads=2, tie_word_embeddings=False, vocab_size=65024
        ),
        dtype="float16",
    ),
    FalconRow(
        name="falcon-rw-1b",
        covers="ALiBi, biases, one part behind the other",
        config=falcon(alibi=True, bias=True, multi_query=False, parallel_attn=False),
        refused_by_reference="ValueError: Can not map tensor 'transformer.h.0.post_attention_layernorm.bias'",
    ),
    NeoxRow(
        "mpt-7b",
        "ALiBi, tied",
        "MptForCausalLM",
        {"d_model": 64, "n_heads": 4, "n_layers": 2, **NEOX_TOKENS},
        saved_config=MPT_CLASS,
        scales=MPT_SCALES,
    ),
    NeoxRow(
        "mpt-narrow",
        "6 heads, rows of 48, clipped, untied, float16",
        "MptForCausalLM",
        {
            "attn_config": {"clip_qkv": 2.0},
            "d_model": 48,
            "n_heads": 6,
            "n_layers": 3,
            "tie_word_embeddings": False,
            **NEOX_TOKENS,
        },
        dtype="float16",
        saved_config=MPT_CLASS,
    ),
    NeoxRow(
        "mpt-as-saved",
        "the class as transformers calls it",
        "MptForCausalLM",
        {"d_model": 64, "n_heads": 4, "n_layers": 2, **NEOX_TOKENS},
        scales=MPT_SCALES,
        only_ours="exit 1",
    ),
)
