"""What cannot be read from the Hub says why, each in its own words, and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import constants
from remote_double import TOKEN, Double, Fault, lead_here, remote_double

from convert.errors import CheckpointError, ConvertError
from convert.inspection import inspect
from convert.remote import located

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def hub(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """Return the Hub's double, without a token."""
    with remote_double({"me/tiny": tiny_llama}) as double:
        lead_here(double, monkeypatch, tmp_path / "home")
        monkeypatch.chdir(tmp_path)
        yield double


def refusal(asked: str) -> tuple[str, str]:
    """Return message and hint."""
    with pytest.raises(ConvertError) as caught:
        located(asked)
    assert isinstance(caught.value, CheckpointError)
    return caught.value.message, caught.value.hint or ""


_TINY, _OTHER = "hf://me/tiny", "hf://me/other"


def _private(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    hub.private.add("me/tiny")


def _gated(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    hub.gated.add("me/tiny")


def _gated_with_token(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add("me/tiny")
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def _with_token(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def _bad_token(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub
    monkeypatch.setenv("HF_TOKEN", "hf_another")


def _forbidden(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.hub_faults.append(Fault(403))


def _offline(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _nothing(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub, monkeypatch


@pytest.mark.parametrize(
    ("change", "asked", "message", "hint"),
    [
        (
            _private,
            _TINY,
            r"the Hub has no model `me/tiny`, or it is private: there is no token \(401\)",
            "hf auth login",
        ),
        (_nothing, _OTHER, r"the Hub has no model `me/other`, or it is private: there is no token", "check the name"),
        (_with_token, _OTHER, r"the Hub has no model `me/other` that this token may see \(404\)", "hf auth whoami"),
        (
            _gated,
            _TINY,
            r"`me/tiny` is gated \(401\), and there is no token",
            "conditions on http.*/me/tiny, then log in",
        ),
        (_gated_with_token, _TINY, r"`me/tiny` is gated \(403\): the token's account has no access", "that account"),
        (_bad_token, _TINY, r"the Hub does not accept the token \(401\), asked for `me/tiny`", "hf auth login"),
        (_forbidden, _TINY, r"the token may not read `me/tiny` \(403\)", "fine-grained"),
        (_nothing, f"{_TINY}@v2", r"`me/tiny` has no revision `v2` \(404\)", "/me/tiny/commits"),
        (_offline, _TINY, "`me/tiny` cannot be read from the Hub: HF_HUB_OFFLINE is set", "unset it"),
        (_nothing, f"{_TINY}/x.gguf", r"`hf://me/tiny@\w+` has no `x.gguf`", "it has `config.json`"),
        (_nothing, "hf://datasets/me/tiny", "`hf://datasets/me/tiny` is no model of the Hub", "write hf://USER/MODEL"),
        (_nothing, "me/other", r"there is no path `me/other`; the Hub has no model `me/other`", "check the name"),
    ],
)
def test_a_refusal_says_what_it_is(
    change: Callable[[Double, pytest.MonkeyPatch], None],
    asked: str,
    message: str,
    hint: str,
    hub: Double,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(hub, monkeypatch)
    said = refusal(asked)
    assert re.match(message, said[0])
    assert re.search(hint, said[1])


def test_a_hub_that_is_not_reached_is_told_from_one_that_refuses(hub: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    message, hint = refusal("hf://me/tiny")
    assert message.startswith("`me/tiny` cannot be read from the Hub: http://127.0.0.1:9: ")
    assert "HF_ENDPOINT" in hint
    assert not hub.requests


def test_a_hub_that_is_busy_is_asked_again(hub: Double) -> None:
    hub.hub_faults.extend([Fault(429, {"Retry-After": "0"}), Fault(503)])
    assert inspect("hf://me/tiny").architecture == "LlamaForCausalLM"


@pytest.mark.parametrize("is_gated", [False, True])
def test_gated_and_private_models_are_read_with_the_usual_token(
    is_gated: bool, hub: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (hub.gated if is_gated else hub.private).add("me/tiny")
    hub.granted.add("me/tiny")
    assert inspect("hf://me/tiny").n_parameters == 1_836_288
