"""What trainers leave that is no whole model: each is told for what it is, with the program that puts it together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from checkpoint_directories import hint, put, refusal
from safetensors.torch import save_file

from convert.checkpoint import open_checkpoint
from convert.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RANKS = {f"{kind}_world_size_2_rank_{rank}.pt": b"" for kind in ("model", "optim") for rank in (0, 1)}


@pytest.mark.parametrize(
    ("files", "what", "hint_has"),
    [
        ({"__0_0.distcp": b"", "config.json": {}}, "FSDP", "and `.metadata` beside them"),
        (
            {"pytorch_model_fsdp_0/__0_0.distcp": b"", "optimizer.bin": b"", "scheduler.pt": b""},
            "FSDP",
            "`.metadata`",
        ),
        (
            {"global_step100/mp_rank_00_model_states.pt": b"", "zero_to_fp32.py": b"", "latest": b""},
            "ZeRO",
            "zero_to_fp32.py .",
        ),
        (
            {"bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": b"", "mp_rank_00_model_states.pt": b""},
            "ZeRO",
            "zero_to_fp32.py",
        ),
        ({**RANKS, "config.json": {}}, "verl", "verl.model_merger merge"),
    ],
)
def test_parts_of_a_model_say_what_puts_them_together(
    tmp_path: Path, files: dict[str, Any], what: str, hint_has: str
) -> None:
    message = refusal(put(tmp_path, files))
    assert message.startswith("`DIR` has no weights of a whole model; it has ")
    assert what in message
    assert hint_has in (hint(tmp_path) or "")
    assert str(tmp_path) in (hint(tmp_path) or "") or "zero_to_fp32" in hint_has


@pytest.mark.parametrize(
    "name", ["optimizer.bin", "scheduler.bin", "optimizer_1.bin", "sampler.bin", "scaler.pt", "random_states_0.pt"]
)
def test_what_belongs_to_training_is_never_offered_as_the_weights(name: str, tmp_path: Path) -> None:
    assert name not in refusal(put(tmp_path, {name: b"", "config.json": {}}))
    checkpoint = open_checkpoint(put(tmp_path, {"model.safetensors": ["w"]}))
    assert checkpoint.notes == ()


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """Make a group of one process, which DTensors need."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore")
def test_dtensors_are_told_from_torchaos(tmp_path: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (1,))
    weights = {"model.norm.weight": distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)])}
    torch.save(weights, tmp_path / "model_world_size_1_rank_0.pt")
    with pytest.raises(UnsupportedError, match="holds DTensors, one process's part of a model") as caught:
        open_checkpoint(tmp_path / "model_world_size_1_rank_0.pt")
    assert "torchao" not in caught.value.message + (caught.value.hint or "")
    assert "verl.model_merger" in (caught.value.hint or "")


def test_placeholders_of_zero_3_are_told(tmp_path: Path) -> None:
    empty = {f"model.layers.{n}.mlp.up_proj.weight": torch.zeros(0) for n in range(3)}
    save_file(empty | {"model.norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    assert refusal(tmp_path).startswith("3 of 4 tensors in `DIR` are empty: ")
    assert "zero_to_fp32.py" in (hint(tmp_path) or "")


def test_a_directory_of_snapshots_names_them(tmp_path: Path) -> None:
    put(tmp_path / "snapshots", {"abc/model.safetensors": ["w"]})
    assert "it has directories of checkpoints: `snapshots`" in refusal(tmp_path)
