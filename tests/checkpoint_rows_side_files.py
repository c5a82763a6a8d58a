"""Test checkpoints: what lies beside the weights: tokenizers, chat templates, model cards; and names of directories."""

from __future__ import annotations

from typing import Final

from checkpoint_configs import ABSENT, llama, mistral
from checkpoint_row import CheckpointRow
from checkpoint_tokenizers import (
    CHAT_TEMPLATE,
    LLAMA_2_ADDED,
    TOKENIZER_CONFIG,
    TWO_ADDED,
    added_token,
    write_both_tokenizers,
    write_tokenizer_json,
)

SIDE_FILE_ROWS: Final[tuple[CheckpointRow, ...]] = (
    # Vocabularies and tokenizer files
    CheckpointRow(
        "padded-vocabulary", "embeddings padded to a multiple of 64 beyond the tokenizer", llama(vocab_size=1088)
    ),
    CheckpointRow(
        "vocabulary-too-large",
        "a tokenizer with more tokens than the embedding has rows",
        llama(vocab_size=960),
        refused_by_convert="such a model cannot run: the tokenizer gives ids that have no row",
    ),
    CheckpointRow(
        "tokenizer-json-only",
        "no tokenizer.model: the sentencepiece-like tokenizer.json",
        llama(),
        tokenizer=write_tokenizer_json,
    ),
    CheckpointRow(
        "tokenizer-json-added",
        "no tokenizer.model, tokens added",
        llama(vocab_size=1026),
        tokenizer=write_tokenizer_json,
        tokenizer_config={"added_tokens_decoder": TWO_ADDED},
    ),
    CheckpointRow(
        "tokenizer-json-padded",
        "no tokenizer.model, tokens added, embeddings padded beyond them",
        llama(vocab_size=1056),
        tokenizer=write_tokenizer_json,
        tokenizer_config={"added_tokens_decoder": TWO_ADDED},
        refused_by_reference="its file does not load: it pads no vocabulary that comes from tokenizer.json",
    ),
    CheckpointRow(
        "added-tokens-decoder",
        "tokens added after fine-tuning, special and not, one that looks special, one with a space",
        llama(vocab_size=1088),
        tokenizer=write_both_tokenizers,
        tokenizer_config={
            "added_tokens_decoder": LLAMA_2_ADDED
            | {
                "1024": added_token("<|im_start|>", special=True),
                "1025": added_token("<|im_end|>", special=False),
                "1026": added_token("\N{LOWER ONE EIGHTH BLOCK}<FILL>", special=False),
                "1027": added_token("naïve", special=False),
            },
        },
    ),
    CheckpointRow(
        "special-tokens-changed",
        "eos and pad moved to an added token, add_eos, add_prefix_space, no bos in front",
        llama(vocab_size=1026, eos_token_id=1025, pad_token_id=1024),
        tokenizer_config={
            "add_bos_token": False,
            "add_eos_token": True,
            "add_prefix_space": False,
            "eos_token": "<|im_end|>",
            "pad_token": {"__type": "AddedToken", **added_token("<pad>", special=True)},
            "added_tokens_decoder": LLAMA_2_ADDED
            | {"1024": added_token("<pad>", special=True), "1025": added_token("<|im_end|>", special=True)},
        },
        files={
            "added_tokens.json": {"<pad>": 1024, "<|im_end|>": 1025},
            "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<pad>"},
        },
    ),
    CheckpointRow(
        "no-tokenizer-config",
        "tokenizer.model and nothing beside it",
        llama(),
        tokenizer_config=dict.fromkeys(TOKENIZER_CONFIG, ABSENT),
    ),
    CheckpointRow(
        "chat-template-jinja",
        "chat_template.jinja beside a tokenizer_config.json that has none",
        llama(),
        files={"chat_template.jinja": CHAT_TEMPLATE + "\n"},
    ),
    CheckpointRow(
        "chat-template-list",
        "a list of named chat templates; with two beside the default the reference's order is a set's, so random",
        llama(),
        tokenizer_config={
            "chat_template": [
                {"name": "default", "template": CHAT_TEMPLATE},
                {"name": "tool_use", "template": "{{ tools }}" + CHAT_TEMPLATE},
            ],
        },
    ),
    # Metadata
    CheckpointRow(
        "OpenHermes-2.5-Mistral-7B-16k",
        "every sampling parameter that has a key",
        mistral(),
        dtype="bfloat16",
        files={
            "generation_config.json": {
                "do_sample": True,
                "temperature": 0.7,
                "top_k": 40,
                "top_p": 0.95,
                "min_p": 0.05,
                "repetition_penalty": 1.1,
                "transformers_version": "4.44.2",
            },
        },
    ),
    CheckpointRow(
        "my-finetuned-llama",
        "a model card with everything that has a key",
        llama(),
        files={
            "README.md": (
                "---\nlicense: other\nlicense_name: llama2\nlicense_link: https://example.org/licence\n"
                "language:\n- en\n- de\n"
                "tags:\n- llama\n- text-generation-inference\npipeline_tag: text-generation\nbase_model:\n"
                "- meta-llama/Llama-2-7b-hf\n- https://huggingface.co/lmsys/vicuna-7b-v1.5\ndatasets:\n"
                "- roneneldan/TinyStories\n- https://example.org/data\nmodel_creator: Somebody\nmodel_name: My Llama\n"
                "model_description: |\n  Two lines,\n  and an umlaut: ü\n---\n\n# My Llama\n"
            ),
        },
    ),
    CheckpointRow(
        "my model, version 2",
        "a directory's name with spaces, and a model card without front matter",
        llama(),
        files={"README.md": "# My model\n\nlicense: none of this is read\n"},
    ),
    CheckpointRow("checkpoint-1500", "a directory's name as trainers give it", llama()),
    CheckpointRow(
        "Llama-2-7b-f16-merged",
        "`_name_or_path` that is a path, not a name, and a type in the directory's name",
        llama(_name_or_path="/home/user/models/base"),
    ),
)
