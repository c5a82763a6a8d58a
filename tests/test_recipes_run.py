"""The recipes of this project, each on small models; and many models, of which some fail or are there already."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from click.testing import CliRunner
from front_end_checkpoints import write_front_end_checkpoint
from peft_adapters import write_adapter

import convert
from convert.cli import cli
from convert.errors import CheckpointError, ConfigError, ConvertError, OutputError
from convert.plan import parse_types
from convert.recipe import LOCK_FILE, Asked
from convert.recipe.fleet import carry_out_batches
from convert.recipe.read import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result
    from reference import Reference

RECIPES: Final = Path(__file__).parent.parent / "recipes"
TEXT: Final = "Once there was a cat that ran to the house and saw a red ball. " * 160


def run(*words: object) -> Result:
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, (ConvertError, SystemExit)):
        raise result.exception
    return result


def sha256s(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.glob("*.gguf")}


def locked(directory: Path) -> set[str]:
    works = json.loads((directory / LOCK_FILE).read_text())["works"]
    return {output["name"] for work in works for output in work["outputs"]}


@pytest.fixture
def place(tiny_llama: Path, tmp_path: Path) -> Path:
    """Return a folder with the recipes, a model and a text, as the recipes name them."""
    for recipe in RECIPES.glob("*.toml"):
        shutil.copyfile(recipe, tmp_path / recipe.name)
    shutil.copytree(tiny_llama, tmp_path / "models" / "llama")
    (tmp_path / "calibration.txt").write_text(TEXT)
    (tmp_path / "sample.txt").write_text(TEXT[: len(TEXT) // 2])
    return tmp_path


def test_every_recipe_is_run_here() -> None:
    named = {path.stem for path in RECIPES.glob("*.toml")}
    assert named == {"every_type", "family", "fleet", "qlora", "vision"}


def test_every_type_of_one_model(place: Path, reference: Reference) -> None:
    del reference
    assert run("recipe", "run", place / "every_type.toml").exit_code == 0
    out = place / "quantized" / "llama"
    made = {f"llama-{kind.name}.gguf" for kind in parse_types("all")}
    assert locked(out) == made
    assert set(sha256s(out)) == made | {"llama-imatrix.gguf"}
    assert convert.inspect(out / "llama-Q4_K_M.gguf").metadata["quantize.imatrix.file"] == "llama-imatrix.gguf"
    assert run("reproduce", out).stdout.count("equal") == len(made)


def test_a_qlora_run_is_merged_into_what_it_was_trained_on(place: Path) -> None:
    write_adapter(place / "models" / "llama", place / "adapters" / "qlora", r=4, target_modules="all-linear")
    result = run("recipe", "run", place / "qlora.toml")
    assert result.exit_code == 0, result.stderr
    upscaled = place / "by-hand" / "llama"
    run("dequantize", place / "models" / "llama", upscaled, "--through", "nf4", "--dtype", "f16")
    types = "f16,q8_0,q4_k_m"
    run("all", upscaled, place / "by-hand" / "out", "--merge", place / "adapters" / "qlora", "--types", types)
    assert sha256s(place / "quantized" / "llama") == sha256s(place / "by-hand" / "out")


def test_a_family_with_importance_is_held_to_limits(place: Path, reference: Reference) -> None:
    del reference
    recipe = (place / "family.toml").read_text().replace(', "iq4_xs", "iq3_xxs"', "").replace(", iq3_xxs = 0.5", "")
    (place / "family.toml").write_text(recipe + "chunks = 2\nruns = 1\n")
    result = run("recipe", "run", place / "family.toml")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count(" sound") == 3  # with the importance matrix
    assert "KL divergence" in result.stdout
    assert "Q4_K_M" in (place / "quantized" / "llama" / "report.md").read_text()


def test_a_model_that_sees_and_its_projector(place: Path, reference_source: Path) -> None:
    assert reference_source.is_dir()
    made = write_front_end_checkpoint("Qwen2VLForConditionalGeneration", place / "made")
    made.rename(place / "models" / "vision")
    assert run("recipe", "run", place / "vision.toml").exit_code == 0
    wanted = {"vision-F16.gguf", "vision-Q4_K_M.gguf", "mmproj-vision-F16.gguf"}
    assert locked(place / "quantized" / "vision") == wanted


def test_a_fleet_lists_what_failed_and_makes_nothing_twice(place: Path) -> None:
    shutil.copytree(place / "models" / "llama", place / "models" / "broken")
    (place / "models" / "broken" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    shutil.copytree(place / "models" / "llama", place / "checkpoints" / "mine" / "final")
    first = run("recipe", "run", place / "fleet.toml")
    assert isinstance(first.exception, ConfigError)
    assert "1 of 3 models failed:\n  broken: " in first.stderr
    assert sorted(path.name for path in (place / "quantized").iterdir()) == ["final", "llama"]
    times = {path: path.stat().st_mtime_ns for path in (place / "quantized").rglob("*")}
    shutil.copyfile(place / "models" / "llama" / "config.json", place / "models" / "broken" / "config.json")
    second = run("recipe", "run", place / "fleet.toml")
    assert second.exit_code == 0
    assert second.stderr.count("made already") == 2
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize("change", ["input", "output", "option", "version"])
def test_what_is_not_the_same_is_made_again(change: str, place: Path) -> None:
    (place / "models" / "llama").rename(place / "llama")
    recipe, out = place / "small.toml", place / "quantized" / "llama"
    recipe.write_text('models = "llama"\noutdir = "quantized/{model}"\ntypes = ["f16", "q8_0"]\n')
    run("recipe", "run", recipe)
    if change == "input":
        config = place / "llama" / "config.json"
        config.write_text(config.read_text() + "\n")
    elif change == "output":
        (out / "llama-Q8_0.gguf").unlink()
    elif change == "option":
        recipe.write_text(recipe.read_text() + "discard-f16 = true\n")
    else:
        lock = out / LOCK_FILE
        lock.write_text(lock.read_text().replace('"numpy": "', '"numpy": "0.'))
    again = run("recipe", "run", recipe)
    assert again.exit_code == 0
    assert "made already" not in again.stderr


@pytest.mark.parametrize(
    ("error", "n_calls"),
    [(OutputError("full"), 3), (CheckpointError("the network"), 3), (ConfigError("no config"), 1)],
)
def test_what_may_pass_is_tried_again_after_longer_waits(
    error: ConvertError, n_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    calls: list[Asked] = []

    def make(asked: Asked) -> None:
        calls.append(asked)
        if asked.command == "verify":
            raise error

    batches = [Batch(name, (Asked("verify", {}), Asked("later", {}))) for name in "ab"]
    failures = carry_out_batches(batches, make, tell=lambda _: None, retries=2)
    assert [(failure.name, failure.error) for failure in failures] == [("a", error), ("b", error)]
    assert [asked.command for asked in calls] == ["verify"] * n_calls * 2
    assert waits == [5.0, 10.0] * (2 if n_calls > 1 else 0)


def test_a_step_that_works_at_last_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    said: list[str] = []

    def make_from(errors: list[ConvertError]) -> Callable[[Asked], None]:
        def make(asked: Asked) -> None:
            if errors:
                raise errors.pop()
            said.append(asked.command)

        return make

    batch = Batch("a", (Asked("first", {}), Asked("second", {})))
    assert carry_out_batches([batch], make_from([OutputError("x")]), tell=lambda _: None, retries=1) == ()
    assert said == ["first", "second"]
