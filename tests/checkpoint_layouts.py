"""The kinds of files that hold the weights of the test checkpoints, and how each is written."""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    Weights = dict[str, torch.Tensor]


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
