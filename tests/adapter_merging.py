"""What we and peft merge of an adapter and a base, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from packed_checkpoints import read_tensor

from convert.adapter import MergedTensor, MergeRequest, merge_adapters
from convert.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from convert.adapter import MergedTensors

Q0: Final = "base_model.model.model.layers.0.self_attn.q_proj"
ATTENTION: Final = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL: Final = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


def merged(base: Path, *adapters: Path | MergeRequest) -> MergedTensors:
    requests = [adapter if isinstance(adapter, MergeRequest) else MergeRequest(adapter) for adapter in adapters]
    return merge_adapters(open_checkpoint(base).tensors, requests)


def saved_tensors(directory: Path) -> dict[str, NDArray[np.float32]]:
    return {name: read_tensor(source) for name, source in open_checkpoint(directory).tensors.items()}


def assert_as_peft(ours: MergedTensors, peft: Mapping[str, NDArray[np.float32]], *, ulps: int = 2) -> None:
    """Compare all tensors by name; merged ones within some units of float32 of the tensor's largest value."""
    assert list(ours.tensors) == sorted(peft)
    for name, tensor in ours.tensors.items():
        assert tensor.shape == peft[name].shape, name
        for rows_at_a_time in (None, 7):
            values = read_tensor(tensor, rows_at_a_time=rows_at_a_time)
            unit = np.spacing(np.abs(peft[name]).max())
            bound = ulps * unit if isinstance(tensor, MergedTensor) else 0
            worst = np.abs(values.astype(np.float64) - peft[name]).max()
            assert worst <= bound, f"{name}: {worst / unit} units"
