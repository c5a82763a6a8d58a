"""How long a plan and an inspection of a very large checkpoint take: a DeepSeek-V3 of 61 layers and 256 experts.

Its 45,395 tensors are sparse: the headers are real, the weights are holes, so it takes some megabytes. There is no
reference to compare with: the converter plans nothing, and the floor is reading the headers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.tokenizer.alphabet import BYTE_OF_CHAR

from .costs import measure, median

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .costs import Cost

_LAYERS, _EXPERTS, _FILES = 61, 256, 275
_HIDDEN, _VOCABULARY = 7168, 129280
# deepseek-ai/DeepSeek-V3, config.json, without its packing
_CONFIG: Final[dict[str, Any]] = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": _VOCABULARY,
    "hidden_size": _HIDDEN, "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": _LAYERS,
    "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 1, "n_routed_experts": _EXPERTS,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
    "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "norm_topk_prob": True,
    "scoring_func": "sigmoid", "routed_scaling_factor": 2.5, "max_position_embeddings": 163840, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench planning", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "convert-bench")
    options = parser.parse_args(argv)
    model = write_sparse_deepseek(options.work / "sparse-deepseek-v3")
    commands = {
        "all --dry-run": ["all", model, options.work / "nowhere", "--dry-run", "--json"],
        "inspect": ["inspect", model, "--no-tensors"],
    }
    for name, arguments in commands.items():
        costs: list[Cost] = [measure([sys.executable, "-m", "convert", *arguments]) for _ in range(options.runs)]
        cost = median(costs)
        print(f"{name:15s} wall {cost.wall:5.2f} s   user {cost.user:5.2f} s   peak {cost.peak / 1e6:4.0f} MB")


def write_sparse_deepseek(directory: Path) -> Path:
    """Write the checkpoint anew: headers, holes, an index, and a vocabulary of bytes."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shapes = dict(_shapes())
    weight_map: dict[str, str] = {}
    names = iter(shapes)
    per_file = -(-len(shapes) // _FILES)
    for number in range(1, _FILES + 1):
        listed = list(islice(names, per_file))
        file_name = f"model-{number:05d}-of-{_FILES:05d}.safetensors"
        _write_sparse(directory / file_name, {name: shapes[name] for name in listed})
        weight_map |= dict.fromkeys(listed, file_name)
    _write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    _write_json(directory / "config.json", _CONFIG)
    _write_json(directory / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    _write_json(directory / "vocab.json", {char: number for number, char in enumerate((*BYTE_OF_CHAR, "th"))})
    (directory / "merges.txt").write_text("t h\n")
    return directory


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (_VOCABULARY, _HIDDEN)
    for layer in range(_LAYERS):
        block = f"model.layers.{layer}"
        yield f"{block}.input_layernorm.weight", (_HIDDEN,)
        yield f"{block}.post_attention_layernorm.weight", (_HIDDEN,)
        yield from _attention(f"{block}.self_attn")
        if layer < _CONFIG["first_k_dense_replace"]:
            yield from _feed_forward(f"{block}.mlp", _CONFIG["intermediate_size"])
            continue
        yield f"{block}.mlp.gate.weight", (_EXPERTS, _HIDDEN)
        yield f"{block}.mlp.gate.e_score_correction_bias", (_EXPERTS,)
        for part in ("shared_experts", *(f"experts.{expert}" for expert in range(_EXPERTS))):
            yield from _feed_forward(f"{block}.mlp.{part}", _CONFIG["moe_intermediate_size"])
    yield "model.norm.weight", (_HIDDEN,)
    yield "lm_head.weight", (_VOCABULARY, _HIDDEN)


def _attention(module: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{module}.q_a_proj.weight", (1536, _HIDDEN)
    yield f"{module}.q_a_layernorm.weight", (1536,)
    yield f"{module}.q_b_proj.weight", (128 * 192, 1536)
    yield f"{module}.kv_a_proj_with_mqa.weight", (512 + 64, _HIDDEN)
    yield f"{module}.kv_a_layernorm.weight", (512,)
    yield f"{module}.kv_b_proj.weight", (128 * 256, 512)
    yield f"{module}.o_proj.weight", (_HIDDEN, 128 * 128)


def _feed_forward(module: str, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{module}.gate_proj.weight", (inner, _HIDDEN)
    yield f"{module}.up_proj.weight", (inner, _HIDDEN)
    yield f"{module}.down_proj.weight", (_HIDDEN, inner)
