"""A checkpoint's tensors as transformers has them, of a checkpoint that Meta's, Mistral's or torchtune's names.

Written down from transformers 5.23, models/llama/convert_llama_weights_to_hf.py (write_model, permute), and not from
the tables that GGUF files are made by, which this is to judge.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.codec.contract import F32Array

_METAS: Final = {
    "tok_embeddings": "embed_tokens",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
_IN_PAIRS: Final = re.compile(r"attention\.w([qk])\.|self_attn\.([qk])_proj_no_perm\.")
_NAME: Final = re.compile(r"(?:model\.)?(layers\.\d+\.)?(\w+(?:\.\w+)?)\.(weight|bias)")


def transformers_name(name: str) -> str:
    """Give transformers' name of a tensor that Meta names; any other as it is."""
    found = _NAME.fullmatch(name)
    if found is None:
        return name
    layer, part, kind = found.groups()
    if part == "output":
        return f"lm_head.{kind}"
    plain = _METAS.get(part, part.removesuffix("_no_perm"))
    return f"model.{layer or ''}{plain}.{kind}" if plain != part or name == f"norm.{kind}" else name


def in_halves(name: str, values: F32Array, n_heads: Mapping[str, int]) -> F32Array:
    """Bring a head's rows from pairs into halves, where the checkpoint's name says that they are in pairs.

    values: of the whole tensor. n_heads: of `q` and of `k`.
    """
    found = _IN_PAIRS.search(name)
    if found is None:
        return values
    heads = n_heads[found[1] or found[2]]
    halves: F32Array = values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    return halves
