"""A plan is data: it pickles, and another process carries it out to the same bytes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from checkpoints import write_checkpoint
from peft_adapters import write_adapter, write_base

import convert

if TYPE_CHECKING:
    from pathlib import Path

    from convert.plan import Plan

CARRY_OUT = "import pickle, sys, convert; convert.carry_out(pickle.load(open(sys.argv[1], 'rb')), jobs=2)"


def _hashes(plan: Plan) -> list[str]:
    return [sha256(output.path.read_bytes()).hexdigest() for output in plan.outputs]


def _check(plan: Plan, again: Plan, folder: Path) -> None:
    """Carry one plan out here, the other, which is the same but for its paths, in another process."""
    convert.carry_out(plan)
    path = folder / "plan.pickle"
    path.write_bytes(pickle.dumps(again))
    subprocess.run([sys.executable, "-c", CARRY_OUT, str(path)], check=True)
    assert _hashes(again) == _hashes(plan)


@pytest.mark.parametrize("name", ["rows-of-256", "Mixtral-8x7B-v0.1", "float32-weights"])
def test_another_process_carries_out_a_plan(name: str, tmp_path: Path) -> None:
    model = write_checkpoint(name, tmp_path)
    _check(convert.plan_all(model, tmp_path / "here"), convert.plan_all(model, tmp_path / "there"), tmp_path)


@pytest.mark.shared
def test_another_process_carries_out_a_plan_of_packed_weights(shared_fixtures: Path, tmp_path: Path) -> None:
    model = shared_fixtures / "stories260K-nf4"
    _check(convert.plan_all(model, tmp_path / "here"), convert.plan_all(model, tmp_path / "there"), tmp_path)


def test_another_process_merges_dora_of_an_embedding(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", r=4, target_modules=["q_proj", "embed_tokens"], use_dora=True)
    here, there = (convert.plan_all(base, tmp_path / where, merge=str(adapter)) for where in ("here", "there"))
    _check(here, there, tmp_path)


def test_another_process_takes_a_checkpoint_through_nf4(tmp_path: Path) -> None:
    model = write_checkpoint("rows-of-256", tmp_path)
    here, there = (
        convert.plan_dequantize(model, tmp_path / where, through="nf4-dq").shards[0].plan for where in ("here", "there")
    )
    _check(here, there, tmp_path)


def test_another_process_quantizes_a_gguf_file(tmp_path: Path) -> None:
    source = tmp_path / "model-F16.gguf"
    convert.convert_one(write_checkpoint("rows-of-48", tmp_path), source)
    _check(
        convert.plan_quantize(source, tmp_path / "here"), convert.plan_quantize(source, tmp_path / "there"), tmp_path
    )
