"""Directories of small weights that tests put together, and what is said of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from convert.checkpoint import Checkpoint, open_checkpoint
from convert.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

ONE = torch.ones(1)
INDEX = "model.safetensors.index.json"


def put(directory: Path, files: dict[str, Any]) -> Path:
    """Write files by their suffix: a list of tensor names as weights, a dict as JSON, bytes as they are."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, dict):
            path.write_text(json.dumps(content))
        elif name.endswith(".safetensors"):
            save_file({tensor: ONE.clone() for tensor in content}, path)
        else:
            torch.save({tensor: ONE.clone() for tensor in content}, path)
    return directory


def index(**weight_map: object) -> dict[str, object]:
    return {"metadata": {"total_size": 12}, "weight_map": weight_map}


def placed(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    return [(name, source.path.name) for name, source in checkpoint.tensors.items()]


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value.message.replace(str(path), "DIR")


def hint(path: Path) -> str | None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value.hint
