"""Importance matrices: read as llama-quantize reads them, checked against the model before anything is written."""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from gguf import GGUFReader
from gguf_models import SMALL_MODELS, SmallModel, small_imatrix, write_imatrix, write_small_model

import convert
from convert.checkpoint import SourceFiles
from convert.conversion import plan_quantize
from convert.errors import CheckpointError, PlanError, UsageError
from convert.gguf_file import read_gguf
from convert.importance import Importance, read_importance
from convert.plan import OutputRequest
from convert.quant_mix import quantize_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


SUMS: Final = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], np.float32)
NAME: Final = "blk.0.ffn_up_exps.weight"
EXPERTS: Final = SmallModel(n_layers=2, n_experts=4)


def write_legacy(path: Path, entries: Sequence[tuple[bytes, int, Sequence[float]]], tail: bytes = b"") -> Path:
    """Write a .dat file: name, number of calls, values."""
    content = struct.pack("<i", len(entries))
    for name, n_calls, values in entries:
        content += struct.pack("<i", len(name)) + name + struct.pack("<ii", n_calls, len(values))
        content += np.array(values, "<f4").tobytes()
    path.write_bytes(content + tail)
    return path


def values_of(importance: Importance, name: str) -> list[float]:
    entry = importance.entries[name]
    read: list[float] = entry.read(SourceFiles(), 0, entry.n_values).tolist()
    return read


def test_a_sum_is_divided_by_the_count_of_its_expert_and_one_that_was_not_seen_counts_alike(tmp_path: Path) -> None:
    read = read_importance(write_imatrix(tmp_path / "i.gguf", {NAME: (SUMS, np.array([2, 0, 2.5]))}))
    ones = [1.0] * 4
    assert values_of(read, NAME) == [0.5, 1, 1.5, 2, *ones, 3, float(np.float32(10) / 3), float(np.float32(11) / 3), 4]
    assert read.entries[NAME].unseen == (1,)
    assert read.entries[NAME].read(SourceFiles(), 3, 3).tolist() == [2, 1, 1]
    assert (read.datasets, read.n_chunks, read.chunk_size, read.n_entries) == (("some-text.txt",), 3, 64, 1)


def test_a_dat_file_is_divided_by_its_calls(tmp_path: Path) -> None:
    entries: list[tuple[bytes, int, Sequence[float]]] = [(b"a.weight", 4, [2, 6]), (b"b.weight", 0, [2, 6])]
    read = read_importance(write_legacy(tmp_path / "i.dat", entries, struct.pack("<ii", 7, 5) + b"wiki\0"))
    assert (values_of(read, "a.weight"), values_of(read, "b.weight")) == ([0.5, 1.5], [2, 6])
    assert (read.datasets, read.n_chunks) == (("wiki",), 7)
    bare = read_importance(write_legacy(tmp_path / "bare.dat", entries))
    assert (bare.datasets, bare.n_chunks, bare.n_entries) == ((), 0, 2)


def test_weights_are_included_and_excluded_by_parts_of_names(tmp_path: Path) -> None:
    path = small_imatrix(EXPERTS, tmp_path / "i.gguf")
    included = read_importance(path, include=["attn_q", "ffn_up"]).entries
    assert {name.split(".")[2] for name in included} == {"attn_q", "ffn_up_exps"}
    excluded = read_importance(path, exclude=["blk.1."])
    assert {name[:6] for name in excluded.entries} == {"blk.0."}
    assert excluded.n_entries == len(excluded.entries)
    with pytest.raises(UsageError, match="not both"):
        read_importance(path, include=["a"], exclude=["b"])


def test_it_pickles_and_stays_small(tmp_path: Path) -> None:
    read = read_importance(small_imatrix(SMALL_MODELS["llama"], tmp_path / "i.gguf"))
    sent = pickle.dumps(read)
    assert pickle.loads(sent) == read
    assert len(sent) < 300 * len(read.entries)


