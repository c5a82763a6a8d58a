"""Test checkpoints: Llamas of every generation, and others of their kind."""

from __future__ import annotations

from typing import Final

from checkpoint_configs import ABSENT, LLAMA_1, LLAMA_3_SCALING, llama, newly_spelled
from checkpoint_layouts import Layout
from checkpoint_row import CheckpointRow
from checkpoint_tokenizers import (
    CHAT_TEMPLATE,
    LLAMA_2_ADDED,
    write_both_tokenizers,
    write_byte_level_bpe,
    write_gpt2_tokenizer,
)
from checkpoint_weights import with_rotary_tables

LLAMA_ROWS: Final[tuple[CheckpointRow, ...]] = (
    # Llama 1 and 2
    CheckpointRow(
        "llama-7b",
        "Llama 1: MHA, rotary tables in the file, no rope_theta, no num_key_value_heads",
        LLAMA_1 | {"pad_token_id": 0},
        change_weights=with_rotary_tables,
    ),
    CheckpointRow(
        "llama-7b-hf",
        "Llama 1 as first converted: old architecture name, bos 0, eos 1, pad -1, `max_sequence_length`",
        LLAMA_1
        | {"architectures": ["LLaMAForCausalLM"], "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1}
        | {"max_position_embeddings": ABSENT, "max_sequence_length": 2048},
        change_weights=with_rotary_tables,
        refused_by_reference="`pad_token_id` is -1, which then meant none: ValueError, invalid value for special token",
    ),
    CheckpointRow(
        "LLaMAForCausalLM-respelled",
        "the old architecture name, which the reference knows",
        llama(architectures=["LLaMAForCausalLM"]),
    ),
    CheckpointRow("Llama-2-7b-hf", "MHA, untied, sentencepiece only", llama()),
    CheckpointRow(
        "Llama-2-70b-hf",
        "GQA 8 : 1, `_name_or_path`, sharded safetensors",
        llama(num_attention_heads=8, num_key_value_heads=1, _name_or_path="meta-llama/Llama-2-70b-hf"),
        layout=Layout.SAFETENSORS_SHARDED,
    ),
    CheckpointRow(
        "Llama-2-7b-chat-hf",
        "both tokenizer files, added_tokens_decoder, chat template, pad token, generation config",
        llama(pad_token_id=0),
        tokenizer=write_both_tokenizers,
        tokenizer_config={"added_tokens_decoder": LLAMA_2_ADDED, "chat_template": CHAT_TEMPLATE, "pad_token": "<unk>"},
        files={"generation_config.json": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096}},
    ),
    CheckpointRow(
        "vicuna-7b-v1.5",
        "linear RoPE scaling in its old spelling, no num_key_value_heads, pytorch_model.bin in shards",
        llama(
            _name_or_path="vicuna-7b-v1.5",
            num_key_value_heads=ABSENT,
            pad_token_id=0,
            rope_theta=ABSENT,
            attention_bias=ABSENT,
            rope_scaling={"factor": 4.0, "type": "linear"},
            transformers_version="4.31.0",
        ),
        layout=Layout.TORCH_BIN_SHARDED,
        change_weights=with_rotary_tables,
        files={"generation_config.json": {"max_length": 4096, "temperature": 0.9, "top_p": 0.6, "pad_token_id": 0}},
    ),
    CheckpointRow(
        "CodeLlama-7b-hf",
        "rope_theta 1e6, and the vocabulary of 32016 whose infill tokens the reference knows by that number",
        llama(rope_theta=1000000, max_position_embeddings=16384, vocab_size=32016, torch_dtype="bfloat16"),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "TinyLlama-1.1B-Chat-v1.0",
        "GQA 8 : 1, both tokenizer files, chat template, special_tokens_map",
        llama(num_attention_heads=8, num_key_value_heads=1, max_position_embeddings=2048, torch_dtype="bfloat16"),
        dtype="bfloat16",
        tokenizer=write_both_tokenizers,
        tokenizer_config={"added_tokens_decoder": LLAMA_2_ADDED, "chat_template": CHAT_TEMPLATE, "pad_token": "</s>"},
        files={
            "special_tokens_map.json": {
                name: {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
                for name, text in {
                    "bos_token": "<s>",
                    "eos_token": "</s>",
                    "pad_token": "</s>",
                    "unk_token": "<unk>",
                }.items()
            },
            "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "max_length": 2048, "pad_token_id": 0},
        },
    ),
    CheckpointRow(
        "Yarn-Llama-2-7b-64k",
        "yarn in its old spelling, custom code in auto_map (never run), pytorch_model.bin",
        llama(
            auto_map={
                "AutoConfig": "configuration_llama.LlamaConfig",
                "AutoModelForCausalLM": "modeling.LlamaForCausalLM",
            },
            rope_scaling={"factor": 16.0, "finetuned": True, "original_max_position_embeddings": 4096, "type": "yarn"},
            max_position_embeddings=65536,
            torch_dtype="bfloat16",
        ),
        dtype="bfloat16",
        layout=Layout.TORCH_BIN,
    ),
    CheckpointRow(
        "llama-dynamic-rope",
        "dynamic RoPE scaling, for which GGUF has no word",
        llama(rope_scaling={"factor": 2.0, "type": "dynamic"}),
    ),
    # Llama 3
    CheckpointRow(
        "Meta-Llama-3-8B",
        "rope_theta 500000, GQA, bfloat16",
        llama(rope_theta=500000.0, num_key_value_heads=2, max_position_embeddings=8192, torch_dtype="bfloat16"),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "Llama-3.1-8B-Instruct",
        "llama3 RoPE scaling (rope_freqs) in the old spelling, a list of eos ids, sampling parameters",
        llama(
            rope_theta=500000.0,
            rope_scaling=LLAMA_3_SCALING,
            num_key_value_heads=2,
            max_position_embeddings=131072,
            mlp_bias=False,
            eos_token_id=[2, 5, 7],
            torch_dtype="bfloat16",
        ),
        dtype="bfloat16",
        files={
            "generation_config.json": {
                "bos_token_id": 1,
                "do_sample": True,
                "eos_token_id": [2, 5, 7],
                "temperature": 0.6,
                "top_p": 0.9,
            },
        },
    ),
    CheckpointRow(
        "Llama-3.1-8B-respelled",
        "the same scaling as transformers 5 spells it: rope_parameters, dtype",
        newly_spelled(
            llama(rope_theta=500000.0, num_key_value_heads=2, max_position_embeddings=131072, torch_dtype="bfloat16"),
            **LLAMA_3_SCALING,
        ),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "Llama-3.2-1B-Instruct-v2",
        "tied embeddings, explicit head_dim, factor 32, a name with size, fine-tune and version",
        llama(
            rope_theta=500000.0,
            rope_scaling={**LLAMA_3_SCALING, "factor": 32.0},
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=131072,
            mlp_bias=False,
            tie_word_embeddings=True,
            torch_dtype="bfloat16",
        ),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "llama-3-byte-level-bpe",
        "byte-level BPE that declares Llama 3's pre-tokenizer over a vocabulary of our own",
        llama(rope_theta=500000.0, vocab_size=600, bos_token_id=598, eos_token_id=599),
        tokenizer=write_byte_level_bpe,
        tokenizer_config={
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>",
            "unk_token": None,
        },
        refused_by_reference="it knows a BPE pre-tokenizer by what the published vocabulary makes of one text",
    ),
    CheckpointRow(
        "llama-with-gpt2-tokenizer",
        "byte-level BPE in vocab.json and merges.txt, which the reference recognises",
        llama(vocab_size=50257, bos_token_id=50256, eos_token_id=50256, tie_word_embeddings=True),
        tokenizer=write_gpt2_tokenizer,
        tokenizer_config={
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "add_bos_token": False,
            "add_prefix_space": False,
        },
        shared=True,
    ),
    # SmolLM2 and other Llamas
    CheckpointRow(
        "SmolLM2-135M-Instruct",
        "tied, rope_theta 100000, three query heads a key head, the vocabulary of 49152 that the reference knows",
        llama(
            hidden_size=96,
            intermediate_size=256,
            num_attention_heads=6,
            num_key_value_heads=2,
            rope_theta=100000,
            tie_word_embeddings=True,
            vocab_size=49152,
            torch_dtype="bfloat16",
            max_position_embeddings=8192,
            **{"rope_interleaved": False, "is_llama_config": True, "transformers.js_config": {"dtype": "q8"}},
        ),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "llama-wide-heads",
        "head_dim larger than hidden_size / num_attention_heads, GQA",
        llama(head_dim=32, num_key_value_heads=2),
    ),
    CheckpointRow(
        "llama-narrow-heads",
        "head_dim smaller than hidden_size / num_attention_heads: rows of 32 in o_proj",
        llama(head_dim=8),
    ),
    CheckpointRow(
        "llama-attention-bias",
        "biases in attention, so permuted ones in q and k",
        llama(attention_bias=True, num_key_value_heads=2),
    ),
    CheckpointRow(
        "llama-all-biases",
        "biases in attention and in the feed-forward part",
        llama(attention_bias=True, mlp_bias=True),
    ),
    CheckpointRow(
        "eleven-layers",
        "tensor order: layer 10 sorts before layer 2 by name",
        llama(hidden_size=32, intermediate_size=64, num_hidden_layers=11),
    ),
    CheckpointRow(
        "one-layer", "the least number of layers, tied", llama(num_hidden_layers=1, tie_word_embeddings=True)
    ),
)
