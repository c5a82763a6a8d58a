"""Other programs' checkpoints that are not on this disk: the same files come out as from those that are."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from layout_files import hashes
from meta_checkpoints import MetaRow, write_meta
from remote_double import Double, lead_here, remote_double
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict_saver import save

from convert.checkpoint import Stated
from convert.model import model_request
from convert.remote import is_stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def models(tiny_llama: Path, tmp_path: Path) -> dict[str, Path]:
    meta = write_meta(MetaRow("meta", "2", 2), tmp_path / "models" / "meta")
    spread = tmp_path / "models" / "spread"
    shutil.copytree(tiny_llama, spread, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.warns(UserWarning, match="in a single process"):
        save({"model": load_file(tiny_llama / "model.safetensors")}, checkpoint_id=spread / "dist_ckpt", no_dist=True)
    return {"me/meta": meta, "me/spread": spread}


@pytest.fixture
def hub(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    with remote_double(models) as double:
        lead_here(double, monkeypatch, tmp_path / "home")
        yield double


@pytest.mark.parametrize(("name", "weights"), [("meta", "consolidated.01.pth"), ("spread", "dist_ckpt/__0_0.distcp")])
def test_the_files_are_those_of_the_checkpoint_here(
    name: str, weights: str, models: dict[str, Path], hub: Double, tmp_path: Path
) -> None:
    stated = Stated(context=64) if name == "meta" else Stated()
    here = hashes(model_request(models[f"me/{name}"], stated=stated), tmp_path / "here", "f16,q8_0")
    nbytes = sum(path.stat().st_size for path in models[f"me/{name}"].rglob("*") if path.is_file())
    before = hub.sent
    there = model_request(f"hf://me/{name}", stated=stated)
    assert hashes(there, tmp_path / "there", "f16,q8_0") == here
    assert hub.sent - before < 1.2 * nbytes + 500_000
    assert is_stand_in(there.path / weights)
