"""`--push-to-hub`, `publish` and `--discard-uploaded`: one commit, nothing twice, and a disk no fuller than said."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from gguf_models import write_imatrix
from hub_double import Hub, hub_double
from huggingface_hub import ModelCard

import convert
from convert.gguf_file import read_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TYPES: Final = "f16,q8_0,q4_k_m,q4_0"
NAMES: Final = tuple(f"tiny-llama-{kind}.gguf" for kind in ("F16", "Q8_0", "Q4_K_M", "Q4_0"))
REPO: Final = "me/tiny-GGUF"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return a double of the Hub at work."""
    with hub_double() as hub:
        yield hub


@pytest.fixture(scope="module")
def sums(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the sha256 of each file that the model becomes."""
    out = tmp_path_factory.mktemp("sums")
    convert.convert_all(tiny_llama, convert.OutputRequest(out, types=TYPES))
    return {name: sha256((out / name).read_bytes()).hexdigest() for name in NAMES}


def environment_of(hub: Hub, home: Path, *, xet: bool = False) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return {**clean, **hub.environment(home, xet=xet)}


def run(hub: Hub, home: Path, *arguments: object, xet: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    environment = environment_of(hub, home, xet=xet)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def push_all(hub: Hub, model: Path, out: Path, *more: object, types: str = TYPES) -> subprocess.CompletedProcess[str]:
    return run(hub, out.parent / "home", "all", model, out, "--types", types, "--push-to-hub", REPO, *more)


def large(hub: Hub) -> dict[str, str]:
    return {name: digest for name, digest in hub.repositories[REPO].files.items() if name.endswith(".gguf")}


def test_what_is_made_is_published_with_its_card_in_one_commit(
    hub: Hub, tiny_llama: Path, tmp_path: Path, sums: dict[str, str]
) -> None:
    done = push_all(hub, tiny_llama, tmp_path / "out", "--base-model", "org/tiny")
    assert (done.returncode, done.stdout) == (0, "")
    repository = hub.repositories[REPO]
    assert large(hub) == sums
    assert set(repository.files) == {*NAMES, "README.md", "SHA256SUMS", "convert.lock.json"}
    (work,) = json.loads(repository.contents["convert.lock.json"])["works"]
    assert {file["name"]: file["sha256"] for file in work["outputs"]} == sums
    assert repository.commits == ["GGUF files: F16, Q8_0, Q4_K_M, Q4_0"]
    assert repository.contents["SHA256SUMS"].decode() == "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    card = ModelCard(repository.contents["README.md"].decode())
    assert (card.data.get("base_model"), card.data.get("quantized_by")) == ("org/tiny", "me")
    assert all(digest in card.text for digest in sums.values())
    assert "byte for byte" in card.text
    assert "warning" not in done.stderr
    assert done.stderr.count("uploaded tiny-llama-") == 4
    assert "the largest file is uploaded while the others are made, which takes 2 reads of the model" in done.stderr
    assert done.stderr.endswith(f"lint hf://{REPO}\n")


def test_a_second_run_sends_nothing_and_commits_nothing(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert push_all(hub, tiny_llama, tmp_path / "out", types="f16,q4_0").returncode == 0
    assert run(hub, tmp_path / "home", "publish", tmp_path / "out", REPO).returncode == 0
    assert len(hub.uploads) == len(set(hub.uploads)) == 2
    assert len(hub.repositories[REPO].commits) == 1


def test_files_that_are_there_are_published_with_what_ollama_reads(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "chatty")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '\n' }}{% endfor %}<|assistant|>"
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "eos_token_id": [2, 5]}))
    convert.convert_all(model, convert.OutputRequest(tmp_path / "out", types="q8_0"))
    done = run(hub, tmp_path / "home", "publish", tmp_path / "out", REPO, "--model", model, "--private")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories[REPO]
    assert repository.private
    assert set(repository.files) == {"chatty-Q8_0.gguf", "README.md", "SHA256SUMS", "params", "template"}
    assert json.loads(repository.contents["params"]) == {"stop": ["</s>", "<0x02>"], "temperature": 0.5}
    assert repository.contents["template"].startswith(b"{{ if .System }}<|system|>{{ .System }}\n{{ end }}<|user|>")


def test_the_importance_matrix_that_was_used_goes_with_them(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    convert.convert_one(tiny_llama, tmp_path / "f16.gguf")
    tensors = [info for info in read_gguf(tmp_path / "f16.gguf").tensors if len(info.shape) == 2]
    entries = {info.name: (np.ones((1, info.shape[1])), np.ones(1)) for info in tensors}
    write_imatrix(tmp_path / "tiny-imatrix.gguf", entries)
    imatrix = ("--imatrix", tmp_path / "tiny-imatrix.gguf")
    done = push_all(hub, tiny_llama, tmp_path / "out", *imatrix, "--style", "mradermacher", types="iq2_xs,q4_k_m")
    assert done.returncode == 0, done.stderr
    assert set(large(hub)) == {"tiny-llama.i1-IQ2_XS.gguf", "tiny-llama.i1-Q4_K_M.gguf", "tiny-imatrix.gguf"}
    assert (
        b"importance matrix, `tiny-imatrix.gguf`, from 3 pieces of `some-text.txt`"
        in (hub.repositories[REPO].contents["README.md"])
    )


def test_an_upload_that_fails_shows_nothing_and_goes_on(
    hub: Hub, tiny_llama: Path, tmp_path: Path, sums: dict[str, str]
) -> None:
    hub.refused[("PUT", f"/object/{sums[NAMES[2]]}")] = (400, "not now")
    refused = push_all(hub, tiny_llama, tmp_path / "out")
    assert refused.returncode == 6
    assert "run the same command again" in refused.stderr
    assert hub.repositories[REPO].files == {}
    hub.refused.clear()
    assert push_all(hub, tiny_llama, tmp_path / "out").returncode == 0
    assert large(hub) == sums
    assert len(hub.uploads) == len(set(hub.uploads)) == 4


def test_an_upload_that_is_interrupted_shows_nothing(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.holds.set()
    arguments = ["all", tiny_llama, tmp_path / "out", "--types", "f16", "--push-to-hub", REPO, "--discard-uploaded"]
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    started = subprocess.Popen(command, env=environment_of(hub, tmp_path / "home"), stderr=subprocess.PIPE, text=True)
    assert hub.on_object.wait(60)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "Traceback" not in said
    hub.holds.clear()
    assert hub.repositories[REPO].files == {}
    assert push_all(hub, tiny_llama, tmp_path / "out", "--discard-uploaded", types="f16").returncode == 0
    assert set(large(hub)) == {NAMES[0]}


def test_the_largest_file_is_uploaded_while_the_others_are_made(
    hub: Hub, tiny_llama: Path, tmp_path: Path, sums: dict[str, str]
) -> None:
    hub.holds.set()
    arguments = ["all", tiny_llama, tmp_path / "out", "--types", TYPES, "--push-to-hub", REPO]
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    started = subprocess.Popen(command, env=environment_of(hub, tmp_path / "home"), stderr=subprocess.DEVNULL)
    assert hub.on_object.wait(60)
    while not all((tmp_path / "out" / name).exists() for name in NAMES):
        assert started.poll() is None
        time.sleep(0.05)
    assert hub.uploads == []  # nor is the first there, whose first byte came before
    hub.holds.clear()
    assert started.wait(60) == 0
    assert hub.uploads[0] == sums[NAMES[0]]
    assert large(hub) == sums


class Measuring(threading.Thread):
    """Measures how many bytes lie in a directory, over and over."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory, self.most, self.ends = directory, 0, threading.Event()

    def run(self) -> None:
        while not self.ends.is_set():
            self.most = max(self.most, self._nbytes())
            time.sleep(0.002)

    def _nbytes(self) -> int:
        found = list(self.directory.glob("*gguf*")) + list(self.directory.glob(".*gguf*"))
        try:
            return sum(path.stat().st_size for path in set(found))
        except FileNotFoundError:  # deleted, or renamed, just now
            return 0


def test_no_more_than_the_longest_file_lies_on_the_disk(
    hub: Hub, tiny_llama: Path, tmp_path: Path, sums: dict[str, str]
) -> None:
    measuring = Measuring(tmp_path / "out")
    measuring.start()
    done = push_all(hub, tiny_llama, tmp_path / "out", "--discard-uploaded")
    measuring.ends.set()
    measuring.join()
    assert done.returncode == 0, done.stderr
    assert large(hub) == sums
    assert len(hub.repositories[REPO].commits) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "convert.lock.json",
    ]
    plan = convert.plan_all(tiny_llama, convert.OutputRequest(tmp_path / "x", types=TYPES))
    assert 0 < measuring.most <= max(output.nbytes for output in plan.outputs)
    assert "at most 3.7 MB at a time" in done.stderr
    assert "the files are made in 3 reads of the model" in done.stderr


