"""Rows of classes that are not transformers' own: made by a Llama that computes the same, with the published names.

Names and shapes are those that the reference's converter reads: conversion/internlm.py, conversion/baichuan.py.
"""

from __future__ import annotations

import re
from functools import partial, reduce
from typing import TYPE_CHECKING, Final

from checkpoint_configs import ABSENT
from checkpoint_tokenizers import TOKENIZER_CONFIG, write_tokenizer_model
from family_configs import small
from family_making import FamilyRow, write_json
from family_rows_beyond import MINICPM, UNTIED

if TYPE_CHECKING:
    from pathlib import Path

    from family_making import Weights

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
BAICHUAN: Final = {
    "architectures": ["BaichuanForCausalLM"],
    "model_type": "baichuan",
    **dict.fromkeys(("attention_bias", "head_dim", "mlp_bias", "num_key_value_heads", "rope_parameters"), ABSENT),
}
FACTORS: Final[dict[str, object]] = {
    "attention_multiplier": 0.25,
    "embedding_multiplier": 12.0,
    "logits_scaling": 0.5,
    "residual_multiplier": 1.4 / 2**0.5,
}
LONGROPE: Final = {
    "long_factor": [1.0, 1.5, 2.5, 4.0, 8.0, 12.0, 20.0, 32.0],
    "original_max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rope_type": "longrope",
    "short_factor": [1.0, 1.0, 1.125, 1.25, 1.5, 2.0, 2.25, 3.0],
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


def internlm2s_name(name: str) -> str:
    """Call a tensor of Llama as InternLM2 does, if it is no part of another."""
    return reduce(lambda text, pair: text.replace(*pair), _INTERNLM2S_NAMES, name)


def with_internlm2s_names(weights: Weights, *, size: int) -> Weights:
    """Name a Llama's tensors as InternLM2's, with queries, keys and values in one, by groups of heads of `size`."""
    import torch

    renamed: Weights = {}
    for name, each in weights.items():
        match = _QKV.fullmatch(name)
        if match is None:
            renamed[internlm2s_name(name)] = each
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


def with_packed_attention(weights: Weights) -> Weights:
    """Put a Llama's queries, keys and values one after the other, as Baichuan's."""
    import torch

    packed: Weights = {}
    for name, each in weights.items():
        match = _QKV.fullmatch(name)
        if match is None:
            packed[name] = each
        elif match[2] == "q":
            parts = [weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            packed[f"{match[1]}self_attn.W_pack.weight"] = torch.cat(parts)
    return packed


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
    FamilyRow(
        "MiniCPM4-8B",
        "long contexts by factors, of a length that is the original one: the short ones alone; GQA",
        "GraniteForCausalLM",
        small(**FACTORS, rope_parameters=LONGROPE),
        saved_config=MINICPM | {"scale_emb": 12, "dim_model_base": 128},
        judge_unchanged=True,
    ),
    FamilyRow(
        "MiniCPM4-beyond",
        "beyond the original length: long factors, and a factor on the result",
        "GraniteForCausalLM",
        small(**FACTORS, rope_parameters=LONGROPE | {"original_max_position_embeddings": 64}),
        saved_config=MINICPM | {"scale_emb": 12, "dim_model_base": 128},
        judge_unchanged=True,
        differs="it writes neither the original length nor the factor",
    ),
    FamilyRow(
        "Baichuan-7B",
        "32 layers, by which llama.cpp knows that positions turn; names as published",
        LLAMA,
        small(
            **(UNTIED | {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}), num_hidden_layers=32
        ),
        scales={"o_proj": 0.2, "down_proj": 0.2},
        change_weights=with_packed_attention,
        saved_config=BAICHUAN,
        judge_unchanged=True,
        only_ours="RecursionError",
    ),
    FamilyRow(
        "Baichuan-13B-Chat",
        "40 layers, by which llama.cpp knows ALiBi; float16",
        LLAMA,
        small(
            **(UNTIED | {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}), num_hidden_layers=40
        ),
        dtype="float16",
        scales={"o_proj": 0.1, "down_proj": 0.1},
        change_weights=with_packed_attention,
        saved_config=BAICHUAN | {"max_position_embeddings": ABSENT, "model_max_length": 4096},
        judge_unchanged=True,
        judged_with_alibi=True,
        only_ours="RecursionError",
    ),
)
