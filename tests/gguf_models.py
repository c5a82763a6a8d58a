"""Small GGUF models, made with the gguf package from random floats: what llama-quantize's choice depends on, in rows.

They are whole as far as llama-quantize looks, which loads no graph: names, shapes, and the numbers of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import GGUFWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A model: its architecture and numbers, and the lengths of its rows (`down`: of ffn_down's).

    only: of each layer's tensors; by default all.
    """

    arch: str = "llama"
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 4
    n_experts: int = 0
    tied: bool = False
    cols: int = 256
    down: int = 256
    rows: int = 2
    only: tuple[str, ...] = ()
    more: Mapping[str, Shape] = field(default_factory=dict)

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Yield every tensor's name and shape."""
        yield "token_embd.weight", (8, self.cols)
        yield "output_norm.weight", (self.cols,)
        if not self.tied:
            yield "output.weight", (8, self.cols)
        for layer in range(self.n_layers):
            for name, shape in self._block().items():
                if name in (self.only or name):
                    yield f"blk.{layer}.{name}.weight", shape
        yield from self.more.items()

    def _block(self) -> dict[str, Shape]:
        row: Shape = (self.rows, self.cols)
        names = ("attn_qkv",) if self.arch == "falcon" else ("attn_q", "attn_k", "attn_v")
        block = {"attn_norm": (self.cols,), **dict.fromkeys((*names, "attn_output"), row)}
        if self.n_experts > 1:
            stacks = {"ffn_up_exps": row, "ffn_gate_exps": row, "ffn_down_exps": (self.rows, self.down)}
            experts = {name: (self.n_experts, *shape) for name, shape in stacks.items()}
            return {**block, "ffn_gate_inp": (self.n_experts, self.cols), **experts}
        return {**block, "ffn_up": row, "ffn_gate": row, "ffn_down": (self.rows, self.down)}


SMALL_MODELS: Final[Mapping[str, SmallModel]] = {
    "llama": SmallModel(n_layers=17),
    "gqa4": SmallModel(n_heads=8, n_kv_heads=2, n_layers=9),
    "gqa2-tied": SmallModel(n_heads=8, n_kv_heads=4, tied=True),
    "one-layer": SmallModel(n_layers=1),
    "80-layers": SmallModel(n_layers=80, n_heads=8, n_kv_heads=1, only=("attn_v", "ffn_down")),
    "80-layers-mha": SmallModel(n_layers=80, only=("attn_v", "ffn_up")),
    "qwen2-80": SmallModel("qwen2", n_layers=80, n_heads=8, n_kv_heads=4, only=("attn_v",)),
    "jais2-68": SmallModel("jais2", n_layers=68, only=("attn_v",)),
    "eight-experts": SmallModel(n_experts=8, n_heads=8, n_kv_heads=2, n_layers=9),
    "eight-experts-mha": SmallModel(n_experts=8, n_layers=16),
    "four-experts": SmallModel("qwen2moe", n_experts=4, n_layers=11),
    "two-experts": SmallModel(n_experts=2, n_layers=9, more={"blk.3.ffn_up.2.weight": (2, 256)}),
    "falcon": SmallModel("falcon", n_layers=33, n_heads=8, n_kv_heads=1),
    "falcon-tied": SmallModel("falcon", n_layers=9, n_heads=4, n_kv_heads=4, tied=True),
    "rows-of-288": SmallModel(cols=288, down=320, n_layers=9),
    "rows-of-48": SmallModel(cols=48, down=256, n_layers=5, tied=True),
    "rows-of-64": SmallModel(cols=64, down=384, n_layers=3, n_experts=4),
    "latent-values": SmallModel(more={"blk.1.attn_kv_b.weight": (2, 256), "blk.0.attn_k_b.weight": (2, 2, 256)}),
    "per-layer-embeddings": SmallModel(more={"per_layer_token_embd.weight": (2, 256)}),
    "bailingmoe3": SmallModel("bailingmoe3", n_experts=4, more={"blk.1.attn_k_b.weight": (2, 2, 256)}),
    "glm5-next": SmallModel("glm5-next", more={"blk.2.attn_q_a.weight": (2, 256), "blk.2.attn_v_b.weight": (2, 256)}),
}