BROKEN: Final[Mapping[str, tuple[bytes, str]]] = {
    "empty": (b"", "ends before the number of entries"),
    "no entries": (struct.pack("<i", 0), "has no entries"),
    "a name too long": (struct.pack("<ii", 1, 1 << 30), "has 1073741824 bytes"),
    "a negative name": (struct.pack("<ii", 1, -1), "has -1 bytes"),
    "cut in a name": (struct.pack("<ii", 1, 9) + b"a", "has 9 bytes"),
    "cut before values": (struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 3) + b"\0" * 8, "has 3 values"),
    "no values": (struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 0), "has 0 values"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_dat_file_is_an_error(name: str, tmp_path: Path) -> None:
    content, what = BROKEN[name]
    (tmp_path / "i.dat").write_bytes(content)
    with pytest.raises(CheckpointError, match=what):
        read_importance(tmp_path / "i.dat")


def test_a_gguf_that_is_no_importance_matrix_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no `imatrix"):
        read_importance(write_small_model(SmallModel(n_layers=1), tmp_path / "model.gguf"))
    with pytest.raises(CheckpointError, match="is not a file"):
        read_importance(tmp_path / "nothing.gguf")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_importance_that_is_not_finite_is_an_error(value: float, tmp_path: Path) -> None:
    sums = SUMS.copy()
    sums[2, 1] = value
    path = write_imatrix(tmp_path / "i.gguf", {NAME: (sums, np.array([1, 1, 1]))})
    with pytest.raises(CheckpointError, match=f"gives `{NAME}` the importance {value:g} at 9"):
        read_importance(path)
    assert read_importance(path, exclude=["ffn"]).entries == {}


def _plan(tmp_path: Path, imatrix: Path, types: str = "q8_0", **words: Any) -> tuple[str, ...]:  # noqa: ANN401
    model = write_small_model(EXPERTS, tmp_path / "model.gguf")
    options = quantize_options(imatrix=imatrix, **words)
    return plan_quantize(model, OutputRequest(tmp_path / "out", types=types, options=options)).notes


def test_another_models_importance_is_an_error(tmp_path: Path) -> None:
    other = write_imatrix(tmp_path / "i.gguf", {"layers.0.weight": (SUMS, np.ones(3))})
    with pytest.raises(PlanError, match=r"importance for `layers\.0\.weight`, and for none of this model's tensors"):
        _plan(tmp_path, other)


def test_a_matrix_of_which_nothing_is_used_is_as_none(tmp_path: Path) -> None:
    imatrix = small_imatrix(EXPERTS, tmp_path / "i.gguf")
    assert _plan(tmp_path, imatrix, types="q8_0", include_weights=["nothing"]) == ()
    with pytest.raises(PlanError, match="cannot be made without"):
        _plan(tmp_path, imatrix, types="iq2_xs", include_weights=["nothing"])


def test_importance_of_the_wrong_size_is_an_error_but_for_embeddings(tmp_path: Path) -> None:
    wrong = write_imatrix(tmp_path / "i.gguf", {NAME: (SUMS, np.ones(3))})
    with pytest.raises(PlanError, match=f"importance of `{NAME}` has 12 values, the tensor 1024 columns"):
        _plan(tmp_path, wrong)
    assert _plan(tmp_path, write_imatrix(tmp_path / "e.gguf", {"token_embd.weight": (SUMS, np.ones(3))})) == ()


def test_experts_that_were_not_seen_are_told_by_layer_and_count(tmp_path: Path) -> None:
    notes = _plan(tmp_path, small_imatrix(EXPERTS, tmp_path / "i.gguf"))
    said = "experts that the importance matrix has not seen; all their columns count alike"
    assert notes == (f"{said}: layer 0 1 of 4, layer 1 1 of 4",)


def test_importance_that_no_tensor_takes_is_told(tmp_path: Path) -> None:
    entries = {name: (np.ones((1, 256)), np.ones(1)) for name in ("blk.0.attn_q.weight", "blk.7.attn_q.weight")}
    notes = _plan(tmp_path, write_imatrix(tmp_path / "i.gguf", entries))
    assert notes == ("importance that no tensor here takes: `blk.7.attn_q.weight`",)


def test_tensors_without_importance_are_told(tmp_path: Path) -> None:
    partial = small_imatrix(EXPERTS, tmp_path / "i.gguf", without="attn_output")
    notes = _plan(tmp_path, partial, types="q4_k_m")
    assert notes[0] == (
        "made as without an importance matrix, for it has nothing of them: "
        "`blk.0.attn_output.weight`, `blk.1.attn_output.weight`"
    )


def test_types_that_need_importance_and_have_none_are_an_error_before_anything_is_written(tmp_path: Path) -> None:
    model = write_small_model(EXPERTS, tmp_path / "model.gguf")
    with pytest.raises(PlanError) as caught:
        plan_quantize(model, OutputRequest(tmp_path / "out", types="q8_0,iq2_xs,q2_k_s"))
    what = "iq2_xs, q2_k_s cannot be made without the importance of `blk.0.attn_k.weight`"
    assert caught.value.message.startswith(what)
    assert caught.value.hint == (
        "give an importance matrix that has them, by quantize_options(imatrix=…); or leave out these types"
    )
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_needs_importance_and_has_no_entry_is_named(tmp_path: Path) -> None:
    partial = small_imatrix(EXPERTS, tmp_path / "i.gguf", without="blk.1.attn_q")
    with pytest.raises(PlanError, match=r"^iq2_xxs cannot be made without the importance of `blk\.1\.attn_q\.weight`$"):
        _plan(tmp_path, partial, types="q4_k_m,iq2_xxs")


def test_the_metadata_says_where_the_importance_is_from(tmp_path: Path) -> None:
    long = tmp_path / f"{'é' * 80}.gguf"
    imatrix = small_imatrix(EXPERTS, long)
    model = write_small_model(EXPERTS, tmp_path / "model.gguf")
    asked = OutputRequest(tmp_path / "out", types="q8_0", options=quantize_options(imatrix=imatrix))
    plan = plan_quantize(model, asked)
    (tmp_path / "header.gguf").write_bytes(plan.outputs[0].header.ljust(plan.outputs[0].nbytes, b"\0"))
    metadata = read_gguf(tmp_path / "header.gguf").metadata
    said = {key.rpartition(".")[2]: value for key, value in metadata.items() if key.startswith("quantize.imatrix.")}
    cut = str(imatrix).encode()[:127].decode(errors="replace")
    assert said == {"file": cut, "dataset": "some-text.txt", "entries_count": 16, "chunks_count": 3}


def test_statistics_are_of_the_mean_squares_that_the_gguf_package_reads(calibrated_llama: Path) -> None:
    """Not llama-imatrix --show-statistics's words: what it says is mostly lost, for it ends before its log is out."""
    path = calibrated_llama / "imatrix.gguf"
    stored = {str(tensor.name): np.asarray(tensor.data, np.float64).reshape(-1) for tensor in GGUFReader(path).tensors}
    inspection = convert.inspect(path)
    assert inspection.kind == "imatrix"
    assert {row.name for row in inspection.importance} == {name.rpartition(".")[0] for name in stored}
    for row in inspection.importance:
        (count,) = stored[f"{row.name}.counts"]
        means = stored[f"{row.name}.in_sum2"] / count
        numbers = [row.count, row.total, row.mean, row.lowest, row.highest, row.deviation]
        theirs = [count, means.sum(), means.mean(), means.min(), means.max(), means.std()]
        assert numbers == pytest.approx(theirs, rel=1e-4), row.name


def test_a_dat_file_is_inspected_too(calibrated_llama: Path) -> None:
    inspection = convert.inspect(calibrated_llama / "imatrix.dat")
    assert inspection.kind == "imatrix"
    assert inspection.metadata["imatrix.chunk_count"] == 3
