"""Models that are not on this disk: the same files come out as from the downloaded snapshot, by ranges."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner
from peft_adapters import write_adapter
from remote_double import COMMIT, Double, lead_here, remote_double
from safetensors.torch import load_file, save_file

import convert
from convert.cli import cli
from convert.errors import UnsupportedError
from convert.inspection import inspect
from convert.remote import located

if TYPE_CHECKING:
    from collections.abc import Iterator


PROJECT = Path(__file__).parent.parent


@pytest.fixture
def models(tiny_llama: Path, tmp_path: Path) -> Path:
    """Return a folder for the models of a double, `tiny` in it."""
    shutil.copytree(tiny_llama, tmp_path / "models" / "tiny")
    return tmp_path / "models"


@pytest.fixture
def hub(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """Return the Hub's double, asked by this process; it serves what is in the folder as `me/…`."""
    with remote_double({}) as double:
        double.models = _Folder(models)
        lead_here(double, monkeypatch, tmp_path / "home")
        monkeypatch.chdir(tmp_path)
        yield double


class _Folder(dict[str, "Path"]):
    """The models in a folder, as they come."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
        directory = self._folder / name.removeprefix("me/")
        return directory if directory.is_dir() else default

    def __getitem__(self, name: str) -> Path:
        return self._folder / name.removeprefix("me/")


def digests(directory: Path) -> dict[str, str]:
    """Return the sha256 of every file of a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def local_and_remote(models: Path, tmp_path: Path, name: str, *, types: str = "f16,q8_0") -> tuple[Path, Path]:
    """Convert a model as it was downloaded, to a directory of its name, and from the Hub; returns the directories."""
    for source, out in ((models / name, "local"), (f"hf://me/{name}", "remote")):
        convert.convert_all(source, convert.OutputRequest(tmp_path / out, types=types))
    return tmp_path / "local", tmp_path / "remote"


def test_the_files_are_those_of_the_downloaded_snapshot(hub: Double, models: Path, tmp_path: Path) -> None:
    local, remote = local_and_remote(models, tmp_path, "tiny")
    assert digests(remote) == digests(local)
    assert [path.name for path in sorted(remote.iterdir())] == ["tiny-F16.gguf", "tiny-Q8_0.gguf"]
    assert hub.sent < 1.1 * (models / "tiny" / "model.safetensors").stat().st_size + 200_000


