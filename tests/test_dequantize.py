"""`convert dequantize`: a directory that transformers loads, bit for bit what the producer's library dequantizes to."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from packed_checkpoints import bits_of, tiny_config, write_safetensors_checkpoint

import convert
from convert.dequantization import carry_out_dequantize
from convert.dequantization.shards import parse_size
from convert.errors import CheckpointError, OutputError, UsageError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PretrainedConfig

SMALL: Final = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
PACKED: Final[dict[str, dict[str, Any]]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-dq": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}
CARD: Final = "---\nlicense: mit\ntags:\n- stories\n---\n\n# The original\n\nText with — signs.\n"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "convert", "dequantize", *map(str, arguments)]


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def assert_same_tensors(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare names, types and bits; the sign of a zero aside, which bitsandbytes' fp4 kernels do not agree on."""
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        assert value.dtype == expected[name].dtype, name
        np.testing.assert_array_equal(bits_of(value + 0.0), bits_of(expected[name] + 0.0), err_msg=name)


def _llama() -> PretrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(**SMALL, num_key_value_heads=2)


def _neox() -> PretrainedConfig:
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(**SMALL)


def _mixtral() -> PretrainedConfig:
    from transformers import MixtralConfig

    return MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4)


def write_packed(folder: Path, kind: str, config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Write a quantized model as transformers saves it, and return what bitsandbytes makes of it, in float16."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch.manual_seed(0)
    plain = folder.with_name(f"{folder.name}-plain")
    AutoModelForCausalLM.from_config(config, dtype=torch.float16).save_pretrained(plain)
    options = {"quantization_config": BitsAndBytesConfig(**PACKED[kind]), "dtype": torch.float16}
    AutoModelForCausalLM.from_pretrained(plain, **options).save_pretrained(folder)
    # Once more, since `dequantize` fails on a model that has been saved (transformers 5.23).
    values = AutoModelForCausalLM.from_pretrained(plain, **options).dequantize().state_dict()
    shutil.rmtree(plain)
    return {name: value.to(torch.float16) for name, value in values.items()}


@pytest.fixture(scope="module")
def packed_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Llama in nf4 with everything that lies in a model's directory."""
    folder = tmp_path_factory.mktemp("packed") / "llama-nf4"
    write_packed(folder, "nf4", _llama())
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(tiny_llama / name, folder / name)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / "LICENSE.txt").write_text("MIT\n")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (folder / "optimizer.pt").write_bytes(b"not a model's")
    (folder / "sample.png").write_bytes(b"a picture")
    return folder


@pytest.fixture
def packed(packed_llama: Path, tmp_path: Path) -> Path:
    """Return a copy of it that a test may change."""
    return Path(shutil.copytree(packed_llama, tmp_path / "llama-nf4"))


