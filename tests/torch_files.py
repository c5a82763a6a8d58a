"""Torch files that tests write, write again with other records, and read."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from convert.checkpoint.torch_file import read_torch_file
from convert.errors import CheckpointError, ConvertError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from convert.checkpoint.torch_file import TorchFile


def saved(tmp_path: Path, value: object, **options: Any) -> Path:  # noqa: ANN401 - torch.save's own
    torch.save(value, tmp_path / "model.pt", **options)
    return tmp_path / "model.pt"


def bytes_at(file: TorchFile) -> dict[str, bytes]:
    return {s.name: s.path.read_bytes()[s.offset : s.offset + s.nbytes] for s in file.sources}


def bytes_of(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def refusal(path: Path, kind: type[ConvertError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        read_torch_file(path)
    return caught.value.message.replace(str(path.parent), "DIR")


def rewritten(path: Path, changes: Mapping[str, bytes | None], *, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a torch file again with some of its records replaced, added or (None) left out."""
    with zipfile.ZipFile(path) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    # With this record, torch computes where records lie from its own padding, which Python's zipfile does not write.
    records.pop(".format_version", None)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**records, **changes}.items():
            if data is not None:
                archive.writestr(f"model/{name}", data)
    return path
