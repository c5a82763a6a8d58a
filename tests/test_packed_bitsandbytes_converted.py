"""bitsandbytes checkpoints convert to the files of their dequantized twins, and speak as those do."""

from __future__ import annotations

import json
import shutil
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import pytest
from bitsandbytes_checkpoints import (
    KINDS,
    SECTION,
    PackedAs,
    flat_values,
    model_values,
    pack_4bit,
    save_each_once,
    save_with_transformers,
)
from checkpoint_weights import make_weights, tensor_shapes
from packed_checkpoints import TINY_LLAMA, TOKENIZER_FILES, tiny_config, write_safetensors_checkpoint
from reference import complete

import convert
from convert.process import ask
from convert.verify import LlamaCpp, Measuring, verify_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from reference import Reference

    Stored = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory that transformers saved for a kind; made once."""
    return save_each_once(tmp_path_factory.mktemp("saved"))


def _hashes(directory: Path, out: Path) -> dict[str, str]:
    report = convert.convert_all(directory, out)
    return {output.path.name: sha256(output.path.read_bytes()).hexdigest() for output in report.outputs}


def _plain_twin(directory: Path, twin: Path, values: Mapping[str, torch.Tensor]) -> Path:
    config = json.loads((directory / "config.json").read_text())
    del config["quantization_config"]
    write_safetensors_checkpoint(twin, config, values)
    if (directory / "generation_config.json").exists():
        shutil.copyfile(directory / "generation_config.json", twin / "generation_config.json")
    return twin


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_those_of_the_dequantized_checkpoint(
    kind: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = saved(kind)
    twin = _plain_twin(directory, tmp_path / kind, model_values(directory, KINDS[kind]))
    assert _hashes(directory, tmp_path / "packed") == _hashes(twin, tmp_path / "plain")


MIXTRAL: Final = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4}


def test_a_mixtral_that_transformers_5_saved_converts_its_experts_being_plain(tmp_path: Path) -> None:
    directory = save_with_transformers(KINDS["nf4-dq"], tmp_path / "moe", model_type="mixtral", num_local_experts=4)
    for name in TOKENIZER_FILES:
        shutil.copyfile(TINY_LLAMA / name, directory / name)
    twin = _plain_twin(directory, tmp_path / "twin" / "moe", model_values(directory, KINDS["nf4-dq"]))
    assert _hashes(directory, tmp_path / "packed") == _hashes(twin, tmp_path / "plain")


@pytest.mark.parametrize("stacked", [False, True], ids=["an expert a tensor", "experts in one tensor"])
def test_packed_experts_convert_as_plain_ones(stacked: bool, tmp_path: Path) -> None:
    # One by one as transformers 4 saved them; in one, as bitsandbytes' replace_parameter_4bit names its parts.
    from checkpoint_weights import with_fused_experts

    config = tiny_config(**MIXTRAL, rope_theta=10000.0)
    weights = make_weights("packed-moe", tensor_shapes(config), "float16")
    weights = with_fused_experts(weights) if stacked else weights
    stored: Stored = {}
    for name, weight in weights.items():
        stored |= pack_4bit(name, weight, PackedAs("nf4", double=True)) if "experts" in name else {name: weight}
    packed = write_safetensors_checkpoint(tmp_path / "a" / "moe", {**config, "quantization_config": SECTION}, stored)
    values = {name: flat_values(stored, name) if "experts" in name else weights[name] for name in weights}
    twin = write_safetensors_checkpoint(tmp_path / "b" / "moe", config, values)
    assert _hashes(packed, tmp_path / "packed") == _hashes(twin, tmp_path / "plain")


# --- It speaks


@pytest.fixture(scope="module")
def stories(shared_fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return stories260K and its nf4 as q8_0 files."""
    out = tmp_path_factory.mktemp("stories")
    files = {name: out / f"{name}.gguf" for name in ("stories260K", "stories260K-nf4")}
    for name, path in files.items():
        convert.convert_one(shared_fixtures / name, path, type="q8_0")
    return files


def test_the_nf4_story_is_told_by_main(reference: Reference, stories: dict[str, Path]) -> None:
    texts = (complete(reference, stories["stories260K-nf4"], "Once upon a time", n_tokens=40) for _ in range(8))
    text = next((text for text in texts if len(text.split()) >= 24), "")  # the program loses its last words at times
    assert text.startswith("Once upon a time, there was a")
    assert {"named", "was", "a", "to"} <= set(text.replace(",", " ").replace(".", " ").split())


def test_the_nf4_perplexity_is_near_the_float_models(
    reference: Reference, stories: dict[str, Path], shared_fixtures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = LlamaCpp(reference.completion, reference.perplexity, partial(ask, timeout_s=300))
    text = shared_fixtures / "corpora" / "tinystories_sample.txt"
    verification = verify_files(list(stories.values()), measuring=Measuring(programs, text=text))
    verification.check()
    plain, packed = (file.measured.perplexity if file.measured else None for file in verification.files)
    assert plain is not None
    assert packed is not None
    with capsys.disabled():
        print(f"\n  q8_0 of stories260K: perplexity {plain:.4f}; of its nf4: {packed:.4f}, {packed / plain:.2%}")
    assert plain < packed < 1.25 * plain