@pytest.mark.parametrize("kind", PACKED)
def test_transformers_loads_what_bitsandbytes_dequantizes_to(kind: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    expected = write_packed(tmp_path / "packed", kind, _llama())
    convert.dequantize(tmp_path / "packed", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float16
    assert not hasattr(model.config, "quantization_config")
    assert_same_tensors(model.state_dict(), expected)
    assert torch.isfinite(model.float()(torch.tensor([[1, 2, 3]])).logits).all()


@pytest.mark.parametrize("make_config", [_neox, _mixtral])
def test_an_architecture_needs_no_table(make_config: Callable[[], PretrainedConfig], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    expected = write_packed(tmp_path / "packed", "nf4-dq", make_config())
    convert.dequantize(tmp_path / "packed", tmp_path / "out")
    assert_same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict(), expected)


def test_the_dequantized_directory_converts_to_the_same_gguf(packed: Path, tmp_path: Path) -> None:
    convert.dequantize(packed, tmp_path / "llama-nf4-out" / "llama-nf4")
    for name in ("README.md", "LICENSE.txt"):  # they go into the metadata
        shutil.copyfile(packed / name, tmp_path / "llama-nf4-out" / "llama-nf4" / name)
    convert.convert_all(packed, tmp_path / "one", types="f16,q4_0")
    convert.convert_all(tmp_path / "llama-nf4-out" / "llama-nf4", tmp_path / "two", types="f16,q4_0")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


@pytest.mark.parametrize(("dtype", "name"), [("f16", "float16"), ("bf16", "bfloat16"), ("f32", "float32")])
def test_every_floating_tensor_has_the_dtype_asked_for(dtype: str, name: str, packed: Path, tmp_path: Path) -> None:
    import torch

    convert.dequantize(packed, tmp_path / "out", dtype=dtype)
    assert {value.dtype for value in load_all(tmp_path / "out").values()} == {getattr(torch, name)}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == name


def _state_dict() -> dict[str, torch.Tensor]:
    import torch

    torch.manual_seed(1)
    return {
        "a.weight": torch.randn(300, 70).to(torch.float16),
        "b.long_name.weight": torch.randn(64, 64).to(torch.float16),
        "position_ids": torch.arange(77)[None],
        "mask": torch.ones(3, 5, dtype=torch.bool),
        "small": torch.arange(7, dtype=torch.uint8),
        "scalar": torch.tensor(3.5, dtype=torch.float16),
        "count": torch.tensor(12, dtype=torch.int32),
        "empty": torch.empty(0, 8, dtype=torch.float16),
        "conv.weight": torch.randn(4, 3, 5, 5).to(torch.float16),
        "größe": torch.randn(5).to(torch.float16),
    }


@pytest.mark.parametrize("max_shard_size", ["5GB", "10KB", "1KB"])
def test_shards_and_index_are_byte_for_byte_huggingface_hubs(max_shard_size: str, tmp_path: Path) -> None:
    from huggingface_hub import save_torch_state_dict

    state_dict = dict(sorted(_state_dict().items()))
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), state_dict)
    convert.dequantize(tmp_path / "model", tmp_path / "out", max_shard_size=max_shard_size)
    (tmp_path / "theirs").mkdir()
    save_torch_state_dict(state_dict, tmp_path / "theirs", max_shard_size=max_shard_size)
    theirs = hashes(tmp_path / "theirs")
    index = theirs.pop("model.safetensors.index.json", None)
    assert {name: value for name, value in hashes(tmp_path / "out").items() if name in theirs} == theirs
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == sorted(theirs)
    assert (index is None) == (not (tmp_path / "out" / "model.safetensors.index.json").exists())
    if index is not None:
        ours, wanted = (
            json.loads((tmp_path / folder / "model.safetensors.index.json").read_text()) for folder in ("out", "theirs")
        )
        assert ours["weight_map"] == wanted["weight_map"]
        assert ours["metadata"]["total_size"] == wanted["metadata"]["total_size"]
        assert ours["metadata"]["total_parameters"] == sum(value.numel() for value in state_dict.values())


def test_integers_stay_and_doubles_are_narrowed(tmp_path: Path) -> None:
    import torch

    doubles = torch.tensor([[1 + 2**-11 + 2**-40, 1e-9, 3.0]], dtype=torch.float64)
    tensors = {"wide": doubles, "ids": torch.arange(3), "half": torch.ones(4, dtype=torch.float16)}
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), tensors)
    convert.dequantize(tmp_path / "model", tmp_path / "out", dtype="f16")
    ours = load_all(tmp_path / "out")
    assert ours["ids"].dtype == torch.int64
    assert torch.equal(ours["wide"], doubles.to(torch.float16))


def test_float32_norms_follow_the_model(tmp_path: Path) -> None:
    import torch

    tensors = {"a.weight": torch.randn(64, 64).to(torch.bfloat16), "norm.weight": torch.randn(64)}
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), tensors)
    plan = convert.plan_dequantize(tmp_path / "model", tmp_path / "out")
    assert plan.dtype_name == "bfloat16"
    convert.dequantize(tmp_path / "model", tmp_path / "out")
    assert_same_tensors(load_all(tmp_path / "out"), {name: value.to(torch.bfloat16) for name, value in tensors.items()})


