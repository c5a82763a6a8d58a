"""How `family_checkpoints.py` makes a checkpoint: transformers' classes, configs, seeded weights, tokenizers.

Weights are scaled so that attention looks at few tokens and the likeliest next token is often more likely than all
others together, with norms near 1 (near 0 where the family adds 1).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from checkpoint_configs import ABSENT, VOCABULARY
from checkpoint_tokenizers import SHARED_TOKENIZERS, TOKENIZER_CONFIG, write_gpt2_tokenizer
from checkpoint_tokenizers import write_tokenizer_model as copy_tokenizer_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    Float32 = np.ndarray[Any, np.dtype[np.float32]]

Weights = dict[str, "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One checkpoint: what it is for, and how it is made.

    config: what transformers' config class is given.
    saved_config: keys put into config.json after saving, or taken out of it (ABSENT).
    change_weights: what is changed in the saved weight file.
    scales: factors on the spread of tensors whose name holds the key.
    state_dict: the weights are `model.state_dict()` as `torch.save` leaves it, not what `save_pretrained` writes.
    judge_unchanged: transformers computes the row as it is without `change_weights` and `saved_config`, with which it
    does not load it.
    refused_by_reference: why the reference converter makes no file of it; None where it does.
    only_ours: the same, of a row that we make a file of; its logits are its judge.
    differs: why the reference's file is wrong, and ours another; None where they are the same.
    only_float: why llama-quantize does not take the reference's file; None where it does.
    options: more arguments of the reference converter.
    not_run: why llama.cpp does not compute of the reference's file what transformers does; None where it does.
    """

    name: str
    covers: str
    architecture: str
    config: Mapping[str, Any]
    dtype: str = "bfloat16"
    tokenizer: Callable[[Path], None] = field(default=lambda folder: write_sentencepiece(folder))  # noqa: PLW0108  # it stands below
    saved_config: Mapping[str, Any] = field(default_factory=dict)
    change_weights: Callable[[Weights], Weights] | None = None
    scales: Mapping[str, float] = field(default_factory=dict)
    state_dict: bool = False
    judge_unchanged: bool = False
    shared: bool = False
    refused_by_reference: str | None = None
    only_ours: str | None = None
    differs: str | None = None
    only_float: str | None = None
    not_run: str | None = None
    options: tuple[str, ...] = ()


def save_family_checkpoint(row: FamilyRow, folder: Path) -> None:
    """Write a row's files into `folder`, anew."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    row.tokenizer(folder)
    _save(row, folder)
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8")) | dict(row.saved_config)
    _write_json(folder / "config.json", {key: value for key, value in saved.items() if value is not ABSENT})
    if row.change_weights is not None:
        change_weights(folder, row.change_weights)


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    """Change what model.safetensors holds."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    changed = {name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}
    save_file(changed, path, metadata={"format": "pt"})


