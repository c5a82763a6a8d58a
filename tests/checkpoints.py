"""Small seeded checkpoints, one for every shape of model and every kind of file that `convert` reads.

    from checkpoints import CHECKPOINTS, write_checkpoint
    directory = write_checkpoint("vicuna-7b-v1.5", tmp_path)        # writes tmp_path / "vicuna-7b-v1.5"

A row's name is the directory's name, because that feeds the metadata (`general.name`, `general.basename`, ...). Configs
are spelled as the models that they are named after were published, made small. Weights depend on nothing but the row's
and the tensor's name: sums of integers from NumPy's Philox, with zero rows, outliers and a negative zero put in. The
tokenizer is `tests/data/tiny-llama`'s, which the reference takes. It knows byte-level BPE ones only by a hash of what a
published vocabulary makes of one text: such rows use the shared fixtures, or are refused by it.

    python tests/checkpoints.py ROOT [NAME ...]                     writes all, or these
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from stories import tell_story

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    Weights = dict[str, torch.Tensor]
    Float32 = np.ndarray[Any, np.dtype[np.float32]]

TINY_LLAMA: Final = Path(__file__).parent / "data" / "tiny-llama"
SHARED_TOKENIZERS: Final = Path(__file__).parents[2] / "shared" / "fixtures" / "tokenizers"
VOCABULARY: Final = 1024  # tiny-llama's
ABSENT: Final = object()  # as a config's value: the key is not there


class Layout(Enum):
    """The files that hold the weights."""

    SAFETENSORS = "model.safetensors"
    SAFETENSORS_SHARDED = "model-00001-of-00003.safetensors, …, model.safetensors.index.json"
    SAFETENSORS_UNSORTED = "model.safetensors, its header neither in the order of names nor of offsets"
    TORCH_BIN = "pytorch_model.bin"
    TORCH_BIN_SHARDED = "pytorch_model-00001-of-00003.bin, …, pytorch_model.bin.index.json"
    TORCH_BIN_LEGACY = "pytorch_model.bin, in the format before PyTorch 1.6"
    STATE_DICT_PTH = "model.pth"
    STATE_DICT_PT = "checkpoint.pt, the weights under the key `model`, an optimizer's state beside them"


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One checkpoint: what it is for, what is in it, and what becomes of it.

    refused_by_reference: why the reference converter makes no usable file of it; None where it does.
    refused_by_convert: why `convert` must not convert it, though the reference may; None where it must.
    twin: for a refused layout, one that holds the same weights and that the reference takes.
    """

    name: str
    covers: str
    config: Mapping[str, Any]
    dtype: str = "float16"
    layout: Layout = Layout.SAFETENSORS
    tokenizer: Callable[[Path], None] = field(default=lambda folder: write_tokenizer_model(folder))  # noqa: PLW0108  # it stands below
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    change_weights: Callable[[Weights], Weights] = field(default=lambda weights: weights)
    shared: bool = False
    refused_by_reference: str | None = None
    refused_by_convert: str | None = None
    twin: Layout | None = None


def write_checkpoint(name: str, root: Path, *, layout: Layout | None = None) -> Path:
    """Write the row called `name` as the directory root / name, anew, and return that; `layout` replaces the row's."""
    row, folder = CHECKPOINTS[name], root / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    config = {key: value for key, value in row.config.items() if value is not ABSENT}
    row.tokenizer(folder)
    for file_name, content in {"config.json": config, **_tokenizer_config(row), **row.files}.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / file_name).write_text(text, encoding="utf-8")
    weights = row.change_weights(make_weights(name, tensor_shapes(config), row.dtype))
    WRITERS[layout or row.layout](weights, folder)
    return folder


def _tokenizer_config(row: CheckpointRow) -> dict[str, Any]:
    merged = {**TOKENIZER_CONFIG, **row.tokenizer_config}
    kept = {key: value for key, value in merged.items() if value is not ABSENT}
    return {"tokenizer_config.json": kept} if kept else {}


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


# --- Weights, changed


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


# --- Weights, written


def write_safetensors(weights: Weights, folder: Path, file_name: str = "model.safetensors") -> None:
    """Write one file, in safetensors' own order."""
    from safetensors.torch import save_file

    save_file(weights, folder / file_name, metadata={"format": "pt"})


