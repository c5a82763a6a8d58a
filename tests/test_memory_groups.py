"""Which group of the memory table a tensor belongs to, by its name, in checkpoints and in GGUFs."""

from __future__ import annotations

import pytest

from convert.memory.groups import group_of, is_packed_linear


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.embed_tokens.weight", "embeddings"),
        ("transformer.wpe.weight", "embeddings"),
        ("bert.embeddings.LayerNorm.weight", "norms"),
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("transformer.h.0.ln_1.weight", "norms"),
        ("model.norm.weight", "norms"),
        ("model.layers.0.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4", "attention"),
        ("model.layers.0.self_attn.qkv_proj.qweight", "attention"),
        ("model.layers.0.mlp.gate_proj.weight", "feed-forward"),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", "feed-forward"),
        ("model.layers.0.mlp.gate.weight", "experts"),
        ("model.layers.0.block_sparse_moe.experts.7.w1.weight", "experts"),
        ("model.layers.0.mlp.experts.gate_up_proj", "experts"),
        ("lm_head.weight", "output"),
        ("model.layers.0.mixer.in_proj.weight", "other"),
    ],
)
def test_a_name_tells_its_group(name: str, group: str) -> None:
    assert group_of(name) == group


def test_only_matrices_of_linear_layers_are_packed() -> None:
    assert is_packed_linear("model.layers.0.mlp.up_proj.weight", (8, 4))
    assert not is_packed_linear("model.layers.0.mlp.up_proj.bias", (8,))
    assert not is_packed_linear("model.layers.0.mlp.experts.gate_up_proj", (2, 8, 4))
    assert not is_packed_linear("model.layers.0.mixer.conv1d.weight", (8, 1, 4))
    assert not is_packed_linear("lm_head.weight", (8, 4))
