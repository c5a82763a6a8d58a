"""The weights of the test checkpoints: every tensor's shape by the config, its seeded values, and changes to them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    Weights = dict[str, torch.Tensor]
    Float32 = np.ndarray[Any, np.dtype[np.float32]]


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name every tensor of a Llama, Mistral or Mixtral with this config, in transformers' order, with its shape."""
    hidden, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    q_rows, kv_rows = heads * head_dim, config.get("num_key_value_heads", heads) * head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        projections = {"q_proj": (q_rows, hidden), "k_proj": (kv_rows, hidden), "v_proj": (kv_rows, hidden)}
        for part, shape in {**projections, "o_proj": (hidden, q_rows)}.items():
            shapes[f"{prefix}.self_attn.{part}.weight"] = shape
            if config.get("attention_bias"):
                shapes[f"{prefix}.self_attn.{part}.bias"] = shape[:1]
        shapes |= _feed_forward_shapes(config, prefix, hidden, ffn)
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def _feed_forward_shapes(config: Mapping[str, Any], prefix: str, hidden: int, ffn: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    if "num_local_experts" in config:
        shapes[f"{prefix}.block_sparse_moe.gate.weight"] = (config["num_local_experts"], hidden)
        for expert in range(config["num_local_experts"]):
            for part, shape in {"w1": (ffn, hidden), "w2": (hidden, ffn), "w3": (ffn, hidden)}.items():
                shapes[f"{prefix}.block_sparse_moe.experts.{expert}.{part}.weight"] = shape
        return shapes
    for part, shape in {"gate_proj": (ffn, hidden), "up_proj": (ffn, hidden), "down_proj": (hidden, ffn)}.items():
        shapes[f"{prefix}.mlp.{part}.weight"] = shape
        if config.get("mlp_bias"):
            shapes[f"{prefix}.mlp.{part}.bias"] = shape[:1]
    return shapes


def make_weights(row_name: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Weights:
    """Make every tensor's values from the row's and its own name, rounded to `dtype`."""
    import torch

    return {
        name: torch.from_numpy(_values(f"{row_name}/{name}", shape)).to(getattr(torch, dtype))
        for name, shape in shapes.items()
    }


def _values(seed: str, shape: tuple[int, ...]) -> Float32:
    """Give float32 values near a normal distribution, by integer arithmetic, so the same with every NumPy."""
    key = np.frombuffer(hashlib.sha256(seed.encode()).digest()[:16], dtype="<u8")
    raw = np.random.Philox(key=key).random_raw(int(np.prod(shape)))
    sums = raw.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int32) - 4 * 32768
    normal: Float32 = sums.astype(np.float32) / np.float32(37837)
    if len(shape) == 1:
        norms: Float32 = normal * np.float32(0.125) + np.float32(1)
        return norms
    values: Float32 = (normal * np.float32(0.0625)).reshape(shape)
    values[1] = 0
    values.flat[values.size // 3] = 9.5
    values.flat[values.size // 2] = -7.25
    values.flat[values.size // 2 + 1] = -0.0
    return values


META_NAMES: Final = {
    "model.": "",
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
OWN_NAMES: Final = {
    "model.layers.": "blk.",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up",
}


def renamed(weights: Weights, names: Mapping[str, str]) -> Weights:
    """Give the same tensors under names in which each text of the table is replaced."""

    def new(name: str) -> str:
        for old, replacement in names.items():
            name = name.replace(old, replacement)
        return name

    return {new(name): tensor for name, tensor in weights.items()}


def with_rotary_tables(weights: Weights) -> Weights:
    """Add each layer's `rotary_emb.inv_freq`, which transformers saved before 4.32."""
    import torch

    layers = {name.split(".")[2] for name in weights if name.startswith("model.layers.")}
    table = torch.arange(1, 9, dtype=torch.float32) / 8
    return weights | {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": table.clone() for layer in sorted(layers)}


def with_output_beside_tied(weights: Weights) -> Weights:
    """Add `lm_head.weight` as the same storage as the embedding: a state dict of a tied model, saved by PyTorch."""
    return weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}


def with_strided_tensors(weights: Weights) -> Weights:
    """Store the k and v projections as slices of one tensor, and the down projections transposed."""
    import torch

    changed = dict(weights)
    for name, tensor in weights.items():
        if name.endswith("mlp.down_proj.weight"):
            changed[name] = tensor.t().contiguous().t()
        if name.endswith("k_proj.weight"):
            value_name = name.replace("k_proj", "v_proj")
            fused = torch.cat([tensor, weights[value_name]])
            changed[name], changed[value_name] = fused[: len(tensor)], fused[len(tensor) :]
    return changed


def with_float32_norms(weights: Weights) -> Weights:
    """Keep one-dimensional tensors in float32, as some trainers do."""
    return {name: tensor.float() if tensor.dim() == 1 else tensor for name, tensor in weights.items()}


def with_extremes(weights: Weights) -> Weights:
    """Put what rounding to float16 is about at the start of each matrix: ties, denormals, its largest number."""
    import torch

    hard = (
        65504.0,
        -65519.0,
        1 + 2**-11,
        1 + 3 * 2**-11,
        2**-24,
        2**-25,
        3 * 2**-26,
        1e-8,
        -1e-8,
        -0.0,
        6.1e-5,
        2**-14,
    )
    for tensor in weights.values():
        if tensor.dim() > 1:
            tensor.view(-1)[: len(hard)] = torch.tensor(hard)
    return weights


def with_fused_experts(weights: Weights) -> Weights:
    """Stack the experts as transformers 5 holds them in memory, so as `torch.save(model.state_dict())` leaves them."""
    import torch

    changed = {name: tensor for name, tensor in weights.items() if "block_sparse_moe" not in name}
    for name in [name for name in weights if name.endswith("block_sparse_moe.gate.weight")]:
        prefix, experts = name.removesuffix("gate.weight"), len(weights[name])
        stacks = {
            part: torch.stack([weights[f"{prefix}experts.{expert}.{part}.weight"] for expert in range(experts)])
            for part in ("w1", "w2", "w3")
        }
        block = prefix.replace("block_sparse_moe", "mlp")
        changed[f"{block}gate.weight"] = weights[name]
        changed[f"{block}experts.gate_up_proj"] = torch.cat([stacks["w1"], stacks["w3"]], dim=1)
        changed[f"{block}experts.down_proj"] = stacks["w2"]
    return changed