def write_unsorted_safetensors(weights: Weights, folder: Path) -> None:
    """Write a header in reverse order, over data in the given order, padded with spaces: legal, and rare."""
    import torch

    header: dict[str, Any] = {}
    blob = b""
    for name, tensor in weights.items():
        stored = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}[tensor.dtype]
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": stored, "shape": list(tensor.shape), "data_offsets": [len(blob), len(blob) + len(raw)]}
        blob += raw
    text = json.dumps(dict(reversed(header.items()))).encode()
    text += b" " * (-len(text) % 64)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + blob)


def write_sharded(weights: Weights, folder: Path, stem: str, suffix: str) -> None:
    """Write three shards and an index; consecutive tensors change shards now and then, as real ones do."""
    import torch

    names = list(weights)
    shards = [names[: len(names) // 3], names[len(names) // 3 : len(names) // 2], names[len(names) // 2 :]]
    weight_map: dict[str, str] = {}
    for number, members in enumerate(shards, start=1):
        shard = f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}"
        part = {name: weights[name] for name in members}
        if suffix == "bin":
            torch.save({name: tensor.clone() for name, tensor in part.items()}, folder / shard)
        else:
            write_safetensors(part, folder, shard)
        weight_map |= dict.fromkeys(members, shard)
    total = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_torch(weights: object, folder: Path, file_name: str, *, legacy: bool = False) -> None:
    """Write one file as torch.save does."""
    import torch

    torch.save(weights, folder / file_name, _use_new_zipfile_serialization=not legacy)


def _training_state(weights: Weights) -> dict[str, Any]:
    some = weights["model.norm.weight"].float()
    return {"model": weights, "optimizer": {"exp_avg": some, "exp_avg_sq": some * some}, "step": 1500, "loss": 1.25}


WRITERS: Final[dict[Layout, Callable[[Any, Path], None]]] = {
    Layout.SAFETENSORS: write_safetensors,
    Layout.SAFETENSORS_SHARDED: lambda weights, folder: write_sharded(weights, folder, "model", "safetensors"),
    Layout.SAFETENSORS_UNSORTED: write_unsorted_safetensors,
    Layout.TORCH_BIN: lambda weights, folder: write_torch(weights, folder, "pytorch_model.bin"),
    Layout.TORCH_BIN_SHARDED: lambda weights, folder: write_sharded(weights, folder, "pytorch_model", "bin"),
    Layout.TORCH_BIN_LEGACY: lambda weights, folder: write_torch(weights, folder, "pytorch_model.bin", legacy=True),
    Layout.STATE_DICT_PTH: lambda weights, folder: write_torch(weights, folder, "model.pth"),
    Layout.STATE_DICT_PT: lambda weights, folder: write_torch(_training_state(weights), folder, "checkpoint.pt"),
}


# --- Tokenizers


def write_tokenizer_model(folder: Path) -> None:
    """Write sentencepiece's own file only, as Llama 1 and 2 had it before tokenizer.json."""
    shutil.copyfile(TINY_LLAMA / "tokenizer.model", folder / "tokenizer.model")


def write_tokenizer_json(folder: Path) -> None:
    """Write the fast tokenizer's file only, as many a fine-tune is saved."""
    shutil.copyfile(TINY_LLAMA / "tokenizer.json", folder / "tokenizer.json")


def write_both_tokenizers(folder: Path) -> None:
    """Write both files."""
    write_tokenizer_model(folder)
    write_tokenizer_json(folder)


def write_gpt2_tokenizer(folder: Path) -> None:
    """Write GPT-2's published vocabulary and merges: byte-level BPE that the reference recognises."""
    for file_name in ("vocab.json", "merges.txt"):
        shutil.copyfile(SHARED_TOKENIZERS / "gpt2" / file_name, folder / file_name)


def write_byte_level_bpe(folder: Path) -> None:
    """Write a byte-level BPE of our own, which declares what Llama 3's tokenizer.json declares."""
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA_3_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=598, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    rng = random.Random(8)  # noqa: S311  # stories, not secrets
    tokenizer.train_from_iterator([tell_story(rng) for _ in range(200)], trainer)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 598)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


