"""Rows of classes that are not transformers' own: made by a Llama that computes the same, with the published names.

Names and shapes are those that the reference's converter reads: conversion/internlm.py, conversion/baichuan.py.
"""

from __future__ import annotations

import re
from functools import partial, reduce
from typing import TYPE_CHECKING, Final

from checkpoint_configs import ABSENT
from checkpoint_tokenizers import TOKENIZER_CONFIG, write_tokenizer_model
from family_configs import NARROW, small
from family_making import FamilyRow, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from family_making import Weights

UNTIED: Final = {**NARROW, "tie_word_embeddings": False}
LLAMA: Final = "LlamaForCausalLM"
_QKV: Final = re.compile(r"(.*\.)self_attn\.([qkv])_proj\.weight")
INTERNLM2: Final = {
    "architectures": ["InternLM2ForCausalLM"],
    "bias": False,
    "model_type": "internlm2",
    **dict.fromkeys(("attention_bias", "head_dim", "mlp_bias", "rope_parameters", "pretraining_tp"), ABSENT),
    "rope_scaling": None,
    "rope_theta": 1000000,
}
_INTERNLM2S_NAMES: Final = (
    ("model.embed_tokens", "model.tok_embeddings"),
    ("lm_head", "output"),
    ("self_attn.o_proj", "attention.wo"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("mlp.down_proj", "feed_forward.w2"),
)


def with_internlm2s_names(weights: Weights, *, size: int) -> Weights:
    """Name a Llama's tensors as InternLM2's, with queries, keys and values in one, by groups of heads of `size`."""
    import torch

    renamed: Weights = {}
    for name, each in weights.items():
        match = _QKV.fullmatch(name)
        if match is None:
            renamed[reduce(lambda text, pair: text.replace(*pair), _INTERNLM2S_NAMES, name)] = each
        elif match[2] == "q":
            key, value = (weights[name.replace("q_proj", part)] for part in ("k_proj", "v_proj"))
            groups = [part.reshape(len(key) // size, -1, size, part.shape[1]) for part in (each, key, value)]
            renamed[f"{match[1]}attention.wqkv.weight"] = torch.cat(groups, dim=1).reshape(-1, each.shape[1])
    return renamed


def write_internlm2(folder: Path) -> None:
    """Write the small sentencepiece model, as InternLM2's is written for chats: with tokens in place of unused ones."""
    from sentencepiece import sentencepiece_model_pb2

    write_tokenizer_model(folder)
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((folder / "tokenizer.model").read_bytes())
    for number, text in ((-1, "[UNUSED_TOKEN_1]"), (-2, "[UNUSED_TOKEN_0]"), (-3, "\x00")):
        model.pieces[number].piece = text
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    last = len(model.pieces) - 1
    added = {str(last): {"content": "<|im_end|>", "special": True}, "1": {"content": "<s>", "special": True}}
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG | {"added_tokens_decoder": added})


OWN_CODE: Final = (
    FamilyRow(
        "internlm2-chat-7b",
        "names and keys as published: GQA, untied; unused pieces, of which one is a token that ends turns",
        LLAMA,
        small(rms_norm_eps=1e-5, rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"}),
        tokenizer=write_internlm2,
        change_weights=partial(with_internlm2s_names, size=16),
        saved_config=INTERNLM2,
        judge_unchanged=True,
    ),
    FamilyRow(
        "internlm2-narrow",
        "MHA, rows of 48, dynamic scaling, float16",
        LLAMA,
        small(**UNTIED, rms_norm_eps=1e-5, rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"}),
        dtype="float16",
        change_weights=partial(with_internlm2s_names, size=16),
        saved_config=INTERNLM2 | {"rope_scaling": {"factor": 2.0, "type": "dynamic"}},
        judge_unchanged=True,
    ),
)