def _save(row: FamilyRow, folder: Path) -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    network_class = getattr(transformers, row.architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            network = network_class(network_class.config_class(**row.config))
        network = network.to(getattr(torch, row.dtype)).to_empty(device="cpu")
        network.tie_weights()
        _fill(row, network)
        if not row.state_dict:
            network.save_pretrained(folder)
            return
        network.config.architectures, network.config.dtype = [row.architecture], row.dtype
        network.config.save_pretrained(folder)
        torch.save(network.state_dict(), folder / "pytorch_model.bin")


def _fill(row: FamilyRow, network: torch.nn.Module) -> None:
    import torch

    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name == "e_score_correction_bias":  # float32 in any checkpoint
                setattr(module, name, buffer.float())
    known: dict[int, str] = {}
    for name, tensor in network.state_dict().items():
        if known.setdefault(tensor.data_ptr(), name) == name:  # the other name of a tied tensor holds the same
            mean, spread = _moments(row, name, tuple(tensor.shape))
            values = normal(f"{row.name}/{name}", tuple(tensor.shape)) * np.float32(spread) + np.float32(mean)
            values = _surely_rounded(values) if name.endswith(".A_log") else values
            tensor.copy_(torch.from_numpy(np.asarray(values)))


def _surely_rounded(values: Float32) -> Float32:
    """Take for each the nearest sixteenth whose exponential is not near the middle between two float32.

    There torch, as it is built, may round it wrongly.
    """
    sixteenths = np.arange(-32, 64) / 16
    exact = np.exp(sixteenths) / np.spacing(np.exp(sixteenths).astype(np.float32))
    sure = sixteenths[np.abs(exact % 1 - 0.5) > 0.1].astype(np.float32)
    nearest: Float32 = sure[np.abs(values[:, None] - sure).argmin(axis=1)]
    return nearest


def _moments(row: FamilyRow, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Choose the mean and the standard deviation of a tensor's values."""
    factor = float(np.prod([factor for part, factor in row.scales.items() if part in name]))
    gemma = "Gemma" in row.architecture
    if len(shape) > 1:
        gains = GEMMA_GAINS if gemma else GAINS
        return 0.0, factor * next(gain for part, gain in gains.items() if part in name) / float(np.sqrt(shape[-1]))
    if name.endswith("bias"):
        return 0.0, factor * (0.3 if "score_correction" in name else 0.1)
    norms = next((means for start, means in NORMS.items() if row.architecture.startswith(start)), {"": 1.0})
    return next(mean for part, mean in norms.items() if part in name), factor * 0.1


# Where a matrix's name holds the key, first come, its outputs have this spread for inputs of spread 1. Experts have
# little weight: what float16 rounds now and then changes the choice of one, which must not outweigh all else.
GAINS: Final[Mapping[str, float]] = {
    "embed": 7.0,
    "lm_head": 7.0,
    "gate.weight": 2.0,
    "o_proj": 2.0,
    "mlp.experts.down_proj": 0.3,
    "down_proj": 3.0,
    "dense": 2.0,
    "": 1.3,
}
# Gemma's own: else the embedding, which is also the output, would outweigh its blocks, and each token predict itself.
GEMMA_GAINS: Final[Mapping[str, float]] = {**GAINS, "embed": 0.7}
# The means of norms that 1 is added to, or that must be larger than 1, by the beginning of the class.
_GEMMA_NORMS: Final = {"post_": 1.0, "model.norm": 9.0, "language_model.norm": 9.0, "": 0.0}
_GATED_NORMS: Final = {"linear_attn.": 1.0, "": 0.0}
NORMS: Final[Mapping[str, Mapping[str, float]]] = {
    "Gemma3n": {"model.norm": 10.0, "post_": 0.2, "": 1.0},
    "Gemma4": {"model.norm": 10.0, "": 1.0},
    "Gemma": _GEMMA_NORMS,
    "Qwen3Next": _GATED_NORMS,
    "Qwen3_5": _GATED_NORMS,
}


def normal(seed: str, shape: tuple[int, ...]) -> Float32:
    """Give float32 values near a normal distribution, by integer arithmetic, so the same with every NumPy."""
    key = np.frombuffer(hashlib.sha256(seed.encode()).digest()[:16], dtype="<u8")
    raw = np.random.Philox(key=key).random_raw(int(np.prod(shape)))
    sums = raw.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int32) - 4 * 32768
    values: Float32 = (sums.astype(np.float32) / np.float32(37837)).reshape(shape)
    return values


# --- Weights, changed


def without_prefix(weights: Weights) -> Weights:
    """Name the tensors as BloomModel does, and as the published BLOOMs were saved."""
    return {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}


def with_rows_beyond_the_vocabulary(weights: Weights) -> Weights:
    """Pad the embedding to a multiple of 64 rows beyond config.json's `vocab_size`, as some trainers do."""
    import torch

    embedding = weights["model.embed_tokens.weight"]
    return weights | {"model.embed_tokens.weight": torch.cat([embedding, embedding[:64]])}


def with_next_token_layer(weights: Weights) -> Weights:
    """Add a multi-token-prediction layer behind the last one, with the tensors that DeepSeek-V3 publishes."""
    import torch

    last = max(int(name.split(".")[2]) for name in weights if name.startswith("model.layers."))
    prefix, added = f"model.layers.{last + 1}.", dict[str, torch.Tensor]()
    for name, tensor in weights.items():
        if name.startswith(f"model.layers.{last}."):
            added[prefix + name.split(".", 3)[3]] = tensor.clone()
    norm, embedding = weights["model.norm.weight"], weights["model.embed_tokens.weight"]
    for part in ("enorm", "hnorm", "shared_head.norm"):
        added[f"{prefix}{part}.weight"] = norm.clone()
    added[f"{prefix}eh_proj.weight"] = torch.cat([embedding[: len(norm)], embedding[-len(norm) :]], dim=1)
    added[f"{prefix}embed_tokens.weight"] = embedding.clone()
    added[f"{prefix}shared_head.head.weight"] = weights["lm_head.weight"].clone()
    return weights | added


# --- Tokenizers


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_sentencepiece(folder: Path) -> None:
    """Write tests/data's small sentencepiece model."""
    copy_tokenizer_model(folder)
    _write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)