def test_the_small_files_come_along(packed: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    convert.dequantize(packed, tmp_path / "out")
    copied = ["LICENSE.txt", "additional_chat_templates/tool_use.jinja", "chat_template.jinja"]
    copied += ["generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    written = {"README.md", "config.json", "model.safetensors"}
    assert set(hashes(tmp_path / "out")) == written | set(copied)
    assert {name: hashes(tmp_path / "out")[name] for name in copied} == {name: hashes(packed)[name] for name in copied}
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("Once upon a time").input_ids
    assert ids == AutoTokenizer.from_pretrained(packed)("Once upon a time").input_ids
    for folder in ("original", ".cache", "__pycache__"):
        (packed / folder).mkdir()
    assert "not copied: `sample.png`, `original/`" in convert.plan_dequantize(packed, tmp_path / "other").notes


def test_the_card_keeps_front_matter_and_text_and_says_what_was_made_of_what(packed: Path, tmp_path: Path) -> None:
    convert.dequantize(packed, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    matter, text = CARD.split("---\n\n")
    assert card.startswith(f"{matter}---\n\n## How these weights were made\n")
    assert card.endswith(text)
    assert re.search(r"Dequantized from `llama-nf4`: 14 of 21 tensors were packed by bitsandbytes", card)
    assert "All floating-point tensors are float16." in card


def test_a_model_from_the_hubs_cache_is_called_by_its_name(packed: Path, tmp_path: Path) -> None:
    """Its directory is called after a commit, and its files are links."""
    repository = tmp_path / "hub" / "models--org--llama-nf4"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(packed, snapshot)
    (repository / "blobs").mkdir()
    for path in [path for path in snapshot.rglob("*") if path.is_file()]:
        blob = repository / "blobs" / sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    convert.dequantize(snapshot, tmp_path / "out")
    convert.dequantize(packed, tmp_path / "plain" / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Dequantized from `org/llama-nf4`: " in card
    ours, plain = hashes(tmp_path / "out"), hashes(tmp_path / "plain" / "out")
    assert {**ours, "README.md": ""} == {**plain, "README.md": ""}


_NEW_CARD: Final = "---\nlibrary_name: transformers\n---\n\n# out\n\n## How"


@pytest.mark.parametrize(
    ("original", "starts", "ends"),
    [
        (None, _NEW_CARD, "float16.\n"),
        ("", _NEW_CARD, "float16.\n"),
        ("# A title\n", "\n## How these weights were made\n\nThe weights are those of `model`; all", "\n\n# A title\n"),
        ("---\nlicense: mit\n---", "---\nlicense: mit\n---\n\n## How", "float16.\n\n"),
        ("---\nnever closed\n", "\n## How", "\n\n---\nnever closed\n"),
        ("\ufeff---\r\na: 1\r\n---\r\ntext", "\ufeff---\r\na: 1\r\n---\r\n\n## How", "\n\ntext"),
    ],
)
def test_a_card_of_any_kind_is_kept(
    original: str | None, starts: str, ends: str, tiny_llama: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    if original is not None:
        (model / "README.md").write_bytes(original.encode())
    convert.dequantize(model, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_bytes().decode()
    assert card.startswith(starts)
    assert card.endswith(ends)


CONFIGS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "new spelling": ({"dtype": "float32"}, {"dtype": "bfloat16"}),
    "old spelling": ({"dtype": ..., "torch_dtype": "float16"}, {"torch_dtype": "bfloat16"}),
    "both": ({"dtype": "float32", "torch_dtype": "float32"}, {"dtype": "bfloat16", "torch_dtype": "bfloat16"}),
    "neither": ({"dtype": ...}, {"torch_dtype": "bfloat16"}),
    "in a part": (
        {"text_config": {"torch_dtype": "float16", "quantization_config": {}, "x": [1]}, "dtype": "float16"},
        {"text_config": {"torch_dtype": "bfloat16", "x": [1]}, "dtype": "bfloat16"},
    ),
    "traces": ({"compression_config": None, "_pre_quantization_dtype": "float16"}, {"dtype": "bfloat16"}),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_the_config_is_that_of_a_plain_model(case: str, tmp_path: Path) -> None:
    import torch

    changes, expected = CONFIGS[case]
    config = tiny_config(**changes)
    config = {key: value for key, value in config.items() if value is not ...}
    write_safetensors_checkpoint(tmp_path / "model", config, {"a": torch.ones(4)})
    convert.dequantize(tmp_path / "model", tmp_path / "out", dtype="bf16")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    gone = {"quantization_config", "compression_config", "_pre_quantization_dtype", "dtype", "torch_dtype"}
    assert written == {key: value for key, value in config.items() if key not in gone} | expected


@pytest.mark.parametrize("where", ["itself", "inside", "by a link"])
def test_the_models_own_directory_is_refused(where: str, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(packed)
    outdir = {"itself": packed, "inside": packed / "out", "by a link": tmp_path / "link" / "out"}[where]
    before = hashes(packed)
    with pytest.raises(UsageError, match=r"is the model's own directory|is inside the model's directory"):
        convert.dequantize(packed, outdir)
    assert hashes(packed) == before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model-00001-of-00002.safetensors", "notes.txt"])
def test_files_of_others_are_an_error_even_with_force(name: str, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"mine")
    with pytest.raises(OutputError, match=f"holds what this run would not write: `{re.escape(name)}`"):
        convert.dequantize(packed, tmp_path / "out", force=True)
    assert hashes(tmp_path / "out") == {name: sha256(b"mine").hexdigest()}


def test_a_file_in_the_directorys_place_is_an_error(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(OutputError, match="out` is a file, wanted a directory"):
        convert.dequantize(packed, tmp_path / "out", force=True)
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_file_that_is_no_safetensors_file_is_never_replaced(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"mine, and longer than eight bytes")
    with pytest.raises(OutputError, match="is there already, and no safetensors file"):
        convert.dequantize(packed, tmp_path / "out", force=True)


def test_equal_files_are_kept_and_others_need_force(packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert.dequantize(packed, out, max_shard_size="100KB")
    before, inodes = hashes(out), {path: path.stat().st_ino for path in out.iterdir()}
    report = convert.dequantize(packed, out, max_shard_size="100KB")
    assert not any(output.written for output in report.outputs)
    assert {path: path.stat().st_ino for path in out.iterdir()} == inodes
    shard = sorted(out.glob("model-*.safetensors"))[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (out / "config.json").unlink()
    with pytest.raises(OutputError, match=f"{shard.name}` already there, and not what this run would make") as caught:
        convert.dequantize(packed, out, max_shard_size="100KB")
    assert caught.value.hint == "--force replaces; or choose another directory"
    assert not (out / "config.json").exists()
    convert.dequantize(packed, out, max_shard_size="100KB", force=True)
    assert hashes(out) == before


def test_a_changed_tokenizer_is_not_overwritten(packed: Path, tmp_path: Path) -> None:
    convert.dequantize(packed, tmp_path / "out")
    (tmp_path / "out" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(OutputError, match=r"tokenizer_config\.json` already there"):
        convert.dequantize(packed, tmp_path / "out")


def test_too_small_a_disk_is_an_error_before_the_first_shard(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = convert.plan_dequantize(packed, tmp_path / "out", max_shard_size="50KB")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=plan.nbytes - 1))
    with pytest.raises(OutputError, match=f"the outputs need {plan.nbytes} bytes") as caught:
        carry_out_dequantize(plan)
    assert caught.value.hint == "make room, or choose another directory"
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_midway_keeps_whole_shards_and_no_config(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_pwrite, calls = os.pwrite, iter(range(1_000_000))

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if next(calls) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_pwrite(fd, data, offset)

    convert.dequantize(packed, tmp_path / "whole", max_shard_size="100KB")
    whole = hashes(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OutputError, match="the disk is full"):
            convert.dequantize(packed, tmp_path / "out", max_shard_size="100KB")
    left = hashes(tmp_path / "out")
    assert left
    assert left.items() < whole.items()
    assert all(name.endswith(".safetensors") for name in left)
    report = convert.dequantize(packed, tmp_path / "out", max_shard_size="100KB")
    assert {output.path.name for output in report.outputs if not output.written} == set(left)
    assert hashes(tmp_path / "out") == whole


@pytest.fixture(scope="module")
def large(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of 340 MB in bfloat16: eight Linear layers and some small tensors."""
    import torch

    torch.manual_seed(2)
    rows = torch.randn(512, 5120).to(torch.bfloat16)
    tensors = {f"model.layers.{index}.mlp.up_proj.weight": rows.repeat(8, 1) * (index + 1) for index in range(8)}
    tensors["model.norm.weight"] = torch.ones(5120, dtype=torch.bfloat16)
    folder = tmp_path_factory.mktemp("large") / "large"
    write_safetensors_checkpoint(folder, json.loads((tiny_llama / "config.json").read_text()), tensors)
    return folder


def test_killed_at_any_moment_the_next_run_makes_what_is_missing(large: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", ("--through", "nf4-dq", "--max-shard-size", "50MB")
    for n_whole in (1, 3):
        process = subprocess.Popen(command(large, out, *options), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list(out.glob("model-*"))) < n_whole and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert not (out / "config.json").exists()
        assert not (out / "model.safetensors.index.json").exists()
    kept = {path: path.stat().st_ino for path in out.glob("model-*")}
    assert 3 <= len(kept) < 9
    assert run(large, out, *options).returncode == 0
    assert {path: path.stat().st_ino for path in kept} == kept
    assert run(large, tmp_path / "clean" / "out", *options).returncode == 0
    assert hashes(out) == hashes(tmp_path / "clean" / "out")
    shutil.rmtree(out)
    shutil.rmtree(tmp_path / "clean")


def test_interrupted_it_keeps_whole_shards_and_says_so(large: Path, tmp_path: Path) -> None:
    arguments = command(large, tmp_path / "out", "--through", "nf4-dq", "--max-shard-size", "50MB")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("model-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted; no partial file is left"
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left
    assert all(re.fullmatch(r"model-0000\d-of-00008\.safetensors", name) for name in left)
    shutil.rmtree(tmp_path / "out")


# From a small process, since a child's peak begins with its parent's.
_MEASURED: Final = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.parametrize("options", [("--through", "nf4-dq", "--dtype", "f32"), ("--through", "int8")], ids=str)
def test_memory_stays_below_512_mb_with_many_workers(options: tuple[str, ...], large: Path, tmp_path: Path) -> None:
    arguments = command(large, tmp_path / "out", *options, "--jobs", "16")
    result = subprocess.run([sys.executable, "-c", _MEASURED, *arguments], capture_output=True, text=True, check=True)
    code, peak = map(int, result.stdout.split())
    assert code == 0
    assert peak < 512_000_000
    shutil.rmtree(tmp_path / "out")


def test_what_a_run_of_another_shard_size_left_is_removed(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".model-00001-of-00031.safetensors.partial").write_bytes(b"half")
    convert.dequantize(packed, tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))


def _link_out(packed: Path) -> None:
    secret = packed.parent / "secret.txt"
    secret.write_text("not yours")
    (packed / "notes.txt").symlink_to(secret)


def _pointer(packed: Path) -> None:
    (packed / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def _huge(packed: Path) -> None:
    with (packed / "vocab.txt").open("wb") as file:
        file.truncate(200 << 20)


def _huge_card(packed: Path) -> None:
    with (packed / "README.md").open("wb") as file:
        file.truncate(17 << 20)


def _no_config(packed: Path) -> None:
    (packed / "config.json").unlink()


HOSTILE: Final[dict[str, tuple[Callable[[Path], None], str]]] = {
    "a link out of the checkpoint": (_link_out, r"notes\.txt` is a link out of the checkpoint"),
    "a git-lfs pointer": (_pointer, r"tokenizer\.json` is a git-lfs pointer"),
    "too large a file": (_huge, r"vocab\.txt` and the other files to copy have over 134217728 bytes"),
    "too large a card": (_huge_card, r"README\.md` .*over"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_side_files_are_errors_before_any_output(case: str, packed: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    change(packed)
    with pytest.raises(CheckpointError, match=message):
        convert.dequantize(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_config_is_an_error(tmp_path: Path) -> None:
    import torch

    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), {"a": torch.ones(4)})
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json` does not exist"):
        convert.dequantize(tmp_path / "model", tmp_path / "out")


def test_a_name_that_safetensors_cannot_hold_is_an_error(tmp_path: Path) -> None:
    import torch

    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), {"a": torch.ones(4)})
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"a": torch.ones(4), "__metadata__": torch.ones(4)}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a tensor is called `__metadata__`, which safetensors cannot hold"):
        convert.dequantize(tmp_path / "model", tmp_path / "out")


def test_a_torch_checkpoint_with_tied_names_keeps_both(tmp_path: Path) -> None:
    import torch

    shared = torch.randn(8, 4).to(torch.bfloat16)
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), {"a": torch.ones(4)})
    (tmp_path / "model" / "model.safetensors").unlink()
    tensors = {"embed.weight": shared, "lm_head.weight": shared, "turned": torch.randn(5, 3).to(torch.bfloat16).T}
    torch.save(tensors, tmp_path / "model" / "pytorch_model.bin")
    convert.dequantize(tmp_path / "model", tmp_path / "out")
    assert_same_tensors(load_all(tmp_path / "out"), {name: value.contiguous() for name, value in tensors.items()})


def test_float8_without_a_quantization_config_is_an_error(tmp_path: Path) -> None:
    import torch

    tensors = {"a.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "b.weight": torch.ones(4, 4)}
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), tensors)
    with pytest.raises(convert.ConvertError, match=r"`a\.weight`|F8_E4M3|fp8") as error:
        convert.dequantize(tmp_path / "model", tmp_path / "out")
    assert error.value.exit_code in (3, 4)


def test_float16_overflow_names_the_place_and_the_dtype_that_keeps_it(tmp_path: Path) -> None:
    import torch

    value = torch.zeros(8, 8)
    value[3, 7] = 70000.0
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), {"a.weight": value})
    with pytest.raises(WeightsError) as error:
        convert.dequantize(tmp_path / "model", tmp_path / "out", dtype="f16")
    expected = "tensor `a.weight` has 1 values beyond float16 (65504), the first is 70000 at [3, 7]"
    assert error.value.message == expected
    assert "--dtype bf16" in str(error.value.hint)
    convert.dequantize(tmp_path / "model", tmp_path / "out", dtype="f16", allow_nonfinite=True)
    assert torch.isinf(load_all(tmp_path / "out")["a.weight"][3, 7])


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("5GB", 5 * 10**9), ("500 mb", 5 * 10**8), ("0.5GiB", 2**29), ("100KiB", 102_400), ("1e6", 10**6), (7, 7)],
)
def test_sizes_are_read_as_transformers_reads_them(text: str | int, nbytes: int) -> None:
    assert parse_size(text) == nbytes


def test_a_dtype_may_be_spelled_as_in_a_config(packed: Path, tmp_path: Path) -> None:
    spellings = [("f16", "float16"), ("bf16", "BFloat16"), ("f32", "float32")]
    for short, long in spellings:
        plans = [convert.plan_dequantize(packed, tmp_path / "out", dtype=dtype) for dtype in (short, long)]
        assert plans[0].dtype is plans[1].dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "f8"}, "unknown dtype `f8`"),
        ({"max_shard_size": "5 parsecs"}, "`5 parsecs` is not a size"),
        ({"max_shard_size": "0GB"}, "the shards' size is 0 bytes"),
        ({"max_shard_size": "nanGB"}, "`nanGB` is not a size"),
        ({"max_shard_size": "1B"}, "is not a size"),
    ],
)
def test_arguments_that_make_no_sense_are_usage_errors(
    options: dict[str, Any], message: str, tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        convert.dequantize(tiny_llama, tmp_path / "out", **options)


@pytest.mark.filterwarnings("ignore")  # what peft and transformers say about each other
def test_an_adapter_is_merged_onto_what_it_was_trained_on(tmp_path: Path) -> None:
    """`--through nf4 --merge` is peft's merge into the model that bitsandbytes gave it."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    plain = AutoModelForCausalLM.from_config(_llama(), dtype=torch.float16)
    plain.save_pretrained(tmp_path / "model")
    adapted = get_peft_model(plain, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    convert.dequantize(tmp_path / "model", tmp_path / "base", through="nf4", dtype="f16")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().state_dict()
    convert.dequantize(tmp_path / "model", tmp_path / "out", through="nf4", merge=tmp_path / "adapter")
    ours = load_all(tmp_path / "out")
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        assert value.dtype == torch.float16
        torch.testing.assert_close(value.float(), expected[name], rtol=2**-10, atol=2**-24)
    assert "Then the adapter `adapter` was merged" in (tmp_path / "out" / "README.md").read_text()
    adapter_config = tmp_path / "adapter" / "adapter_config.json"
    named = {**json.loads(adapter_config.read_text()), "base_model_name_or_path": "../model"}
    adapter_config.write_text(json.dumps(named))
    convert.dequantize(tmp_path / "adapter", tmp_path / "again" / "out", through="nf4")
    assert hashes(tmp_path / "again" / "out") == hashes(tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_a_vocabulary_that_an_adapter_resized_goes_into_config_and_tokenizer(tiny_llama: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_tokens(["<one>", "<two>", "<three>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["v_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    convert.dequantize(tiny_llama, tmp_path / "out", merge=[tmp_path / "adapter"])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.vocab_size == len(tokenizer)
    assert loaded.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<three>") == len(tokenizer) - 1


def test_the_command_shows_the_plan_then_the_files_on_stderr(packed: Path, tmp_path: Path) -> None:
    result = run(packed, tmp_path / "out")
    assert (result.returncode, result.stdout) == (0, "")
    shown = result.stderr
    assert shown.index("LlamaForCausalLM") < shown.index("Dequantized from `llama-nf4`") < shown.index(" files, ")
    for path in (tmp_path / "out").iterdir():
        assert path.is_dir() or shown.count(str(path)) == 2
    again = run(packed, tmp_path / "out").stderr
    assert "kept: complete, and equal to the plan" in again


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
        (["--through", "nf4"], 2, "--through takes a 16-bit checkpoint"),
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
