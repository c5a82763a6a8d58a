"""What a tensor is in a model, as llama-quantize tells from its name, and which tensors it leaves alone.

Source: src/llama-quant.cpp, tensor_get_category and tensor_allows_quantization @ 0c1e570.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Final


class Role(Enum):
    """A tensor's part in the model; the value is how a reason calls it."""

    OUTPUT = "output matrix"
    EMBEDDING = "token embedding"
    QKV = "attention's query, key and value in one"
    KV_B = "attention's keys and values from their latent"
    VALUE = "attention value"
    KEY = "attention key"
    QUERY = "attention query"
    ATTENTION_OUTPUT = "attention output"
    UP = "feed-forward up"
    GATE = "feed-forward gate"
    DOWN = "feed-forward down"
    OTHER = "other"


VALUE_LIKE: Final = (Role.VALUE, Role.QKV, Role.KV_B)

_WHOLE_NAMES: Final = {
    "output.weight": Role.OUTPUT,
    "token_embd.weight": Role.EMBEDDING,
    "per_layer_token_embd.weight": Role.EMBEDDING,
}
# The first that the name holds; experts and shared experts are among the feed-forward's.
_PARTS: Final = (
    ("attn_qkv.weight", Role.QKV),
    ("attn_kv_b.weight", Role.KV_B),
    ("attn_v.weight", Role.VALUE),
    ("attn_k.weight", Role.KEY),
    ("attn_q.weight", Role.QUERY),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_up", Role.UP),
    ("ffn_gate", Role.GATE),
    ("ffn_down", Role.DOWN),
)

# A tensor whose name holds one of these keeps its type.
_NEVER_QUANTIZED: Final = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
    "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
    "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight",
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
_NEVER_QUANTIZED_IN: Final = {
    "glm5-next": (
        "hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate",
        "indexer_compressor_ape", "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight",
        "ssm_beta.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight", "attn_v_b.weight",
    ),
}  # fmt: skip
_MANY: Final = 1 << 12  # names of a large model: each is asked for by every type
_NEVER_QUANTIZED_NAMES: Final = ("position_embd.weight", "token_types.weight")


@lru_cache(maxsize=_MANY)
def role_of(name: str) -> Role:
    """Tell a tensor's part in the model."""
    if name in _WHOLE_NAMES:
        return _WHOLE_NAMES[name]
    return next((role for part, role in _PARTS if part in name), Role.OTHER)


@lru_cache(maxsize=_MANY)
def why_kept(name: str, shape: tuple[int, ...], arch: str) -> str | None:
    """Say why a tensor is never quantized; None where it may be."""
    if ggml_n_dims(shape) < 2:  # noqa: PLR2004 - only matrices and stacks of them are quantized
        return "one dimension"
    if not name.endswith("weight"):
        return "not a weight"
    sensitive = (*_NEVER_QUANTIZED, *_NEVER_QUANTIZED_IN.get(arch, ()))
    if name in _NEVER_QUANTIZED_NAMES or any(part in name for part in sensitive):
        return "too small and too sensitive to quantize"
    return None


def ggml_n_dims(shape: tuple[int, ...]) -> int:
    """Count dimensions as ggml does: leading ones (in NumPy order) do not count."""
    significant = next((index for index, size in enumerate(shape) if size != 1), len(shape) - 1)
    return len(shape) - significant