def test_what_an_interrupted_run_has_uploaded_and_deleted_is_neither_made_nor_sent_again(
    hub: Hub, tiny_llama: Path, tmp_path: Path, sums: dict[str, str]
) -> None:
    hub.refused[("PUT", f"/object/{sums[NAMES[1]]}")] = (400, "not now")
    assert push_all(hub, tiny_llama, tmp_path / "out", "--discard-uploaded").returncode == 6
    assert not (tmp_path / "out" / NAMES[0]).exists()
    assert hub.uploads == [sums[NAMES[0]]]
    assert hub.repositories[REPO].files == {}
    hub.refused.clear()
    done = push_all(hub, tiny_llama, tmp_path / "out", "--discard-uploaded")
    assert done.returncode == 0, done.stderr
    assert "there already: tiny-llama-F16.gguf" in done.stderr
    assert made(done) == 1  # the last; two had been made, and not uploaded
    assert "kept" not in done.stderr  # they are deleted by now
    assert "every input is read once more" in done.stderr
    assert large(hub) == sums
    assert sorted(hub.uploads) == sorted(sums.values())


@pytest.mark.parametrize("said", [{"shouldIgnore": True}, {"uploadMode": "regular"}])
def test_what_is_deleted_is_on_the_hub_whatever_its_gitignore_says_or_it_takes_for_small(
    hub: Hub, tiny_llama: Path, tmp_path: Path, sums: dict[str, str], said: dict[str, object]
) -> None:
    hub.preupload = said
    done = push_all(hub, tiny_llama, tmp_path / "out", "--discard-uploaded", types="q8_0,q4_0")
    assert done.returncode == 0, done.stderr
    assert large(hub) == {name: sums[name] for name in (NAMES[1], NAMES[3])}


