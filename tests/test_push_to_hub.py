"""`--push-to-hub`: the Hub gets the very bytes of OUTDIR, once, and what is wrong with it is known before the work."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
import torch
from hub_double import TOKEN, Hub, Repository, hub_double
from packed_checkpoints import tiny_config, write_safetensors_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

TINY_FILES: Final = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return a double of the Hub at work."""
    with hub_double() as hub:
        yield hub


def command(model: Path, out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "convert", "dequantize", str(model), str(out), *arguments]


def push(
    hub: Hub, model: Path, out: Path, *arguments: str, token: str | None = TOKEN, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in an environment that leads to the double."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {**clean, **hub.environment(out.parent / "hf-home", token=token), **changes}
    return subprocess.run(
        command(model, out, *arguments), env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_the_hub_gets_the_very_bytes_in_one_commit(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    result = push(hub, tiny_llama, tmp_path / "out", "--max-shard-size", "500KB", "--push-to-hub", "me/tiny")
    assert (result.returncode, result.stdout) == (0, "")
    repository = hub.repositories["me/tiny"]
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert repository.files == hashes(tmp_path / "out")
    assert repository.commits == ["Weights in float16"]
    assert not repository.private
    assert f"uploaded: {hub.endpoint}/me/tiny" in result.stderr
    assert result.stderr.index(" files, ") < result.stderr.index("uploading to")


def test_a_private_repository_is_made_and_a_short_name_is_the_users(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    assert push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "tiny", "--private").returncode == 0
    assert hub.repositories["me/tiny"].private
    assert set(hub.repositories["me/tiny"].files) == TINY_FILES


def test_what_else_lies_in_the_directory_is_not_uploaded(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".secret").write_text("mine")
    assert push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny").returncode == 0
    assert set(hub.repositories["me/tiny"].files) == TINY_FILES


def test_a_second_run_uploads_nothing_again(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny").returncode == 0
    assert len(hub.uploads) == len(set(hub.uploads)) == 2
    assert len(hub.repositories["me/tiny"].commits) == 1


def test_an_interrupted_upload_is_resumed(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    arguments = ("--max-shard-size", "500KB", "--push-to-hub", "me/tiny")
    hub.refused[("POST", "/api/models/me/tiny/commit")] = (400, "not now")
    refused = push(hub, tiny_llama, tmp_path / "out", *arguments)
    assert refused.returncode == 6
    assert "the Hub answered 400: not now" in refused.stderr
    assert "run the same command again" in refused.stderr
    arrived = list(hub.uploads)
    lost = arrived[0]
    hub.objects.remove(lost)  # as if it had not arrived in time
    hub.refused.clear()
    result = push(hub, tiny_llama, tmp_path / "out", *arguments)
    assert result.returncode == 0
    assert hub.uploads == [*arrived, lost]
    assert hub.repositories["me/tiny"].files == hashes(tmp_path / "out")
    assert result.stderr.count("complete, and equal to the plan") == len(hashes(tmp_path / "out"))


def test_a_client_killed_during_an_upload_is_continued(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    arguments = ("--max-shard-size", "500KB", "--push-to-hub", "me/tiny")
    environment = {**os.environ, **hub.environment(tmp_path / "hf-home")}
    hub.holds.set()
    process = subprocess.Popen(
        command(tiny_llama, tmp_path / "out", *arguments), env=environment, stderr=subprocess.DEVNULL
    )
    assert hub.on_object.wait(60)
    process.kill()
    process.wait()
    hub.holds.clear()
    assert hub.repositories["me/tiny"].files == {}
    assert push(hub, tiny_llama, tmp_path / "out", *arguments).returncode == 0
    assert len(hub.uploads) == len(set(hub.uploads))
    assert hub.repositories["me/tiny"].files == hashes(tmp_path / "out")


def test_by_default_the_bytes_go_by_xet(hub: Hub, tmp_path: Path) -> None:
    model, n_rows = tmp_path / "model", 600
    bits = np.random.default_rng(5).integers(0, 0x7C00, (n_rows, 1024), np.uint16)  # nothing to compress, nothing NaN
    write_safetensors_checkpoint(model, tiny_config(), {"a.weight": torch.from_numpy(bits.view(np.float16))})
    (model / "tokenizer.model").unlink()
    environment = {**os.environ, **hub.environment(tmp_path / "hf-home", xet=True)}
    arguments = command(model, tmp_path / "out", "--push-to-hub", "me/tiny")
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert any(request.startswith("POST /v1/xorbs/") for request in hub.requests)
    assert hub.repositories["me/tiny"].files == hashes(tmp_path / "out")
    assert hub.repositories["me/tiny"].commits == ["Weights in float16"]


def test_a_card_that_the_hub_refuses_is_an_error_that_says_why(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    (model / "README.md").write_text("---\nlicense: nonsense\n---\n")
    result = push(hub, model, tmp_path / "out", "--push-to-hub", "me/tiny")
    assert result.returncode == 6
    assert 'Invalid metadata in README.md. - "license" must be one of' in result.stderr
    assert "mend the checkpoint's README.md" in result.stderr
    assert not hub.uploads
    assert not hub.repositories
    assert not (tmp_path / "out").exists()  # told before the work


def test_what_the_hub_says_of_a_card_is_a_warning(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.card_warnings.append({"message": "empty or missing yaml metadata in repo card"})
    result = push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny")
    assert result.returncode == 0
    assert "warning: Warnings while validating metadata" in result.stderr


def _other_weights(hub: Hub) -> None:
    hub.repositories["me/tiny"] = Repository(files={"pytorch_model.bin": "0"})


def _public(hub: Hub) -> None:
    hub.repositories["me/tiny"] = Repository()


def _reader(hub: Hub) -> None:
    hub.role = "read"


def _theirs(hub: Hub) -> None:
    hub.repositories["them/tiny"] = Repository()


def _busy(hub: Hub) -> None:
    hub.refused[("GET", "/api/whoami-v2")] = (429, "slow down")


def _broken(hub: Hub) -> None:
    hub.refused[("POST", "/api/repos/create")] = (500, "out of order")


def _full(hub: Hub) -> None:
    hub.refused[("POST", "/api/repos/create")] = (403, "Private repository storage limit reached")


def _unpaid(hub: Hub) -> None:
    hub.refused[("POST", "/api/repos/create")] = (402, "Payment required")


def _unconfirmed(hub: Hub) -> None:
    hub.refused[("POST", "/api/repos/create")] = (403, "You must confirm your email address first")


def _nothing(hub: Hub) -> None:
    del hub


REFUSED: Final = {
    "weights of another": (_other_weights, ["me/tiny"], "has other weights in it: `pytorch_model.bin`", "another repo"),
    "public": (_public, ["me/tiny", "--private"], "exists, and is public", "in its settings"),
    "a token that reads": (_reader, ["me/tiny"], "the token for the Hugging Face Hub may only read", "hf auth login"),
    "another's namespace": (_nothing, ["them/new"], "the token may not do this (403): You don't have", "write perm"),
    "another's repository": (_theirs, ["them/tiny"], "(403): You are not the owner", "write permission"),
    "a full storage": (_full, ["me/tiny"], "refuses it (403): Private repository storage limit", "settings/storage"),
    "an unpaid bill": (_unpaid, ["me/tiny"], "refuses it (402): Payment required", "settings/billing"),
    "an account unconfirmed": (_unconfirmed, ["me/tiny"], "confirm your email", "settings/account"),
    "too many requests": (_busy, ["me/tiny"], "too many requests (429)", "wait"),
    "a broken Hub": (_broken, ["me/tiny"], "the Hub answered 500: out of order", "again"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_hub_refuses_is_known_before_the_work(case: str, hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    prepare, arguments, message, hint = REFUSED[case]
    prepare(hub)
    result = push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", *arguments)
    assert (result.returncode, result.stdout) == (6, "")
    error, _, said_hint = result.stderr.partition("error: ")[2].partition("hint: ")
    assert message in error
    assert hint in said_hint
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
    assert not hub.uploads


def test_without_a_token_no_one_is_asked(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    result = push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny", token=None)
    assert result.returncode == 6
    assert "error: there is no token for the Hugging Face Hub" in result.stderr
    assert "hf auth login" in result.stderr
    assert not hub.requests
    assert not (tmp_path / "out").exists()


def test_a_token_is_taken_from_where_the_client_keeps_it(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "hf-home").mkdir()
    (tmp_path / "hf-home" / "token").write_text(TOKEN)
    assert push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny", token=None).returncode == 0


def test_a_wrong_token_is_an_error_that_does_not_show_it(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    result = push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny", token="hf_" + "wrong" * 6)
    assert result.returncode == 6
    assert "the Hub does not accept the token (401)" in result.stderr
    assert "hf_wrong" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_where_nothing_answers_is_an_error(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        result = push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny", HF_ENDPOINT=endpoint)
    assert result.returncode == 6
    host = endpoint.partition("//")[2]
    assert f"the repository `me/tiny` cannot be prepared: {host}: " in result.stderr
    assert f"is {host} reached from here?" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("token", "odd"), [("hf_ab…yz", "…"), ("hf_“quoted”", "“"), ("hf_a b", " ")])
def test_a_token_that_is_none_is_told_without_showing_it(
    token: str, odd: str, hub: Hub, tiny_llama: Path, tmp_path: Path
) -> None:
    result = push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny", token=token)
    assert result.returncode == 6
    assert f"the token for the Hugging Face Hub has a `{odd}` in it, which no token has" in result.stderr
    assert "copy it whole" in result.stderr
    error = result.stderr.partition("error: ")[2]
    assert "README" not in error
    assert "hf_" not in error
    assert not hub.requests


def test_offline_mode_is_respected(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    result = push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny", HF_HUB_OFFLINE="1")
    assert result.returncode == 6
    assert "HF_HUB_OFFLINE is set" in result.stderr


@pytest.mark.parametrize("name", ["a/b/c", "me/", "me/-x", "x" * 120, "me/a..b", "me/model.git"])
def test_what_cannot_be_a_name_is_a_usage_error(name: str, hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    result = push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", name)
    assert result.returncode == 2
    assert "cannot be a repository's name" in result.stderr
    assert not hub.requests


def test_a_failed_conversion_uploads_nothing(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    result = push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny")
    assert result.returncode == 6
    assert not hub.requests


def test_a_dry_run_asks_no_one(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    result = push(hub, tiny_llama, tmp_path / "out", "--push-to-hub", "me/tiny", "--dry-run", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["outputs"]
    assert not hub.requests
