"""Torch files: what `torch.save` writes is found byte for byte."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_files import bytes_at, bytes_of, rewritten, saved

from convert.checkpoint import open_checkpoint
from convert.checkpoint.source import StoredType
from convert.checkpoint.torch_file import read_torch_file
from convert.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = {
    torch.float64: StoredType.F64,
    torch.float32: StoredType.F32,
    torch.float16: StoredType.F16,
    torch.bfloat16: StoredType.BF16,
    torch.float8_e4m3fn: StoredType.F8_E4M3,
    torch.float8_e5m2: StoredType.F8_E5M2,
    torch.int64: StoredType.I64,
    torch.int32: StoredType.I32,
    torch.int16: StoredType.I16,
    torch.int8: StoredType.I8,
    torch.uint64: StoredType.U64,
    torch.uint32: StoredType.U32,
    torch.uint16: StoredType.U16,
    torch.uint8: StoredType.U8,
    torch.bool: StoredType.BOOL,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_of_each_dtype_is_found_where_it_lies(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(1, 25).reshape(2, 3, 4).to(dtype)
    file = read_torch_file(saved(tmp_path, {"first": torch.ones(3), "t": tensor}))
    assert [(s.name, s.dtype, s.shape) for s in file.sources][1] == ("t", DTYPES[dtype], (2, 3, 4))
    assert bytes_at(file)["t"] == bytes_of(tensor)


def test_windows_shared_storages_scalars_and_empty_tensors_are_found(tmp_path: Path) -> None:
    whole = torch.randn(30, 8)
    state = {
        "whole": whole,
        "tied": whole,
        "window": whole[10:20],
        "row": whole[3],
        "scalar": torch.tensor(7.0),
        "element": whole[4, 5],
        "empty": torch.zeros(0, 4),
        "thin": whole.t()[:1].t()[:1],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "after": torch.randn(5),
    }
    file = read_torch_file(saved(tmp_path, state))
    assert bytes_at(file) == {name: bytes_of(tensor) for name, tensor in state.items()}
    assert file.notes == ()


def test_tensors_come_in_the_order_they_were_saved(tmp_path: Path) -> None:
    state = collections.OrderedDict((name, torch.ones(1)) for name in ("z", "a", "m"))
    assert [source.name for source in read_torch_file(saved(tmp_path, state)).sources] == ["z", "a", "m"]


def test_a_modules_own_state_dict_is_read(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2, bias=False))
    file = read_torch_file(saved(tmp_path, model.state_dict()))
    assert bytes_at(file) == {name: bytes_of(tensor) for name, tensor in model.state_dict().items()}


def test_a_zip_written_by_another_tool_is_read(tmp_path: Path) -> None:
    state = {"a": torch.randn(5), "b": torch.randn(3, 3)}
    file = read_torch_file(rewritten(saved(tmp_path, state), {}))
    assert bytes_at(file) == {name: bytes_of(tensor) for name, tensor in state.items()}


def test_the_file_is_loaded_without_code_and_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []
    load = torch.load

    def recorded(path: Path, **options: Any) -> object:  # noqa: ANN401 - torch.load's own
        calls.append(options)
        return load(path, **options)

    monkeypatch.setattr("torch.load", recorded)
    read_torch_file(saved(tmp_path, {"t": torch.ones(3)}))
    assert calls == [{"map_location": "meta", "weights_only": True}]


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module", "model_state_dict"])
def test_a_trainers_checkpoint_is_unwrapped(tmp_path: Path, wrapper: str) -> None:
    weight = torch.randn(4)
    value = {
        "step": 5,
        wrapper: {"w": weight},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}},
        "rng": torch.zeros(9, dtype=torch.uint8),
    }
    file = read_torch_file(saved(tmp_path, value))
    assert bytes_at(file) == {"w": bytes_of(weight)}
    assert file.notes == (f"`model.pt`: took the tensors under `{wrapper}`, ignored `step`, `optimizer`, `rng`",)


def test_entries_that_are_not_tensors_are_noted(tmp_path: Path) -> None:
    file = read_torch_file(saved(tmp_path, {"step": 5, "w": torch.ones(1), "name": "x", "nested": {"n": 1}}))
    assert [source.name for source in file.sources] == ["w"]
    assert file.notes == ("`model.pt`: ignored `step`, `name`, `nested`",)


@pytest.mark.parametrize(
    ("names", "plain", "prefixes"),
    [
        (["module.a.w", "module.b.w"], ["a.w", "b.w"], ["module."]),
        (["_orig_mod.b.w", "_orig_mod.a.w"], ["b.w", "a.w"], ["_orig_mod."]),
        (["module._orig_mod.a.w"], ["a.w"], ["_orig_mod.", "module."]),
        (["_orig_mod.module.a.w"], ["a.w"], ["_orig_mod.", "module."]),
        (["model.layers.0._orig_mod.w", "lm_head.w"], ["model.layers.0.w", "lm_head.w"], ["_orig_mod."]),
        (["model.model.norm.w", "model.lm_head.w"], ["model.norm.w", "lm_head.w"], ["model."]),
        (["model.norm.w", "model.embed.w"], ["model.norm.w", "model.embed.w"], []),
        (["module.a.w", "b.w"], ["module.a.w", "b.w"], []),
    ],
)
def test_wrappers_prefixes_are_removed_and_noted(
    tmp_path: Path, names: list[str], plain: list[str], prefixes: list[str]
) -> None:
    saved(tmp_path, {name: torch.full((2,), float(i)) for i, name in enumerate(names)})
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == plain
    assert [source.name for source in checkpoint.tensors.values()] == plain
    assert checkpoint.notes == tuple(f"removed `{prefix}` from tensor names" for prefix in prefixes)


def test_two_names_that_become_one_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, {"a.w": torch.ones(1), "_orig_mod.a.w": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"^tensors `a\.w` and `_orig_mod\.a\.w` are both `a\.w`$"):
        open_checkpoint(tmp_path)
