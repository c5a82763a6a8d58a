"""`verify --against` has a second judge: transformers' own reading of the file, which knows nothing of our tables."""

from __future__ import annotations

import shutil
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from checkpoint_weights import META_NAMES, renamed
from checkpoints import write_checkpoint
from damage import patched, problems, tensor_of
from family_checkpoints import FAMILY_CHECKPOINTS, write_family_checkpoint
from safetensors.torch import load_file, save_file

import convert
from convert.architecture import row_order
from convert.errors import UnsupportedError
from convert.gguf_file import read_gguf
from convert.model import ModelRequest, open_model
from convert.verify import verify_files
from convert.verify.reading import open_file
from convert.verify.second_way import open_second_way
from convert.verify.with_transformers import load_network

if TYPE_CHECKING:
    from pathlib import Path

LLAMAS = ("metas-names", "metas-names-in-a-pth", "no-perm-names", "ggufs-names", "Mixtral-8x7B-v0.1")
OTHERS = ("gemma-3-1b-it", "bloom-560m", "Qwen3-8x1M", "DeepSeek-V3-rows-of-256")


def _second(path: Path, against: Path) -> list[str]:
    (file,) = verify_files([path], against=against).files
    return [
        f"{finding.severity.value}: {finding.message}" for finding in file.findings if finding.check == "second way"
    ]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.shared] * (name in OTHERS and FAMILY_CHECKPOINTS[name].shared))
        for name in (*LLAMAS, *OTHERS)
    ],
)
def test_a_sound_file_is_sound_to_the_second_judge_too(name: str, tmp_path: Path) -> None:
    write = write_checkpoint if name in LLAMAS else write_family_checkpoint
    model = write(name, tmp_path)
    report = convert.convert_all(model, convert.OutputRequest(tmp_path / "out", types="f16,q4_0"))
    for output in report.outputs:
        said = _second(output.path, model)
        assert said == (["note: transformers reads no GGUF of this model: deepseek2"] if "eep" in name else [])


@pytest.mark.parametrize(("name", "n_wrong"), [("metas-names", 8), ("no-perm-names", 4)])
def test_a_fault_in_the_tables_is_found_which_the_first_judge_shares(
    name: str, n_wrong: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_checkpoint(name, tmp_path)
    everything = row_order._IN_HALVES | row_order._IN_PAIRS
    monkeypatch.setattr(row_order, "_IN_PAIRS", frozenset())
    monkeypatch.setattr(row_order, "_IN_HALVES", everything)
    convert.convert_one(model, tmp_path / "twice.gguf")
    said = problems(tmp_path / "twice.gguf", against=model)
    assert len(said) == n_wrong
    assert all("rows are in another order" in problem and problem.startswith("second way") for problem in said)


def test_rows_in_another_order_are_found_in_the_last_block(tmp_path: Path) -> None:
    model = write_checkpoint("rows-of-96", tmp_path)
    convert.convert_one(model, tmp_path / "f16.gguf")
    info = tensor_of(tmp_path / "f16.gguf", "blk.1.attn_k.weight")
    raw = (tmp_path / "f16.gguf").read_bytes()[info.offset : info.offset + info.nbytes]
    rows = np.frombuffer(raw, np.uint8).reshape(3, 2, 8, -1).swapaxes(1, 2).tobytes()
    damaged = patched(tmp_path / "f16.gguf", tmp_path / "damaged.gguf", info.offset, rows)
    judge = open_second_way(open_model(ModelRequest(model)))
    with open_file(read_gguf(damaged)) as file:
        (said,) = judge.check(read_gguf(damaged), file)
    assert said.message.startswith("tensor `blk.1.attn_k.weight`, as transformers reads GGUF, is off")


def _as_meta_has_it(hf: Path, folder: Path) -> Path:
    """Write the twin of a Llama as Meta would have saved it: other names, pairs instead of halves of 4 and 2 heads."""
    shutil.copytree(hf, folder)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if "q_proj" in name or "k_proj" in name:
            pairs = tensor.view(4 if "q_proj" in name else 2, 2, -1, *tensor.shape[1:]).transpose(1, 2)
            weights[name] = pairs.reshape(tensor.shape).contiguous()
    save_file(renamed(weights, META_NAMES), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_model_in_metas_order_and_its_twin_are_one_model(tmp_path: Path) -> None:
    import torch

    hf = write_checkpoint("llama-attention-bias", tmp_path)
    meta = _as_meta_has_it(hf, tmp_path / "meta")
    ids = torch.tensor([[1, 40, 300, 17, 999, 5, 5, 64]])
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = (load_network(open_model(ModelRequest(folder)))(ids).logits for folder in (hf, meta))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    paths = [tmp_path / "hf.gguf", tmp_path / "meta.gguf"]
    for folder, path in zip((hf, meta), paths, strict=True):
        convert.convert_one(folder, path)
    files = [{tensor.name: tensor for tensor in read_gguf(path).tensors} for path in paths]
    assert files[0].keys() == files[1].keys()
    for name in files[0]:
        one, other = (
            path.read_bytes()[tensors[name].offset :][: tensors[name].nbytes]
            for path, tensors in zip(paths, files, strict=True)
        )
        assert one == other, name


def test_transformers_is_no_measure_where_it_would_invent_weights(tmp_path: Path) -> None:
    model = write_checkpoint("ggufs-names", tmp_path)
    with pytest.raises(UnsupportedError, match="transformers does not find"):
        load_network(open_model(ModelRequest(model)))