# The regex in the tokenizer.json of meta-llama/Meta-Llama-3-8B.
LLAMA_3_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENIZER_CONFIG: Final = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": False,
    "model_max_length": 2048,
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}{% endfor %}"
)


def _added(content: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, **flags, "special": special}


LLAMA_2_ADDED: Final = {str(index): _added(text, special=True) for index, text in enumerate(("<unk>", "<s>", "</s>"))}

TWO_ADDED: Final = LLAMA_2_ADDED | {
    "1024": _added("<|im_start|>", special=True),
    "1025": _added("<think>", special=False),
}


# --- Configs

LLAMA_3_SCALING: Final = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def llama(**changes: object) -> dict[str, Any]:
    """Give a Llama 2 config as transformers 4 saved it, 64 wide, 2 layers, with changes."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 192,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.44.2",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    } | changes


def mistral(**changes: object) -> dict[str, Any]:
    """Give a Mistral 7B v0.1 config as transformers 4 saved it, made small, with changes."""
    kinds = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4096}
    removed = dict.fromkeys(("attention_bias", "pretraining_tp", "rope_scaling"), ABSENT)
    sizes = {"num_key_value_heads": 2, "max_position_embeddings": 32768, "torch_dtype": "bfloat16"}
    return llama(**(kinds | removed | sizes | changes))


def mixtral(**changes: object) -> dict[str, Any]:
    """Give a Mixtral 8x7B config as transformers 4 saved it, made small, with changes."""
    kinds = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "sliding_window": None}
    experts = {"num_experts_per_tok": 2, "num_local_experts": 8, "output_router_logits": False}
    router = {"router_aux_loss_coef": 0.02, "rope_theta": 1000000.0, "intermediate_size": 96}
    return mistral(**(kinds | experts | router | changes))


def newly_spelled(config: Mapping[str, Any], **rope: object) -> dict[str, Any]:
    """Respell a config as transformers 5 saves it: `dtype`, and all of RoPE in `rope_parameters`."""
    theta = {"rope_theta": config["rope_theta"], "rope_type": "default"}
    renamed = {"dtype": config["torch_dtype"], "rope_parameters": theta | rope, "transformers_version": "5.23.0"}
    removed = ("torch_dtype", "rope_theta", "rope_scaling")
    return {key: value for key, value in config.items() if key not in removed} | renamed


LLAMA_1: Final = llama(
    max_position_embeddings=2048,
    rms_norm_eps=1e-06,
    transformers_version="4.28.0.dev0",
    **dict.fromkeys(("attention_bias", "num_key_value_heads", "pretraining_tp", "rope_scaling", "rope_theta"), ABSENT),
)


# --- The table

ROWS: Final[tuple[CheckpointRow, ...]] = (
    # Llama 1 and 2
    CheckpointRow(
        "llama-7b",
        "Llama 1: MHA, rotary tables in the file, no rope_theta, no num_key_value_heads",
        LLAMA_1 | {"pad_token_id": 0},
        change_weights=with_rotary_tables,
    ),
    CheckpointRow(
        "llama-7b-hf",
        "Llama 1 as first converted: old architecture name, bos 0, eos 1, pad -1, `max_sequence_length`",
        LLAMA_1
        | {"architectures": ["LLaMAForCausalLM"], "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1}
        | {"max_position_embeddings": ABSENT, "max_sequence_length": 2048},
        change_weights=with_rotary_tables,
        refused_by_reference="`pad_token_id` is -1, which then meant none: ValueError, invalid value for special token",
    ),
    CheckpointRow(
        "LLaMAForCausalLM-respelled",
        "the old architecture name, which the reference knows",
        llama(architectures=["LLaMAForCausalLM"]),
    ),
    CheckpointRow("Llama-2-7b-hf", "MHA, untied, sentencepiece only", llama()),
    CheckpointRow(
        "Llama-2-70b-hf",
        "GQA 8 : 1, `_name_or_path`, sharded safetensors",
        llama(num_attention_heads=8, num_key_value_heads=1, _name_or_path="meta-llama/Llama-2-70b-hf"),
        layout=Layout.SAFETENSORS_SHARDED,
    ),
    CheckpointRow(
        "Llama-2-7b-chat-hf",
        "both tokenizer files, added_tokens_decoder, chat template, pad token, generation config",
        llama(pad_token_id=0),
        tokenizer=write_both_tokenizers,
        tokenizer_config={"added_tokens_decoder": LLAMA_2_ADDED, "chat_template": CHAT_TEMPLATE, "pad_token": "<unk>"},
        files={"generation_config.json": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096}},
    ),
    CheckpointRow(
        "vicuna-7b-v1.5",
        "linear RoPE scaling in its old spelling, no num_key_value_heads, pytorch_model.bin in shards",
        llama(
            _name_or_path="vicuna-7b-v1.5",
            num_key_value_heads=ABSENT,
            pad_token_id=0,
            rope_theta=ABSENT,
            attention_bias=ABSENT,
            rope_scaling={"factor": 4.0, "type": "linear"},
            transformers_version="4.31.0",
        ),
        layout=Layout.TORCH_BIN_SHARDED,
        change_weights=with_rotary_tables,
        files={"generation_config.json": {"max_length": 4096, "temperature": 0.9, "top_p": 0.6, "pad_token_id": 0}},
    ),
    CheckpointRow(
        "CodeLlama-7b-hf",
        "rope_theta 1e6, and the vocabulary of 32016 whose infill tokens the reference knows by that number",
        llama(rope_theta=1000000, max_position_embeddings=16384, vocab_size=32016, torch_dtype="bfloat16"),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "TinyLlama-1.1B-Chat-v1.0",
        "GQA 8 : 1, both tokenizer files, chat template, special_tokens_map",
        llama(num_attention_heads=8, num_key_value_heads=1, max_position_embeddings=2048, torch_dtype="bfloat16"),
        dtype="bfloat16",
        tokenizer=write_both_tokenizers,
        tokenizer_config={"added_tokens_decoder": LLAMA_2_ADDED, "chat_template": CHAT_TEMPLATE, "pad_token": "</s>"},
        files={
            "special_tokens_map.json": {
                name: {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
                for name, text in {
                    "bos_token": "<s>",
                    "eos_token": "</s>",
                    "pad_token": "</s>",
                    "unk_token": "<unk>",
                }.items()
            },
            "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "max_length": 2048, "pad_token_id": 0},
        },
    ),
    CheckpointRow(
        "Yarn-Llama-2-7b-64k",
        "yarn in its old spelling, custom code in auto_map (never run), pytorch_model.bin",
        llama(
            auto_map={
                "AutoConfig": "configuration_llama.LlamaConfig",
                "AutoModelForCausalLM": "modeling.LlamaForCausalLM",
            },
            rope_scaling={"factor": 16.0, "finetuned": True, "original_max_position_embeddings": 4096, "type": "yarn"},
            max_position_embeddings=65536,
            torch_dtype="bfloat16",
        ),
        dtype="bfloat16",
        layout=Layout.TORCH_BIN,
    ),
    CheckpointRow(
        "llama-dynamic-rope",
        "dynamic RoPE scaling, for which GGUF has no word",
        llama(rope_scaling={"factor": 2.0, "type": "dynamic"}),
    ),
    # Llama 3
    CheckpointRow(
        "Meta-Llama-3-8B",
        "rope_theta 500000, GQA, bfloat16",
        llama(rope_theta=500000.0, num_key_value_heads=2, max_position_embeddings=8192, torch_dtype="bfloat16"),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "Llama-3.1-8B-Instruct",
        "llama3 RoPE scaling (rope_freqs) in the old spelling, a list of eos ids, sampling parameters",
        llama(
            rope_theta=500000.0,
            rope_scaling=LLAMA_3_SCALING,
            num_key_value_heads=2,
            max_position_embeddings=131072,
            mlp_bias=False,
            eos_token_id=[2, 5, 7],
            torch_dtype="bfloat16",
        ),
        dtype="bfloat16",
        files={
            "generation_config.json": {
                "bos_token_id": 1,
                "do_sample": True,
                "eos_token_id": [2, 5, 7],
                "temperature": 0.6,
                "top_p": 0.9,
            },
        },
    ),
    CheckpointRow(
        "Llama-3.1-8B-respelled",
        "the same scaling as transformers 5 spells it: rope_parameters, dtype",
        newly_spelled(
            llama(rope_theta=500000.0, num_key_value_heads=2, max_position_embeddings=131072, torch_dtype="bfloat16"),
            **LLAMA_3_SCALING,
        ),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "Llama-3.2-1B-Instruct-v2",
        "tied embeddings, explicit head_dim, factor 32, a name with size, fine-tune and version",
        llama(
            rope_theta=500000.0,
            rope_scaling={**LLAMA_3_SCALING, "factor": 32.0},
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=131072,
            mlp_bias=False,
            tie_word_embeddings=True,
            torch_dtype="bfloat16",
        ),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "llama-3-byte-level-bpe",
        "byte-level BPE that declares Llama 3's pre-tokenizer over a vocabulary of our own",
        llama(rope_theta=500000.0, vocab_size=600, bos_token_id=598, eos_token_id=599),
        tokenizer=write_byte_level_bpe,
        tokenizer_config={
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>",
            "unk_token": None,
        },
        refused_by_reference="it knows a BPE pre-tokenizer by what the published vocabulary makes of one text",
    ),
    CheckpointRow(
        "llama-with-gpt2-tokenizer",
        "byte-level BPE in vocab.json and merges.txt, which the reference recognises",
        llama(vocab_size=50257, bos_token_id=50256, eos_token_id=50256, tie_word_embeddings=True),
        tokenizer=write_gpt2_tokenizer,
        tokenizer_config={
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "add_bos_token": False,
            "add_prefix_space": False,
        },
        shared=True,
    ),
    # SmolLM2 and other Llamas
    CheckpointRow(
        "SmolLM2-135M-Instruct",
        "tied, rope_theta 100000, three query heads a key head, the vocabulary of 49152 that the reference knows",
        llama(
            hidden_size=96,
            intermediate_size=256,
            num_attention_heads=6,
            num_key_value_heads=2,
            rope_theta=100000,
            tie_word_embeddings=True,
            vocab_size=49152,
            torch_dtype="bfloat16",
            max_position_embeddings=8192,
            **{"rope_interleaved": False, "is_llama_config": True, "transformers.js_config": {"dtype": "q8"}},
        ),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "llama-wide-heads",
        "head_dim larger than hidden_size / num_attention_heads, GQA",
        llama(head_dim=32, num_key_value_heads=2),
    ),
    CheckpointRow(
        "llama-narrow-heads",
        "head_dim smaller than hidden_size / num_attention_heads: rows of 32 in o_proj",
        llama(head_dim=8),
    ),
    CheckpointRow(
        "llama-attention-bias",
        "biases in attention, so permuted ones in q and k",
        llama(attention_bias=True, num_key_value_heads=2),
    ),
    CheckpointRow(
        "llama-all-biases",
        "biases in attention and in the feed-forward part",
        llama(attention_bias=True, mlp_bias=True),
    ),
    CheckpointRow(
        "eleven-layers",
        "tensor order: layer 10 sorts before layer 2 by name",
        llama(hidden_size=32, intermediate_size=64, num_hidden_layers=11),
    ),
    CheckpointRow(
        "one-layer", "the least number of layers, tied", llama(num_hidden_layers=1, tie_word_embeddings=True)
    ),
    # Row lengths, so the types that are fallen back to
    CheckpointRow(
        "rows-of-256",
        "no fallback: hidden and feed-forward sizes multiples of 256, untied, so Q6_K in the output matrix",
        llama(hidden_size=256, intermediate_size=512, num_attention_heads=8, num_key_value_heads=4),
    ),
    CheckpointRow(
        "rows-of-256-tied",
        "no fallback, tied, so Q6_K in the embedding",
        llama(hidden_size=256, intermediate_size=512, num_attention_heads=8, tie_word_embeddings=True),
    ),
    CheckpointRow(
        "rows-of-48",
        "rows not divisible by 32: float16 instead of any block type, in all but the feed-forward's way down",
        llama(hidden_size=48, intermediate_size=96, num_attention_heads=3, num_key_value_heads=3),
    ),
    CheckpointRow(
        "rows-of-96",
        "rows divisible by 32, not by 64 or 256",
        llama(hidden_size=96, intermediate_size=160, num_attention_heads=6, num_key_value_heads=3),
    ),
    CheckpointRow(
        "feed-forward-of-172",
        "only the feed-forward's way down has rows that no block type takes",
        llama(intermediate_size=172),
    ),
    # How weights are stored
    CheckpointRow("float32-weights", "float32", llama(torch_dtype="float32"), dtype="float32"),
    CheckpointRow(
        "float32-extremes",
        "float32 at the edges of float16: ties, denormals, the largest number",
        llama(torch_dtype="float32"),
        dtype="float32",
        change_weights=with_extremes,
    ),
    CheckpointRow("bfloat16-weights", "bfloat16", llama(torch_dtype="bfloat16"), dtype="bfloat16"),
    CheckpointRow(
        "float32-norms",
        "two dtypes in one file",
        llama(torch_dtype="bfloat16"),
        dtype="bfloat16",
        change_weights=with_float32_norms,
    ),
    CheckpointRow(
        "safetensors-unsorted",
        "a header in an order of its own",
        llama(),
        layout=Layout.SAFETENSORS_UNSORTED,
    ),
    CheckpointRow("pytorch-bin", "pytorch_model.bin", llama(), layout=Layout.TORCH_BIN),
    CheckpointRow(
        "pytorch-bin-tied",
        "pytorch_model.bin whose output matrix shares the embedding's storage, in a tied model",
        llama(tie_word_embeddings=True),
        layout=Layout.TORCH_BIN,
        change_weights=with_output_beside_tied,
    ),
    CheckpointRow(
        "pytorch-bin-strided",
        "pytorch_model.bin with transposed tensors and slices of others",
        llama(),
        layout=Layout.TORCH_BIN,
        change_weights=with_strided_tensors,
    ),
    CheckpointRow(
        "pytorch-bin-float32",
        "pytorch_model.bin in float32",
        llama(torch_dtype="float32"),
        dtype="float32",
        layout=Layout.TORCH_BIN,
    ),
    CheckpointRow(
        "pytorch-bin-legacy",
        "pytorch_model.bin in the format before PyTorch 1.6, which cannot be mapped",
        llama(),
        layout=Layout.TORCH_BIN_LEGACY,
        refused_by_reference="RuntimeError: mmap can only be used with the zip format",
        refused_by_convert="torch files are only ever mapped; the error says how to save it again",
    ),
    CheckpointRow(
        "bare-pth",
        "a state dict in model.pth beside config.json",
        llama(),
        layout=Layout.STATE_DICT_PTH,
        twin=Layout.TORCH_BIN,
        refused_by_reference="it looks for model*.safetensors and pytorch_model*.bin; its file has no tensors",
    ),
    CheckpointRow(
        "bare-pt-training-state",
        "a training checkpoint: the state dict one level down, beside the optimizer's",
        llama(),
        layout=Layout.STATE_DICT_PT,
        twin=Layout.TORCH_BIN,
        refused_by_reference="it looks for model*.safetensors and pytorch_model*.bin; its file has no tensors",
    ),
    # Mistral
    CheckpointRow("Mistral-7B-v0.1", "sliding_window 4096", mistral(), dtype="bfloat16"),
    CheckpointRow(
        "zephyr-7b-beta",
        "Mistral with added tokens, a chat template and a model card",
        mistral(_name_or_path="HuggingFaceH4/mistral-7b-sft-beta", pad_token_id=2, vocab_size=1027),
        dtype="bfloat16",
        layout=Layout.SAFETENSORS_SHARDED,
        tokenizer=write_both_tokenizers,
        tokenizer_config={"chat_template": CHAT_TEMPLATE, "pad_token": "</s>", "padding_side": "left"},
        files={
            "added_tokens.json": {"<|system|>": 1024, "<|user|>": 1025, "<|assistant|>": 1026},
            "README.md": (
                "---\ntags:\n- generated_from_trainer\nlicense: mit\ndatasets:\n- HuggingFaceH4/ultrachat_200k\n"
                "- HuggingFaceH4/ultrafeedback_binarized\nlanguage:\n- en\nbase_model: mistralai/Mistral-7B-v0.1\n"
                "pipeline_tag: text-generation\nmodel-index:\n- name: zephyr-7b-beta\n  results: []\n---\n# Zephyr\n"
            ),
        },
    ),
    CheckpointRow(
        "Mistral-7B-Instruct-v0.3",
        "sliding_window null, explicit head_dim, rope_theta 1e6",
        mistral(sliding_window=None, head_dim=16, rope_theta=1000000.0),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "Yarn-Mistral-7b-128k",
        "Mistral with yarn in the old spelling",
        mistral(
            rope_scaling={"factor": 16.0, "finetuned": True, "original_max_position_embeddings": 8192, "type": "yarn"},
            max_position_embeddings=32768,
            sliding_window=131072,
            max_sequence_length=131072,
        ),
        dtype="bfloat16",
        layout=Layout.TORCH_BIN_SHARDED,
    ),
    CheckpointRow(
        "Mistral-Nemo-Base-2407",
        "Mistral with head_dim unlike hidden_size / num_attention_heads",
        mistral(sliding_window=None, head_dim=32, rope_theta=1000000.0, max_position_embeddings=131072),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "mistral-respelled",
        "Mistral as transformers 5 spells it",
        newly_spelled(mistral(sliding_window=None, head_dim=None)),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "yarn-respelled",
        "yarn as transformers 5 spells it, with all its parameters",
        newly_spelled(
            llama(max_position_embeddings=65536),
            rope_type="yarn",
            factor=16.0,
            original_max_position_embeddings=4096,
            attention_factor=1.25,
            beta_fast=32.0,
            beta_slow=1.0,
        ),
    ),
    CheckpointRow(
        "linear-respelled",
        "linear scaling as transformers 5 spells it",
        newly_spelled(llama(), rope_type="linear", factor=2.0),
    ),
    # Mixtral
    CheckpointRow(
        "Mixtral-8x7B-v0.1", "eight experts, which change the types of attn_k and attn_v", mixtral(), dtype="bfloat16"
    ),
    CheckpointRow(
        "Mixtral-8x7B-Instruct-v0.1",
        "eight experts over shards, rows of 256",
        mixtral(hidden_size=256, intermediate_size=256, num_attention_heads=8, num_key_value_heads=2),
        dtype="bfloat16",
        layout=Layout.SAFETENSORS_SHARDED,
    ),
    CheckpointRow("mixtral-four-experts", "four experts", mixtral(num_local_experts=4), dtype="bfloat16"),
    CheckpointRow("mixtral-bin", "experts in pytorch_model.bin", mixtral(num_local_experts=4), layout=Layout.TORCH_BIN),
    CheckpointRow(
        "mixtral-respelled",
        "Mixtral as transformers 5 spells it",
        newly_spelled(mixtral(num_local_experts=4)),
        dtype="bfloat16",
    ),
    CheckpointRow(
        "mixtral-fused-experts",
        "experts as a transformers 5 state dict holds them: gate_up_proj and down_proj",
        newly_spelled(mixtral(num_local_experts=4)),
        dtype="bfloat16",
        change_weights=with_fused_experts,
        refused_by_reference="ValueError: Can not map tensor `model.layers.0.mlp.experts.gate_up_proj`",
    ),
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
                "1024": _added("<|im_start|>", special=True),
                "1025": _added("<|im_end|>", special=False),
                "1026": _added("\N{LOWER ONE EIGHTH BLOCK}<FILL>", special=False),
                "1027": _added("naïve", special=False),
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
            "pad_token": {"__type": "AddedToken", **_added("<pad>", special=True)},
            "added_tokens_decoder": LLAMA_2_ADDED
            | {"1024": _added("<pad>", special=True), "1025": _added("<|im_end|>", special=True)},
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
        "chat_template.jinja, which wins over tokenizer_config.json",
        llama(),
        tokenizer_config={"chat_template": "not this one"},
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

CHECKPOINTS: Final[Mapping[str, CheckpointRow]] = {row.name: row for row in ROWS}
assert len(CHECKPOINTS) == len(ROWS), "two rows have one name"


def main() -> None:
    """Write the rows asked for."""
    parser = argparse.ArgumentParser(description="write the test checkpoints")
    parser.add_argument("root", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    for name in arguments.names or CHECKPOINTS:
        sys.stdout.write(f"{write_checkpoint(name, arguments.root)}\n")


if __name__ == "__main__":
    main()
