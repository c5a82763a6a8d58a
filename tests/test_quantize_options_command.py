"""llama-quantize's options on the command line: what they say, what they show, and how they are handed on."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from gguf_models import SmallModel, small_imatrix, write_small_model

from convert.cli.quantize_options import as_flags

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a small float GGUF file."""
    return write_small_model(SmallModel(n_layers=8), tmp_path / "model-F16.gguf")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "convert", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_a_dry_run_shows_the_rule_that_chose_each_type(model: Path, tmp_path: Path) -> None:
    shown = run("quantize", model, tmp_path / "out", "--types", "Q4_K", "--tensor-type", "ATTN_Q=q8_0", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    for line in (
        r"blk\.\*\.attn_v\.weight +4x +Q6_K +attention value: first and last eighth of the layers, every third between",
        r"blk\.\*\.attn_v\.weight +4x +Q4_K +the type asked for",
        r"blk\.\*\.attn_q\.weight +8x +Q8_0 +as asked for: ATTN_Q",
        r"output\.weight +1x +Q6_K +output matrix",
    ):
        assert re.search(line, shown.stdout), line
    assert not (tmp_path / "out").exists()


def test_types_that_need_importance_name_the_two_ways_out(model: Path, tmp_path: Path) -> None:
    refused = run("quantize", model, tmp_path / "out", "--types", "q4_k_m,iq2_xs")
    assert refused.returncode == 5
    assert "iq2_xs cannot be made without the importance of `blk.0." in refused.stderr
    assert "with --imatrix; or leave these types out of --types" in " ".join(refused.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_file_of_importance_stands_in_the_metadata_as_it_was_typed(model: Path, tmp_path: Path) -> None:
    imatrix = small_imatrix(SmallModel(n_layers=8), tmp_path / "imatrix.gguf")
    typed = f"{tmp_path}/./{imatrix.name}"
    made = run("quantize", model, tmp_path, "--types", "iq2_xs", "--imatrix", typed, "--exclude-weights", "none")
    assert made.returncode == 0, made.stderr
    assert f'"{typed}"' in run("inspect", tmp_path / "model-IQ2_XS.gguf", "--json").stdout


def test_what_goes_only_with_another_option_says_so(tiny_llama: Path, tmp_path: Path) -> None:
    for options, what in (
        (("--imatrix", "auto"), "--imatrix auto needs --text"),
        (("--text", "some.txt"), "--text and --chunks go with --imatrix auto"),
        (("--include-weights", "attn"), "and none is given"),
    ):
        refused = run("all", tiny_llama, tmp_path / "out", *options)
        assert refused.returncode == 2
        assert what in refused.stderr


def test_llama_quantize_gets_the_options_in_its_own_spelling() -> None:
    asked = {"pure": True, "leave_output_tensor": False, "tensor_type": ("a=q8_0", "b=f16"), "prune_layers": "1,2"}
    assert as_flags(asked) == ("--pure", "--tensor-type", "a=q8_0", "--tensor-type", "b=f16", "--prune-layers", "1,2")


def test_lossless_takes_strict_for_its_value_and_no_path(tmp_path: Path) -> None:
    model = write_small_model(SmallModel(n_layers=1), tmp_path / "m.gguf")
    first = run("quantize", model, tmp_path / "a", "--types", "q4_0", "--tensor-type", ".=q4_0", "--name", "m")
    assert first.returncode == 0, first.stderr
    q4_0 = tmp_path / "a" / "m-Q4_0.gguf"
    shown = run("quantize", "--lossless", q4_0, tmp_path / "b", "--types", "q8_0", "--leave-output-tensor", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"blk\.\*\.attn_q\.weight +1x +Q8_0 +exactly as packed", shown.stdout)
    assert "note" in shown.stdout
    refused = run("quantize", q4_0, tmp_path / "b", "--types", "q4_k_m", "--lossless=strict")
    assert refused.returncode == 5
    said = " ".join(refused.stderr.split())
    assert "cannot be Q6_K and exactly what it is: Q6_K takes no integers and scales as they are" in said
    assert "--lossless without =strict quantizes it as usual" in said
    for options, what in (
        (("--lossless=yes",), "'yes' is not one of 'possible', 'strict'"),
        (("--lossless", "--with", "llama.cpp"), "--lossless does not go with --with llama.cpp"),
    ):
        refused = run("quantize", q4_0, tmp_path / "b", *options)
        assert refused.returncode == 2
        assert what in refused.stderr
