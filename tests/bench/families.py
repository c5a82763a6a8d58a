"""`convert all` to six types on checkpoints of other families than Llama, in turn with a Llama of the same run.

Each has the shape of a published model, cut in layers (and experts) to about half a billion weights, bfloat16, seeded;
names and shapes are those of transformers' own class. Prints weights a second, the ratio to the Llama's, peak memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from convert.tokenizer.alphabet import BYTE_OF_CHAR

from .costs import measure, median, warm
from .synthetic import write_sentencepiece

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .costs import Cost

_SEED: Final = 20260101
_CHUNK: Final = 1 << 24  # values drawn at a time
# hf: TinyLlama-1.1B, Qwen3-30B-A3B, gemma-3-1b, bloom-1b7, DeepSeek-V3 (narrower, fewer experts)
_CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "Llama": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 9,
        "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000, "tie_word_embeddings": False,
    },
    "Qwen3-MoE": {
        "model_type": "qwen3_moe", "hidden_size": 2048, "moe_intermediate_size": 768, "num_hidden_layers": 1,
        "num_experts": 96, "num_experts_per_tok": 8, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "vocab_size": 16384, "tie_word_embeddings": False,
    },
    "Gemma 3": {
        "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
    },
    "BLOOM": {"model_type": "bloom", "hidden_size": 2048, "n_layer": 6, "n_head": 16, "vocab_size": 98304},
    "DeepSeek-V3": {
        "model_type": "deepseek_v3", "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 768,
        "num_hidden_layers": 2, "first_k_dense_replace": 1, "n_routed_experts": 64, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
    },
}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench families", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "convert-bench")
    options = parser.parse_args(argv)
    models = {name: _write(options.work / f"family-{name}", config) for name, config in _CONFIGS.items()}
    costs: dict[str, list[Cost]] = {name: [] for name in models}
    for _ in range(options.runs):
        for name, model in models.items():
            costs[name].append(_run(model, options.work / "family-out"))
    _print_table(models, costs)


def _run(model: Path, out: Path) -> Cost:
    shutil.rmtree(out, ignore_errors=True)
    warm(model / "model.safetensors")
    return measure([sys.executable, "-m", "convert", "all", model, out, "--name", "model"], into=out)


def _print_table(models: dict[str, Path], costs: dict[str, list[Cost]]) -> None:
    n_weights = {name: (model / "model.safetensors").stat().st_size // 2 for name, model in models.items()}
    medians = {name: median(runs) for name, runs in costs.items()}
    speed = {name: n_weights[name] / cost.user for name, cost in medians.items()}
    print(f"{'':12}{'M weights':>10}{'wall s':>8}{'user s':>8}{'peak MB':>9}{'M/s of user':>12}{'to Llama':>10}")
    for name, cost in medians.items():
        figures = f"{n_weights[name] / 1e6:10.0f}{cost.wall:8.2f}{cost.user:8.2f}{cost.peak / 1e6:9.0f}"
        print(f"{name:12}{figures}{speed[name] / 1e6:12.0f}{speed[name] / speed['Llama']:10.2f}")


def _write(directory: Path, config: dict[str, Any]) -> Path:
    """Write a checkpoint, unless it is there; in a process of its own, so that this one needs no torch and is small."""
    if not (directory / "model.safetensors").exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        job = multiprocessing.get_context("spawn").Process(target=_write_anew, args=(directory, config))
        job.start()
        job.join()
        if job.exitcode:
            raise RuntimeError(f"{directory.name} could not be written: exit code {job.exitcode}")
    return directory


def _write_anew(directory: Path, config: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
    made.architectures = [type(model).__name__]
    made.save_pretrained(directory)
    head = "lm_head.weight" if made.tie_word_embeddings else ""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != head}
    _write_tokenizer(directory, config)
    _write_weights(directory / "model.safetensors", shapes)


def _write_tokenizer(directory: Path, config: dict[str, Any]) -> None:
    if config["model_type"] in {"llama", "gemma3_text"}:
        write_sentencepiece(directory, config["vocab_size"])
        return
    _write_json(directory / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    _write_json(directory / "vocab.json", {char: number for number, char in enumerate((*BYTE_OF_CHAR, "th"))})
    (directory / "merges.txt").write_text("t h\n")


def _write_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write one safetensors file of bfloat16; the same drawn values come round again."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    drawn = np.random.default_rng(_SEED).standard_normal(_CHUNK, np.float32) * np.float32(0.02)
    chunk = (drawn.view(np.uint32) >> 16).astype("<u2").tobytes()
    text = json.dumps(header).encode()
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, len(chunk)):
            file.write(chunk[: end - start])
    partial.replace(path)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
