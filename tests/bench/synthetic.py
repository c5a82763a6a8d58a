"""A synthetic 1.1B Llama, seeded: TinyLlama's shape, float16 safetensors, 2.2 GB, with a 32000-token vocabulary.

The same in nf4, 0.75 GB: quantized by bitsandbytes, one tensor at a time, to the bytes that transformers would save.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sentencepiece import sentencepiece_model_pb2 as proto

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    Stored = tuple[str, tuple[int, ...]]  # a safetensors type, and a shape

HIDDEN: Final = 2048
LAYERS: Final = 22
INNER: Final = 5632
HEADS: Final = 32
KV_HEADS: Final = 4
VOCAB: Final = 32000
_ITEMSIZES: Final = {"F32": 4, "F16": 2, "U8": 1}
_BLOCK: Final = 64  # values that share an absmax


def write_synthetic_llama(directory: Path, *, layers: int = LAYERS) -> Path:
    """Write the checkpoint, unless it is there already; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / "model.safetensors"
    shapes = _shapes(layers)
    header, length = _header({name: ("F16", shape) for name, shape in shapes.items()})
    if not weights.exists() or weights.stat().st_size != length:
        _write_weights(weights, shapes, header)
    (directory / "config.json").write_text(json.dumps(_config(layers), indent=2))
    write_sentencepiece(directory, VOCAB)
    return directory


def write_synthetic_nf4(directory: Path, source: Path, *, layers: int = LAYERS) -> Path:
    """Write what transformers makes of the checkpoint in nf4, unless it is there already; returns the directory.

    Without double quantization, computing in float16. In a process of its own, so that this one needs no torch.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "model.safetensors").exists():
        job = multiprocessing.get_context("spawn").Process(target=_write_nf4, args=(directory, source, layers))
        job.start()
        job.join()
        if job.exitcode:
            raise RuntimeError(f"the nf4 checkpoint could not be written: exit code {job.exitcode}")
    (directory / "tokenizer.model").write_bytes((source / "tokenizer.model").read_bytes())
    return directory


def _write_nf4(directory: Path, source: Path, layers: int) -> None:
    import torch
    from transformers import BitsAndBytesConfig

    wanted = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16
    ).to_dict()
    config = _config(layers) | {"quantization_config": wanted}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    shapes = _shapes(layers)
    stored = _nf4_layout(shapes)
    header, _ = _header(stored)
    starts = {name: entry["data_offsets"][0] + len(header) for name, entry in json.loads(header[8:]).items()}
    partial = directory / "model.partial"
    with partial.open("wb") as file:
        file.write(header)
        for name, shape in shapes.items():
            values = _read_f16(source / "model.safetensors", name, shape)
            for part, data in (_quantized(name, values) if _is_packed(name) else {name: values}).items():
                raw = data.contiguous().view(torch.uint8).numpy()
                if raw.nbytes != _nbytes(stored[part]):
                    raise RuntimeError(f"{part} has {raw.nbytes} bytes, planned {_nbytes(stored[part])}")
                file.seek(starts[part])
                file.write(raw.data)
    partial.replace(directory / "model.safetensors")


def _is_packed(name: str) -> bool:
    return name.endswith("_proj.weight")


def _nf4_layout(shapes: dict[str, tuple[int, ...]]) -> dict[str, Stored]:
    """Say what the file holds, wide types first, so that every tensor lies at a multiple of its type's size."""
    stored: dict[str, Stored] = {}
    for name, shape in shapes.items():
        if not _is_packed(name):
            stored[name] = ("F16", shape)
            continue
        n_values = math.prod(shape)
        state = {"quant_type": "nf4", "blocksize": _BLOCK, "dtype": "float16", "shape": shape}
        stored[name] = ("U8", (n_values // 2, 1))
        stored[f"{name}.absmax"] = ("F32", (n_values // _BLOCK,))
        stored[f"{name}.quant_map"] = ("F32", (16,))
        stored[f"{name}.quant_state.bitsandbytes__nf4"] = ("U8", (len(json.dumps(state)),))
    return dict(sorted(stored.items(), key=lambda item: (-_ITEMSIZES[item[1][0]], item[0])))


def _quantized(name: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Quantize one tensor: its packed values and their statistics, under the names that they are saved by."""
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(values, blocksize=_BLOCK, quant_type="nf4")
    return {name: packed} | {f"{name}.{part}": data for part, data in state.as_dict(packed=True).items()}


def _read_f16(path: Path, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    import torch

    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        first, last = json.loads(file.read(length))[name]["data_offsets"]
        file.seek(8 + length + first)
        return torch.frombuffer(bytearray(file.read(last - first)), dtype=torch.float16).reshape(shape)


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


def _header(stored: dict[str, Stored]) -> tuple[bytes, int]:
    """Make a safetensors header of tensors that lie one behind the other; with it, the file's length."""
    offset = 0
    tensors: dict[str, dict[str, Any]] = {}
    for name, (dtype, shape) in stored.items():
        end = offset + _nbytes((dtype, shape))
        tensors[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(tensors).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + offset


def _nbytes(stored: Stored) -> int:
    return _ITEMSIZES[stored[0]] * math.prod(stored[1])


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


def write_sentencepiece(directory: Path, n_tokens: int) -> None:
    """Write a tokenizer.model: three special tokens, the bytes, and words of our own."""
    model = proto.ModelProto()
    kinds = proto.ModelProto.SentencePiece
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.pieces.add(piece="<unk>", score=0, type=kinds.UNKNOWN)
    model.pieces.add(piece="<s>", score=0, type=kinds.CONTROL)
    model.pieces.add(piece="</s>", score=0, type=kinds.CONTROL)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0, type=kinds.BYTE)
    for index in range(n_tokens - len(model.pieces)):
        model.pieces.add(piece=f"\u2581w{index:x}", score=-float(index), type=kinds.NORMAL)
    (directory / "tokenizer.model").write_bytes(model.SerializeToString())