def write_gemma_sentencepiece(folder: Path) -> None:
    """Write the same, as Gemma's tokenizer_config.json declares its own."""
    copy_tokenizer_model(folder)
    content = {key: value for key, value in TOKENIZER_CONFIG.items() if key != "legacy"}
    _write_json(folder / "tokenizer_config.json", content | {"tokenizer_class": "GemmaTokenizer"})


def write_gpt2(folder: Path) -> None:
    """Write GPT-2's vocabulary and merges."""
    write_gpt2_tokenizer(folder)
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    content = {"add_bos_token": False, "add_prefix_space": False, **names, "tokenizer_class": "GPT2Tokenizer"}
    _write_json(folder / "tokenizer_config.json", content)


def write_gpt_neox(folder: Path) -> None:
    """Write GPT-NeoX's tokenizer.json."""
    shutil.copyfile(SHARED_TOKENIZERS / "gptneox" / "tokenizer.json", folder / "tokenizer.json")
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    _write_json(folder / "tokenizer_config.json", {**names, "tokenizer_class": "PreTrainedTokenizerFast"})


def write_glm(folder: Path) -> None:
    """Write GPT-NeoX's tokenizer.json with the tokens that GLM's turns are made of."""
    write_gpt_neox(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    for number, text in enumerate(("[gMASK]", "<|user|>", "<|observation|>"), start=50277):
        content["added_tokens"].append({"id": number, "content": text, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def write_falcon(folder: Path) -> None:
    """Write Falcon's files."""
    for source in (SHARED_TOKENIZERS / "falcon").iterdir():
        shutil.copyfile(source, folder / source.name)


def write_qwen(folder: Path) -> None:
    """Write Qwen 2.5's files, which Qwen 3 shares."""
    for source in (SHARED_TOKENIZERS / "qwen2.5").iterdir():
        shutil.copyfile(source, folder / source.name)


# --- Configs


def qwen3_moe(**changes: object) -> dict[str, Any]:
    """Give a Qwen3-MoE config, 64 wide, with changes."""
    return {
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "head_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 192,
        "max_position_embeddings": 4096,
        "moe_intermediate_size": 96,
        "norm_topk_prob": True,
        "num_attention_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "vocab_size": 50257,
    } | changes


def gemma3(**changes: object) -> dict[str, Any]:
    """Give a Gemma 3 text config, 64 wide and of 7 layers (the sixth is the first that sees all), with changes."""
    return {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 4,
        "num_hidden_layers": 7,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 32,
        "sliding_window": 24,
        "vocab_size": VOCABULARY,
    } | changes


def bloom(**changes: object) -> dict[str, Any]:
    """Give a BLOOM config, 64 wide, with changes."""
    return {"bos_token_id": 50256, "eos_token_id": 50256, "hidden_size": 64, "vocab_size": 50257} | changes


def deepseek_v3(**changes: object) -> dict[str, Any]:
    """Give a DeepSeek-V3 config, 64 wide, with changes."""
    return {
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "first_k_dense_replace": 1,
        "hidden_size": 64,
        "intermediate_size": 192,
        "kv_lora_rank": 32,
        "moe_intermediate_size": 32,
        "n_group": 4,
        "n_routed_experts": 8,
        "num_attention_heads": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "q_lora_rank": 48,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "topk_group": 2,
        "v_head_dim": 32,
        "vocab_size": 50257,
    } | changes


# transformers knows one way of scoring and saves none; the published config.json says it, and llama.cpp must be told.
SCORING: Final = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
YARN: Final = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "rope_theta": 10000,
    "rope_type": "yarn",
}