def test_shards_and_torch_files_are_read_by_ranges_too(hub: Double, models: Path, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(models / "tiny" / "model.safetensors").items()}
    names = sorted(tensors)
    for model, save, pattern in (
        ("sharded", save_file, "model-{:05}-of-00002.safetensors"),
        ("torch", torch.save, "pytorch_model-{:05}-of-00002.bin"),
    ):
        shutil.copytree(models / "tiny", models / model, ignore=shutil.ignore_patterns("*.safetensors"))
        weight_map: dict[str, str] = {}
        for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
            save({name: tensors[name] for name in part}, models / model / pattern.format(number))
            weight_map |= dict.fromkeys(part, pattern.format(number))
        index = pattern.partition("-")[0] + pattern[-len(pattern.rpartition(".")[2]) - 1 :] + ".index.json"
        (models / model / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        shutil.rmtree(tmp_path / "local", ignore_errors=True)
        shutil.rmtree(tmp_path / "remote", ignore_errors=True)
        before = hub.sent
        local, remote = local_and_remote(models, tmp_path, model)
        assert digests(remote) == digests(local)
        assert hub.sent - before < 5_000_000  # once, with headers


def test_transposed_tensors_of_a_torch_file_are_read_by_ranges(hub: Double, models: Path, tmp_path: Path) -> None:
    tensors = dict(load_file(models / "tiny" / "model.safetensors"))
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name] = tensors[name].T.contiguous().T
    shutil.copytree(models / "tiny", models / "odd", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(tensors, models / "odd" / "pytorch_model.bin")
    local, remote = local_and_remote(models, tmp_path, "odd")
    assert digests(remote) == digests(local)
    assert hub.requests


def test_an_adapter_on_the_hub_is_merged(hub: Double, models: Path, tmp_path: Path) -> None:
    write_adapter(models / "tiny", models / "adapter", r=4, target_modules="all-linear")
    plain = convert.model_request(models / "tiny", merge=f"{models / 'adapter'}:0.5")
    remote = convert.model_request("hf://me/tiny", merge=f"hf://me/adapter@{COMMIT}:0.5")
    for request, out in ((plain, "local"), (remote, "remote")):
        convert.convert_all(request, convert.OutputRequest(tmp_path / out, types="q8_0", name="m"))
    assert hub.requests
    local = {**digests(tmp_path / "local")}
    assert digests(tmp_path / "remote") == local


def test_a_gguf_on_the_hub_is_quantized_and_inspected(hub: Double, models: Path, tmp_path: Path) -> None:
    (models / "m-GGUF").mkdir()
    path = models / "m-GGUF" / "m-F16.gguf"
    convert.convert_one(models / "tiny", path)
    for source, out in ((path, "local"), ("hf://me/m-GGUF/m-F16.gguf", "remote")):
        convert.quantize(source, convert.OutputRequest(tmp_path / out, types="q4_0"))
    assert digests(tmp_path / "remote") == digests(tmp_path / "local")
    remote, local = inspect("hf://me/m-GGUF/m-F16.gguf"), inspect(path)
    assert remote.path == f"hf://me/m-GGUF@{COMMIT}/m-F16.gguf"
    assert (remote.metadata, remote.tensors) == (local.metadata, local.tensors)
    assert hub.sent < 3 * path.stat().st_size


def test_a_gguf_in_parts_on_the_hub_is_quantized(hub: Double, models: Path, tmp_path: Path) -> None:
    convert.convert_one(models / "tiny", tmp_path / "m-F16.gguf")
    (models / "parts").mkdir()
    words = ["split", str(tmp_path / "m-F16.gguf"), str(models / "parts"), "--split-max-tensors", "12"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    first = min((models / "parts").rglob("*.gguf"))
    address = f"hf://me/parts/{first.relative_to(models / 'parts').as_posix()}"
    for source, out in ((first, "local"), (address, "remote")):
        convert.quantize(source, convert.OutputRequest(tmp_path / out, types="q4_0"))
    assert digests(tmp_path / "remote") == digests(tmp_path / "local")
    assert len({line.partition("?")[0] for line in hub.requests if line.startswith("/me/parts/m")}) > 1


def test_a_packed_model_on_the_hub_is_dequantized(
    hub: Double, models: Path, packed_llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(packed_llama, models / "packed")
    for source, out in ((str(models / "packed"), "local"), ("hf://me/packed", "remote")):
        result = CliRunner().invoke(cli, ["dequantize", source, str(tmp_path / out / "plain")])
        assert result.exit_code == 0, result.exception
    remote, local = digests(tmp_path / "remote" / "plain"), digests(tmp_path / "local" / "plain")
    cards = remote.pop("README.md"), local.pop("README.md")
    assert remote == local
    assert cards[0] != cards[1]  # one is made of `me/packed`, the other of `packed`
    ranges = [line for line in hub.requests if line.startswith("/me/packed/model.safetensors?")]
    assert len(ranges) < 40  # what each of 14 weights says of itself is fetched together


def test_programs_of_llama_cpps_are_not_given_what_is_elsewhere(hub: Double, models: Path) -> None:
    shutil.copytree(models / "tiny", models / "tiny-GGUF")
    (models / "tiny-GGUF" / "m-F16.gguf").write_bytes(b"GGUF")
    given = ["quantize", "hf://me/tiny-GGUF/m-F16.gguf", "out", "--with", "llama.cpp", "--types", "q4_0"]
    error = CliRunner().invoke(cli, given).exception
    assert isinstance(error, UnsupportedError)
    assert error.message.endswith("m-F16.gguf` is not on this disk, and llama.cpp's programs read no other")
    assert not hub.requests


@pytest.mark.parametrize(
    "asked", ["me/tiny", "me/tiny@v1.0", "hf://me/tiny@refs/pr/1", "https://huggingface.co/me/tiny/tree/main"]
)
def test_the_plans_first_line_says_where_from(asked: str, hub: Double) -> None:
    result = CliRunner().invoke(cli, ["all", asked, "out", "--dry-run"])
    assert result.exit_code == 0, result.exception
    assert result.stdout.split("\n")[0].startswith(f"source   hf://me/tiny@{COMMIT}, read by ranges  (3.67 MB")
    assert hub.requests[0] != f"/api/models/me/tiny/revision/{COMMIT}?blobs=true"
    assert all(f"/resolve/{COMMIT}/" in line or line.startswith(("/api", "/me/tiny/model")) for line in hub.requests)


def test_a_path_that_is_here_is_not_asked_for_elsewhere(hub: Double, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "tiny", tmp_path / "me" / "tiny")
    (tmp_path / "me" / "other").mkdir()
    result = CliRunner().invoke(cli, ["all", "me/tiny", "out", "--dry-run"])
    assert result.stdout.startswith(f"source   {tmp_path}/me/tiny  (")
    assert "does not exist" in str(CliRunner().invoke(cli, ["all", "me/tinny", "out"]).exception)
    assert not hub.requests


def test_the_commit_lies_where_a_download_leaves_it(hub: Double) -> None:
    told = Path(located("hf://me/tiny")) / ".cache" / "huggingface" / "download" / "config.json.metadata"
    assert told.read_text().splitlines()[0] == COMMIT
    assert hub.requests


def test_a_second_run_fetches_no_small_file_again(hub: Double) -> None:
    for _ in range(2):
        hub.requests.clear()
        inspect("hf://me/tiny")
    assert [line for line in hub.requests if ".json" in line] == []


def test_no_weights_lie_on_the_disk(hub: Double, models: Path, tmp_path: Path) -> None:
    """102 MB, of which no file may become longer than 50: the outputs are not, and what is cached is small."""
    config = json.loads((models / "tiny" / "config.json").read_text()) | {"intermediate_size": 1 << 15}
    zeros = write_zeros(models / "tiny", models / "zeros", config)
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(PROJECT)}
    subprocess.run(
        [sys.executable, "-m", "convert", "all", "hf://me/zeros", tmp_path / "out", "--types", "q4_0"],
        env={**environment, "TMPDIR": str(tmp_path / "home")},
        check=True,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, 50_000_000)),
    )
    cached = sum(path.stat().st_size for path in (tmp_path / "home").rglob("*") if path.is_file())
    assert zeros.stat().st_size > 100_000_000
    assert hub.sent > zeros.stat().st_size
    assert cached < 200_000


