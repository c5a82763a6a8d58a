"""A synthetic 1.1B Llama, seeded: TinyLlama's shape, float16 safetensors, 2.2 GB, with a 32000-token vocabulary."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Final

import numpy as np
from sentencepiece import sentencepiece_model_pb2 as proto

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN: Final = 2048
LAYERS: Final = 22
INNER: Final = 5632
HEADS: Final = 32
KV_HEADS: Final = 4
VOCAB: Final = 32000


def write_synthetic_llama(directory: Path, *, layers: int = LAYERS) -> Path:
    """Write the checkpoint, unless it is there already; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / "model.safetensors"
    shapes = _shapes(layers)
    header, length = _header(shapes)
    if not weights.exists() or weights.stat().st_size != length:
        _write_weights(weights, shapes, header)
    (directory / "config.json").write_text(json.dumps(_config(layers), indent=2))
    (directory / "tokenizer.model").write_bytes(_tokenizer().SerializeToString())
    return directory


def _config(layers: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _shapes(layers: int) -> dict[str, tuple[int, ...]]:
    kv_rows = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(layers):
        block = {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (kv_rows, HIDDEN),
            "self_attn.v_proj": (kv_rows, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "post_attention_layernorm": (HIDDEN,),
            "mlp.gate_proj": (INNER, HIDDEN),
            "mlp.up_proj": (INNER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INNER),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}


def _header(shapes: dict[str, tuple[int, ...]]) -> tuple[bytes, int]:
    offset, tensors = 0, {}
    for name, shape in shapes.items():
        nbytes = 2 * int(np.prod(shape))
        tensors[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(tensors).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + offset


def _write_weights(path: Path, shapes: dict[str, tuple[int, ...]], header: bytes) -> None:
    generator = np.random.default_rng(20260101)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(header)
        for shape in shapes.values():
            if len(shape) == 1:
                file.write((1 + 0.1 * generator.standard_normal(shape, np.float32)).astype(np.float16).tobytes())
                continue
            for start in range(0, shape[0], 1024):
                rows = min(1024, shape[0] - start)
                values = generator.standard_normal((rows, shape[1]), np.float32) * np.float32(0.02)
                file.write(values.astype(np.float16).tobytes())
    partial.replace(path)


def _tokenizer() -> proto.ModelProto:
    model = proto.ModelProto()
    kinds = proto.ModelProto.SentencePiece
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.pieces.add(piece="<unk>", score=0, type=kinds.UNKNOWN)
    model.pieces.add(piece="<s>", score=0, type=kinds.CONTROL)
    model.pieces.add(piece="</s>", score=0, type=kinds.CONTROL)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0, type=kinds.BYTE)
    for index in range(VOCAB - len(model.pieces)):
        model.pieces.add(piece=f"\u2581w{index:x}", score=-float(index), type=kinds.NORMAL)
    return model
