"""`convert dequantize` on the command line, and its options."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dequantize_checkpoints import run

import convert
from convert.errors import UsageError
from convert.plan import parse_size


@pytest.fixture
def packed(packed_llama: Path, tmp_path: Path) -> Path:
    """Return a copy of the packed Llama that a test may change."""
    return Path(shutil.copytree(packed_llama, tmp_path / "llama-nf4"))


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("5GB", 5 * 10**9), ("500 mb", 5 * 10**8), ("0.5GiB", 2**29), ("100KiB", 102_400), ("1e6", 10**6), (7, 7)],
)
def test_sizes_are_read_as_transformers_reads_them(text: str | int, nbytes: int) -> None:
    assert parse_size(text) == nbytes


def test_a_dtype_may_be_spelled_as_in_a_config(packed: Path, tmp_path: Path) -> None:
    spellings = [("f16", "float16"), ("bf16", "BFloat16"), ("f32", "float32")]
    for short, long in spellings:
        plans = [
            convert.plan_dequantize(packed, convert.DequantizeRequest(tmp_path / "out", dtype=dtype))
            for dtype in (short, long)
        ]
        assert plans[0].dtype is plans[1].dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "f8"}, "unknown dtype `f8`"),
        ({"max_shard_size": "5 parsecs"}, "`5 parsecs` is not a size"),
        ({"max_shard_size": "0GB"}, "the size is 0 bytes"),
        ({"max_shard_size": "nanGB"}, "`nanGB` is not a size"),
        ({"max_shard_size": "1B"}, "is not a size"),
    ],
)
def test_arguments_that_make_no_sense_are_usage_errors(
    options: dict[str, Any], message: str, tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        convert.dequantize(tiny_llama, convert.DequantizeRequest(tmp_path / "out", **options))


def test_the_command_shows_the_plan_then_the_files_on_stderr(packed: Path, tmp_path: Path) -> None:
    result = run(packed, tmp_path / "out")
    assert (result.returncode, result.stdout) == (0, "")
    shown = result.stderr
    assert shown.index("LlamaForCausalLM") < shown.index("Dequantized from `llama-nf4`") < shown.index(" files, ")
    for path in (tmp_path / "out").iterdir():
        assert path.is_dir() or shown.count(f"  {path.name}  ") == 1
    again = run(packed, tmp_path / "out").stderr
    assert "kept config.json: complete, and equal to the plan" in again
    assert "nothing to write: all files are there" in again


def test_a_dry_run_is_the_truth_and_writes_nothing(packed: Path, tmp_path: Path) -> None:
    options = (packed, tmp_path / "out", "--max-shard-size", "100KB")
    planned = json.loads(run(*options, "--dry-run", "--json").stdout)
    assert not (tmp_path / "out").exists()
    shown = run(*options, "--dry-run").stdout
    assert re.search(r"model\.layers\.\*\.mlp\.up_proj\.weight +1x +F16 +packed by bitsandbytes", shown)
    assert run(*options).returncode == 0
    lengths = {output["path"]: output["nbytes"] for output in planned["outputs"]}
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert lengths == {str(path): path.stat().st_size for path in files}
    assert sum(lengths.values()) == planned["nbytes"]
    for output in planned["outputs"]:
        data = Path(output["path"]).read_bytes()
        if output["tensors"]:
            n_header = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + n_header])
            starts = {
                name: 8 + n_header + value["data_offsets"][0] for name, value in header.items() if "dtype" in value
            }
            assert {tensor["name"]: tensor["offset"] for tensor in output["tensors"]} == starts


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--json"], 2, "--json goes with --dry-run"),
        (["--private"], 2, "--private goes with --push-to-hub"),
        (["--dtype", "f8"], 2, "unknown dtype `f8`"),
        (["--through", "nf4"], 2, "the way through a packed type takes a 16-bit checkpoint"),
        (["--push-to-hub", "a/b/c"], 2, "`a/b/c` cannot be a repository's name"),
        (["--merge", "nowhere"], 3, "nowhere"),
    ],
)
def test_the_command_ends_in_the_houses_codes(arguments: list[str], code: int, says: str, packed: Path) -> None:
    result = run(packed, packed.parent / "out", *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert f"error: {says}" in result.stderr or says in result.stderr
    assert not (packed.parent / "out").exists()


def test_the_command_imports_nothing_heavy(packed: Path, tmp_path: Path) -> None:
    program = (
        f"import convert, sys; convert.dequantize({str(packed)!r}, {str(tmp_path / 'out')!r}); print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert not loaded & {"torch", "transformers", "bitsandbytes", "safetensors", "huggingface_hub", "peft"}