def made(done: subprocess.CompletedProcess[str]) -> int:
    """Read how many files a run says that it has made."""
    said = re.search(r"^(\d+) files?, .* in .* s$", done.stderr, re.MULTILINE)
    return int(said[1]) if said else 0


@pytest.mark.parametrize("changed", ["checkpoint", "lost"])
def test_it_is_made_again_if_the_checkpoint_has_changed_or_the_hub_has_lost_it(
    hub: Hub, tiny_llama: Path, tmp_path: Path, sums: dict[str, str], changed: str
) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "tiny-llama")
    hub.refused[("PUT", f"/object/{sums[NAMES[1]]}")] = (400, "not now")
    assert push_all(hub, model, tmp_path / "out", "--discard-uploaded").returncode == 6
    hub.refused.clear()
    if changed == "checkpoint":
        os.utime(model / "model.safetensors", (1, 1))
    else:
        hub.objects.remove(sums[NAMES[0]])
    done = push_all(hub, model, tmp_path / "out", "--discard-uploaded")
    assert done.returncode == 0, done.stderr
    assert made(done) == 2  # the first again, and the last
    assert large(hub) == sums


def test_a_dry_run_states_the_disk_and_asks_no_one(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    done = push_all(hub, tiny_llama, tmp_path / "out", "--discard-uploaded", "--dry-run")
    assert done.returncode == 0
    assert "at most 3.7 MB at a time" in done.stdout
    assert hub.requests == []
    assert not (tmp_path / "out").exists()


def test_by_default_the_bytes_go_by_xet(hub: Hub, tiny_llama: Path, tmp_path: Path, sums: dict[str, str]) -> None:
    arguments = ("all", tiny_llama, tmp_path / "out", "--types", "q4_0", "--push-to-hub", REPO, "--discard-uploaded")
    done = run(hub, tmp_path / "home", *arguments, xet=True)
    assert done.returncode == 0, done.stderr
    assert large(hub) == {NAMES[3]: sums[NAMES[3]]}
    assert [upload.startswith("/v1/xorbs/") for upload in hub.uploads] == [True]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--private",), 2, "--private goes with --push-to-hub"),
        (("--discard-uploaded",), 2, "--discard-uploaded goes with --push-to-hub"),
        (("--push-to-hub", REPO, "--discard-uploaded", "--verify"), 2, "--verify needs the files"),
        (("--push-to-hub", "other/tiny-GGUF"), 6, "may not do this (403)"),
    ],
)
def test_what_is_wrong_is_told_before_the_work(
    hub: Hub, tiny_llama: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = run(hub, tmp_path / "home", "all", tiny_llama, tmp_path / "out", *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_card_of_someone_else_is_told_before_the_work(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("# Mine\n")
    done = push_all(hub, tiny_llama, tmp_path / "out")
    assert done.returncode == 6
    assert "was not written by this command" in done.stderr
    assert hub.requests == []


def test_parts_are_made_uploaded_and_deleted_together(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    split = ("--split-max-tensors", 12, "--discard-uploaded")
    done = push_all(hub, tiny_llama, tmp_path / "out", *split, types="q8_0,q4_0")
    assert done.returncode == 0, done.stderr
    names = [f"tiny-llama-{kind}" for kind in ("Q4_0", "Q8_0")]
    assert sorted(large(hub)) == [f"{name}/{name}-0000{number}-of-00002.gguf" for name in names for number in (1, 2)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "convert.lock.json",
    ]
    card = hub.repositories[REPO].contents["README.md"].decode()
    assert "(tiny-llama-Q8_0/tiny-llama-Q8_0-00001-of-00002.gguf), 2 parts" in card
    assert f"hf download {REPO} --include 'tiny-llama-Q8_0/tiny-llama-Q8_0-*-of-00002.gguf'" in card