def write_zeros(base: Path, directory: Path, config: dict[str, int]) -> Path:
    """Write a model whose weights are zeros that take no room, with a config's larger feed-forward layers."""
    shutil.copytree(base, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    (directory / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, tensor in load_file(base / "model.safetensors").items():
        wide = {"gate_proj": 0, "up_proj": 0, "down_proj": 1}
        grown = next((axis for part, axis in wide.items() if part in name), None)
        shape = [config["intermediate_size"] if axis == grown else n for axis, n in enumerate(tensor.shape)]
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end := end + 2 * prod(shape)]}
    encoded = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)
    return directory / "model.safetensors"


def test_a_large_model_is_inspected_by_its_headers_alone(hub: Double, models: Path) -> None:
    """20 shards of 35 GB, sparse: 700 GB are described by less than 3 MB."""
    shutil.copytree(models / "tiny", models / "large", ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((models / "large" / "config.json").read_text())
    (models / "large" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 20}))
    rows = 35_000_000_000 // 2 // 1024
    for number in range(1, 21):
        tensor = {"dtype": "F16", "shape": [rows, 1024], "data_offsets": [0, rows * 2048]}
        header = json.dumps({f"model.layers.{number}.w": tensor}).encode()
        path = models / "large" / f"model-{number:05}-of-00020.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with path.open("r+b") as file:
            file.truncate(8 + len(header) + rows * 2048)
    inspection = inspect("hf://me/large")
    assert inspection.stored == {"F16": 20 * rows * 2048}
    assert hub.sent < 3_000_000
