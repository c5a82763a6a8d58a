"""Test checkpoints: Mistral and Mixtral."""

from __future__ import annotations

from typing import Final

from checkpoint_configs import llama, mistral, mixtral, newly_spelled
from checkpoint_layouts import Layout
from checkpoint_row import CheckpointRow
from checkpoint_tokenizers import CHAT_TEMPLATE, write_both_tokenizers
from checkpoint_weights import with_fused_experts

MISTRAL_ROWS: Final[tuple[CheckpointRow, ...]] = (
    # Mistral
    CheckpointRow("Mistral-7B-v0.1", "sliding_window 4096", mistral(), dtype="bfloat16"),
    CheckpointRow(
        "zephyr-7b-beta",
        "Mistral with added tokens, a chat template and a model card",
        mistral(_name_or_path="HuggingFaceH4/mistral-7b-sft-beta", pad_token_id=2, vocab_size=1027),
        dtype="bfloat16",
        layout=Layout.SAFETENSORS_SHARDED,
        tokenizer=write_both_tokenizers,
        tokenizer_config={"chat_template": CHAT_TEMPLATE, "pad_token": "</s>", "padding_side": "left"},
        files={
            "added_tokens.json": {"<|system|>": 1024, "<|user|>": 1025, "<|assistant|>": 1026},
            "README.md": (
                "---\ntags:\n- generated_from_trainer\nlicense: mit\ndatasets:\n- HuggingFaceH4/ultrachat_200k\n"
                "- HuggingFaceH4/ultrafeedback_binarized\nlanguage:\n- en\nbase_model: mistralai/Mistral-7B-v0.1\n"
                "pipeline_tag: text-generation\nmodel-index:\n- name: zephyr-7b-beta\n  results: []\n---\n# Zephyr\n"
            ),
        },
    ),
    CheckpointRow(
        "Mistral-7B-Instruct-v0.3",
        "sliding_window null, explicit head_dim, rope_theta 1e6",
        mistral(sliding_window=None, head_dim=16, rope_theta=1000000.0),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "Yarn-Mistral-7b-128k",
        "Mistral with yarn in the old spelling",
        mistral(
            rope_scaling={"factor": 16.0, "finetuned": True, "original_max_position_embeddings": 8192, "type": "yarn"},
            max_position_embeddings=32768,
            sliding_window=131072,
            max_sequence_length=131072,
        ),
        dtype="bfloat16",
        layout=Layout.TORCH_BIN_SHARDED,
    ),
    CheckpointRow(
        "Mistral-Nemo-Base-2407",
        "Mistral with head_dim unlike hidden_size / num_attention_heads",
        mistral(sliding_window=None, head_dim=32, rope_theta=1000000.0, max_position_embeddings=131072),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "mistral-respelled",
        "Mistral as transformers 5 spells it",
        newly_spelled(mistral(sliding_window=None, head_dim=None)),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "yarn-respelled",
        "yarn as transformers 5 spells it, with all its parameters",
        newly_spelled(
            llama(max_position_embeddings=65536),
            rope_type="yarn",
            factor=16.0,
            original_max_position_embeddings=4096,
            attention_factor=1.25,
            beta_fast=32.0,
            beta_slow=1.0,
        ),
    ),
    CheckpointRow(
        "linear-respelled",
        "linear scaling as transformers 5 spells it",
        newly_spelled(llama(), rope_type="linear", factor=2.0),
    ),
    # Mixtral
    CheckpointRow(
        "Mixtral-8x7B-v0.1", "eight experts, which change the types of attn_k and attn_v", mixtral(), dtype="bfloat16"
    ),
    CheckpointRow(
        "Mixtral-8x7B-Instruct-v0.1",
        "eight experts over shards, rows of 256",
        mixtral(hidden_size=256, intermediate_size=256, num_attention_heads=8, num_key_value_heads=2),
        dtype="bfloat16",
        layout=Layout.SAFETENSORS_SHARDED,
    ),
    CheckpointRow("mixtral-four-experts", "four experts", mixtral(num_local_experts=4), dtype="bfloat16"),
    CheckpointRow("mixtral-bin", "experts in pytorch_model.bin", mixtral(num_local_experts=4), layout=Layout.TORCH_BIN),
    CheckpointRow(
        "mixtral-respelled",
        "Mixtral as transformers 5 spells it",
        newly_spelled(mixtral(num_local_experts=4)),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "mixtral-fused-experts",
        "experts as a transformers 5 state dict holds them: gate_up_proj and down_proj",
        newly_spelled(mixtral(num_local_experts=4)),
        dtype="bfloat16",
        change_weights=with_fused_experts,
        refused_by_reference="ValueError: Can not map tensor `model.layers.0.mlp.experts.gate_up_proj`",
    ),
)
