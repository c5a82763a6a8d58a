"""Recipes that publish: made, pushed and deleted; passed over where the Hub has it; interrupted and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from click.testing import CliRunner
from hub_double import Hub, hub_double
from huggingface_hub import ModelCard
from peft_adapters import write_adapter
from remote_double import COMMIT, remote_double

from convert.cli import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

RECIPES: Final = Path(__file__).parent.parent / "recipes"
LOCK: Final = "convert.lock.json"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return a double of the Hub at work."""
    with hub_double() as hub:
        yield hub


def environment_of(hub: Hub, home: Path) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return {**clean, **hub.environment(home), "XDG_CACHE_HOME": str(home / "cache")}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "convert", *map(str, arguments)]


def run(hub: Hub, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = environment_of(hub, home)
    return subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, check=False)


def digests(directory: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in directory.glob("*.gguf")}


def large(hub: Hub, repository: str) -> dict[str, str]:
    return {name: sum_ for name, sum_ in hub.repositories[repository].files.items() if name.endswith(".gguf")}


def test_a_qlora_run_is_verified_and_published(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "models" / "llama")
    write_adapter(tiny_llama, tmp_path / "adapters" / "qlora", r=4, target_modules="all-linear")
    shutil.copyfile(RECIPES / "qlora.toml", tmp_path / "qlora.toml")
    done = run(hub, tmp_path / "home", "recipe", "run", tmp_path / "qlora.toml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" sound") == 3
    repository = hub.repositories["me/llama-qlora-GGUF"]
    out = tmp_path / "quantized" / "llama"
    assert large(hub, "me/llama-qlora-GGUF") == digests(out)
    assert repository.contents[LOCK] == (out / LOCK).read_bytes()
    by_hand = tmp_path / "by-hand" / "llama"
    for words in (
        ("dequantize", tiny_llama, by_hand, "--through=nf4", "--dtype=f16"),
        ("all", by_hand, by_hand / "out", f"--merge={tmp_path / 'adapters' / 'qlora'}", "--types=f16,q8_0,q4_k_m"),
    ):
        assert CliRunner().invoke(cli, list(map(str, words))).exit_code == 0
    assert digests(by_hand / "out") == digests(out)
    card = ModelCard(repository.contents["README.md"].decode())
    assert card.data.get("base_model") == "org/llama"
    again = f"hf download me/llama-qlora-GGUF {LOCK} --local-dir llama-GGUF"
    assert f"```sh\n{again}\nconvert reproduce llama-GGUF --model MODEL\n```" in card.text


def test_a_model_of_the_hub_goes_back_to_it_and_never_lies_here(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    """Nothing of the weights is on the disk but the file that is made, and the lock makes the same bytes again."""
    with remote_double({"org/tiny": tiny_llama}) as hub.sources:
        out, home = tmp_path / "out", tmp_path / "home"
        measuring = Measuring(tmp_path)
        with measuring:
            options = ("--types", "f16,q8_0,q4_0", "--push-to-hub", "me/tiny-GGUF", "--discard-uploaded")
            done = run(hub, home, "all", "hf://org/tiny", out, *options)
        assert done.returncode == 0, done.stderr
        repository = hub.repositories["me/tiny-GGUF"]
        largest = (tiny_llama / "model.safetensors").stat().st_size * 1.02
        assert measuring.most < largest + sum(map(len, repository.contents.values())) + small_nbytes(tiny_llama)
        assert not list(tmp_path.rglob("*.gguf"))
        assert sorted(path.name for path in out.iterdir()) == ["README.md", "SHA256SUMS", LOCK]
        card = repository.contents["README.md"].decode()
        assert f"https://huggingface.co/org/tiny/tree/{COMMIT}" in card
        lock = tmp_path / "fetched" / LOCK
        lock.parent.mkdir()
        lock.write_bytes(repository.contents[LOCK])
        (work,) = json.loads(lock.read_text())["works"]
        assert work["asked"]["options"]["model"] == f"hf://org/tiny@{COMMIT}"
        assert "--local-dir tiny-GGUF\nconvert reproduce tiny-GGUF\n```" in card  # nothing else is needed
        again = run(hub, home, "reproduce", lock, tmp_path / "again")
        assert again.stdout.count("equal  ") == 3, again.stderr
        assert digests(tmp_path / "again") == large(hub, "me/tiny-GGUF")


def small_nbytes(model: Path) -> int:
    return sum(path.stat().st_size for path in model.iterdir() if path.suffix != ".safetensors")


class Measuring:
    """Measures, while the block runs, how many bytes lie below a directory, over and over."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.most, self.ends = directory, 0, threading.Event()
        self.thread = threading.Thread(target=self.work)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        self.thread.join()

    def work(self) -> None:
        while not self.ends.wait(0.005):
            with contextlib.suppress(OSError):  # renamed or deleted just now
                self.most = max(self.most, sum(path.lstat().st_size for path in self.directory.rglob("*")))


def fleet_of(tiny_llama: Path, place: Path, *names: str, more: str = "") -> Path:
    """Write a recipe of several models, each pushed to a repository of its name."""
    for number, name in enumerate(names):
        shutil.copytree(tiny_llama, place / "models" / name)
        (place / "models" / name / "README.md").write_text(f"number {number}\n")
    recipe = place / "fleet.toml"
    pushing = 'push-to-hub = "{model}-GGUF"\ndiscard-uploaded = true\n'
    recipe.write_text(f'models = "models/*"\noutdir = "out/{{model}}"\ntypes = ["f16", "q4_0"]\n{pushing}{more}')
    return recipe


def test_what_the_hub_has_is_passed_over_though_it_is_not_here(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    recipe = fleet_of(tiny_llama, tmp_path, "a", "b")
    first = run(hub, tmp_path / "home", "recipe", "run", recipe)
    assert first.returncode == 0, first.stderr
    shutil.rmtree(tmp_path / "out")
    hub.repositories["me/b-GGUF"].files["b-Q4_0.gguf"] = "0" * 64  # someone has put another there
    (second, third) = (run(hub, tmp_path / "home", "recipe", "run", recipe) for _ in range(2))
    assert second.stderr.count("made already") == 1
    assert third.stderr.count("made already") == 2
    assert [len(hub.repositories[f"me/{name}-GGUF"].commits) for name in "ab"] == [1, 2]


def test_a_fleet_that_was_killed_goes_on_where_it_was(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    recipe = fleet_of(tiny_llama, tmp_path, "a", "b")
    words, environment = command("recipe", "run", recipe), environment_of(hub, tmp_path / "home")
    started = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    while not (a := hub.repositories.get("me/a-GGUF")) or not a.commits:
        assert started.poll() is None
        time.sleep(0.005)
    hub.on_object.clear()
    hub.holds.set()  # the second model's first file is on its way, its second one is made or not
    while not hub.on_object.wait(0.01) and started.poll() is None:
        pass
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    hub.holds.clear()
    done = run(hub, tmp_path / "home", "recipe", "run", recipe)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("made already") >= 1
    assert len(hub.uploads) == len(set(hub.uploads)) == 4
    assert [len(hub.repositories[f"me/{name}-GGUF"].commits) for name in "ab"] == [1, 1]
    assert not list((tmp_path / "out").rglob("*gguf*"))