def write_small_model(model: SmallModel, path: Path, *, dtype: type[np.floating] = np.float16, seed: int = 0) -> Path:
    """Write a model with random weights; vectors in float32."""
    writer = GGUFWriter(path, model.arch)
    _write_numbers(writer, model)
    random = np.random.default_rng(seed)
    for name, shape in model.shapes():
        values = random.standard_normal(shape, np.float32)
        writer.add_tensor(name, values if len(shape) == 1 else values.astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_numbers(writer: GGUFWriter, model: SmallModel) -> None:
    writer.add_block_count(model.n_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(model.cols)
    writer.add_feed_forward_length(model.down)
    writer.add_head_count(model.n_heads)
    writer.add_head_count_kv(model.n_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(1)
    if model.n_experts:
        writer.add_expert_count(model.n_experts)
        writer.add_expert_used_count(1)
    for key, value in _MORE_NUMBERS.get(model.arch, {}).items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"{model.arch}.{key}", value)


# What llama.cpp asks for in every model of the architecture.
_LATENT: Final = {
    "attention.key_length_mla": 32, "attention.value_length_mla": 32, "attention.q_lora_rank": 32,
    "attention.kv_lora_rank": 32, "ssm.conv_kernel": 4, "kda.head_dim": 32, "expert_feed_forward_length": 32,
    "expert_shared_count": 1, "leading_dense_block_count": 0, "expert_gating_func": 2,
}  # fmt: skip
_MORE_NUMBERS: Final[Mapping[str, Mapping[str, int | float]]] = {
    "bailingmoe3": {**_LATENT, "kda.gate_lower_bound": -5.0},
    "glm5-next": {
        **_LATENT, "attention.indexer.head_count": 4, "attention.indexer.key_length": 32, "attention.indexer.top_k": 8,
        "attention.indexer.kpool": 2, "hyper_connection.count": 4, "hyper_connection.sinkhorn_iterations": 2,
        "hyper_connection.epsilon": 1e-5,
    },
}  # fmt: skip


def write_imatrix(path: Path, entries: Mapping[str, tuple[np.ndarray, np.ndarray]], *, n_chunks: int = 3) -> Path:
    """Write an importance matrix as llama-imatrix does: sums of squares, and counts by expert, for each tensor."""
    writer = GGUFWriter(path, "llama")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["some-text.txt"])
    writer.add_uint32("imatrix.chunk_count", n_chunks)
    writer.add_uint32("imatrix.chunk_size", 64)
    for name, (sums, counts) in entries.items():
        writer.add_tensor(f"{name}.in_sum2", np.atleast_2d(sums.astype(np.float32)))
        writer.add_tensor(f"{name}.counts", counts.astype(np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def small_imatrix(model: SmallModel, path: Path, *, without: str = "-", seed: int = 1) -> Path:
    """Write an importance matrix for a model's blocks, but for tensors whose name holds `without`."""
    random = np.random.default_rng(seed)
    entries = {}
    for name, shape in model.shapes():
        if len(shape) > 1 and name.startswith("blk.") and without not in name:
            n_matrices = shape[0] if len(shape) > 2 else 1
            counts = np.full(n_matrices, 100.0)
            counts[1:2] = 0
            entries[name] = random.random((n_matrices, shape[-1])) * 50, counts
    return write_imatrix(path, entries)


def flags_of(words: Mapping[str, Any]) -> list[str]:
    """Give options in llama-quantize's words to it as flags."""
    flags = []
    for key, value in words.items():
        for each in value if isinstance(value, list) else [value]:
            flags += [f"--{key.replace('_', '-')}", *([] if each is True else [str(each)])]
    return flags
