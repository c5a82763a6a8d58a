"""The recipes of this project, each on small models; and many models, of which some fail or are there already."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from click.testing import CliRunner
from front_end_checkpoints import write_front_end_checkpoint
from hub_double import TOKEN, hub_double
from remote_double import lead_here

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
    assert named == {"every_type", "family", "fleet", "qlora", "vision"}  # qlora: in test_recipe_published


def test_every_type_of_one_model(place: Path, reference: Reference) -> None:
    del reference
    assert run("recipe", "run", place / "every_type.toml").exit_code == 0
    out = place / "quantized" / "llama"
    made = {f"llama-{kind.name}.gguf" for kind in parse_types("all")}
    assert locked(out) == made
    assert set(sha256s(out)) == made | {"llama-imatrix.gguf"}
    assert convert.inspect(out / "llama-Q4_K_M.gguf").metadata["quantize.imatrix.file"] == "llama-imatrix.gguf"
    assert run("reproduce", out).stdout.count("equal") == len(made)


def test_a_family_with_importance_is_held_to_limits(place: Path, reference: Reference) -> None:
    del reference
    recipe = (place / "family.toml").read_text().replace(', "iq4_xs", "iq3_xxs"', "").replace(", iq3_xxs = 0.5", "")
    (place / "family.toml").write_text(recipe.replace("markdown = ", "chunks = 2\nruns = 1\nmarkdown = "))
    result = run("recipe", "run", place / "family.toml")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count(" sound") == 3  # with the importance matrix
    assert "KL divergence" in result.stdout
    figures = (place / "quantized" / "llama" / "report.md").read_text()
    assert "Q4_K_M" in figures
    assert f"## Measured\n\n{figures.strip()}\n" in (place / "quantized" / "llama" / "README.md").read_text()


def test_a_model_that_sees_and_its_projector_are_made_and_pushed_together(
    place: Path, reference_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reference_source.is_dir()
    made = write_front_end_checkpoint("Qwen2VLForConditionalGeneration", place / "made")
    made.rename(place / "models" / "vision")
    with (place / "vision.toml").open("a") as recipe:
        recipe.write('push-to-hub = "me/{model}-GGUF"\n')
    with hub_double() as hub:
        lead_here(hub, monkeypatch, place / "home", token=TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        result = run("recipe", "run", place / "vision.toml")
    assert result.exit_code == 0, result.stderr
    wanted = {"vision-F16.gguf", "vision-Q4_K_M.gguf", "mmproj-vision-F16.gguf"}
    assert locked(place / "quantized" / "vision") == wanted
    published = hub.repositories["me/vision-GGUF"]
    assert {name for name in published.files if name.endswith(".gguf")} == wanted
    assert "[mmproj-vision-F16.gguf](mmproj-vision-F16.gguf)" in published.contents["README.md"].decode()


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


def test_a_model_that_the_disk_has_no_room_for_waits_and_is_listed_with_why(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("second", "third"):
        shutil.copytree(place / "models" / "llama", place / "models" / name)
    recipe = place / "disk.toml"
    recipe.write_text('models = "models/*"\noutdir = "out/{model}"\ntypes = "q4_0"\n')
    usage, waits = shutil.disk_usage(place), list[float]()

    def disk_usage(_: object) -> object:
        """There is room for the first, for the second once it has waited, and for no third."""
        n_made = len(list((place / "out").glob(f"*/{LOCK_FILE}")))
        return usage._replace(free=4_000_000 if n_made == 0 or (n_made == 1 and waits) else 2_500_000)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    monkeypatch.setattr("time.sleep", waits.append)
    result = run("recipe", "run", recipe, "--retries", "1", "--keep-free", "2M")
    assert isinstance(result.exception, OutputError)
    assert waits == [5.0, 5.0]
    assert sorted(path.name for path in (place / "out").iterdir()) == ["llama", "second"]
    *_, listed = re.split(r"1 of 3 models failed:\n", result.stderr)
    assert re.search(
        r"^  third: the outputs need \d+ bytes, .* has 2500000 free, of which 2000000 are to stay so", listed
    )
