"""The memory that a card states, against what llama.cpp itself allocates."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Final

import pytest
from family_checkpoints import FAMILY_CHECKPOINTS
from family_making import save_family_checkpoint

import convert
from convert.gguf_file import read_gguf
from convert.memory.running import PROGRAM_NBYTES, cache_nbytes, memory_use, overhead_nbytes

if TYPE_CHECKING:
    from pathlib import Path

    from reference import Reference

MIB: Final = 1 << 20
# Plain; a window in most layers, by the architecture's rule and by a key; latent attention; rows of several widths.
FAMILIES: Final = ("gemma-3-1b-it", "gemma-3-every-second", "Olmo-3-7B", "DeepSeek-V3-all-sparse", "gpt-oss-20b")


def allocated(reference: Reference, model: Path, n_tokens: int) -> tuple[float, float]:
    """Let llama.cpp load a model: MiB of its caches, and of what it computes a batch in."""
    command = [str(reference.completion), "-m", str(model), "-c", str(n_tokens), "-n", "1", "-p", "a", "-v"]
    command += ["-no-cnv", "--no-warmup", "--no-repack", "-t", "1", "-fit", "off"]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=True, stdin=subprocess.DEVNULL
    )
    said = done.stdout + done.stderr
    caches = re.findall(r"CPU KV buffer size = +([\d.]+) MiB", said)
    computing = re.findall(r"compute buffer size = +([\d.]+) MiB", said)
    return sum(map(float, caches)), sum(map(float, computing))


@pytest.fixture(scope="module")
def models(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an F16 file of each family."""
    folder = tmp_path_factory.mktemp("memory")
    made = {"tiny-llama": tiny_llama}
    for name in FAMILIES:
        made[name] = folder / name
        save_family_checkpoint(FAMILY_CHECKPOINTS[name], folder / name)
    return {name: _f16(path, folder / f"{name}.gguf") for name, path in made.items()}


def _f16(checkpoint: Path, out: Path) -> Path:
    convert.convert_one(checkpoint, out, type="f16")
    return out


@pytest.mark.parametrize("name", ["tiny-llama", *FAMILIES])
def test_the_cache_is_what_llama_cpp_allocates_and_the_overhead_no_less(
    reference: Reference, models: dict[str, Path], name: str
) -> None:
    values = read_gguf(models[name]).metadata
    for n_tokens in (4096, 8192):
        cache, computing = allocated(reference, models[name], n_tokens)
        assert cache_nbytes(values, n_tokens) / MIB == pytest.approx(cache, abs=0.02)  # it prints two digits
        assert overhead_nbytes(values) - PROGRAM_NBYTES / 2 > computing * MIB


def test_a_model_of_a_short_context_is_counted_at_its_own(models: dict[str, Path]) -> None:
    values = read_gguf(models["tiny-llama"]).metadata
    (use,) = memory_use(values, 1000)
    assert use.n_tokens == values["llama.context_length"] == 512
    assert use.nbytes == 1000 + use.cache + use.overhead
