"""The model in GGUF's words: what is read to give it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import convert
from convert.checkpoint import json_file, safetensors_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the files that the checkpoint's room opens, by name."""
    counts: Counter[str] = Counter()

    def counting(open_regular: Callable[[Path], BinaryIO]) -> Callable[[Path], BinaryIO]:
        def open_and_count(path: Path) -> BinaryIO:
            counts[Path(path).name] += 1
            return open_regular(path)

        return open_and_count

    for module in (json_file, safetensors_file):
        monkeypatch.setattr(module, "open_regular", counting(module.open_regular))
    return counts


def test_a_plan_reads_each_file_once(tiny_llama: Path, tmp_path: Path, opened: Counter[str]) -> None:
    convert.plan_all(tiny_llama, tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= opened.keys()
    assert set(opened.values()) == {1}, opened


def test_an_inspection_reads_each_file_once(tiny_llama: Path, opened: Counter[str]) -> None:
    convert.inspect(tiny_llama)
    assert {"config.json", "model.safetensors"} <= opened.keys()
    assert set(opened.values()) == {1}, opened


def test_what_no_rule_takes_is_listed_with_bytes_and_reason(tmp_path: Path) -> None:
    import torch
    from family_making import change_weights
    from peft_adapters import write_base

    added = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(2)}
    base = write_base(tmp_path / "base")
    change_weights(base, lambda weights: weights | added)
    plan = convert.plan_all(base, tmp_path / "out")
    (group,) = plan.left_out
    assert (group.group, group.reason) == ("buffers", "computed when a model is loaded")
    assert (sorted(name for name, _ in group.tensors), group.nbytes) == (sorted(added), 64)
    assert plan.definition == "native"
