"""What is asked for with `--merge`, patterns that name modules, and where an adapter's base is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import pytest
from adapter_merging import merged
from peft_adapters import change_config, write_adapter, write_base

from convert.adapter import MergeRequest, find_base, is_adapter, parse_merge
from convert.adapter.patterns import full_match, pattern_for
from convert.errors import CheckpointError, UsageError


@pytest.fixture(scope="module")
def plain_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def plain_adapter(plain_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lora: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    return write_adapter(plain_base, tmp_path_factory.mktemp("adapter") / "adapter", **lora)


@pytest.fixture
def adapter(plain_adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("adapter", "adapter", 1.0),
        ("adapter:0.7", "adapter", 0.7),
        ("./a/b:-1e-1", "a/b", -0.1),
        ("a:b", "a:b", 1.0),
        ("a:b:2", "a:b", 2.0),
        (":0.5", ":0.5", 1.0),
    ],
)
def test_a_number_after_the_last_colon_is_a_weight(text: str, path: str, weight: float) -> None:
    assert parse_merge(text) == MergeRequest(Path(path), weight)


def test_a_directory_of_that_very_name_is_meant(tmp_path: Path) -> None:
    (tmp_path / "run:7").mkdir()
    assert parse_merge(f"{tmp_path}/run:7") == MergeRequest(tmp_path / "run:7")
    assert parse_merge(f"{tmp_path}/run:7:0.5") == MergeRequest(tmp_path / "run:7", 0.5)


@pytest.mark.parametrize("weight", ["nan", "inf", "1e39"])
def test_a_weight_that_is_not_finite_is_wrong_usage(weight: str) -> None:
    with pytest.raises(UsageError, match="is not a finite number"):
        parse_merge(f"adapter:{weight}")


CATASTROPHIC: Final = (
    "(a+)+$",
    "(a|a)*b",
    "((a?){20})*b",
    "(.*)*x",
    "(?:a*){9}b",
    ".*.*.*.*.*.*.*.*x",
    "a?" * 30 + "a" * 30,
    "[ab]*[ab]*[ab]*[ab]*[ab]*[ab]*c",
    "(" * 3000,
    "a" * 5000,
)


@pytest.mark.parametrize("pattern", CATASTROPHIC, ids=lambda pattern: pattern[:20])
def test_a_pattern_that_could_take_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match=r"has (the|a) pattern"):
        full_match(pattern, "a" * 60, where="`target_modules`")


# As unsloth writes it.
UNSLOTH: Final = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj)))"
)


def test_the_patterns_in_use_are_read() -> None:
    assert full_match(UNSLOTH, "model.layers.12.mlp.up_proj", where="here")
    assert not full_match(UNSLOTH, "model.layers.12.mlp.norm", where="here")
    assert pattern_for([r"layers\.(1|2)\.mlp\..*_proj", "up_proj"], "model.layers.3.mlp.up_proj", where="") == "up_proj"


def test_the_base_is_where_the_adapter_says(plain_base: Path, adapter: Path, tmp_path: Path) -> None:
    assert is_adapter(adapter)
    assert not is_adapter(plain_base)
    assert find_base(adapter)[0] == plain_base
    shutil.copytree(plain_base, tmp_path / "other")
    change_config(adapter, base_model_name_or_path="../other")
    path, notes = find_base(adapter)
    assert path == tmp_path / "other"
    assert notes == (f"the base of `adapter` is `{path}`",)


def test_a_link_on_the_way_to_the_base_is_followed(plain_base: Path, adapter: Path, tmp_path: Path) -> None:
    """`..` after a link is above where the link leads."""
    inner = tmp_path / "elsewhere" / "inner"
    inner.mkdir(parents=True)
    shutil.copytree(plain_base, tmp_path / "elsewhere" / "model")
    (adapter / "link").symlink_to(inner)
    change_config(adapter, base_model_name_or_path="link/../model")
    assert find_base(adapter)[0].samefile(tmp_path / "elsewhere" / "model")


def test_an_adapter_beside_a_config_is_one_and_so_is_its_file(plain_base: Path, adapter: Path) -> None:
    """Some trainers leave the base's config.json there."""
    shutil.copyfile(plain_base / "config.json", adapter / "config.json")
    assert is_adapter(adapter)
    file = adapter / "adapter_model.safetensors"
    assert is_adapter(file)
    assert find_base(file)[0] == plain_base
    assert merged(plain_base, file).notes == merged(plain_base, adapter).notes


def test_an_adapter_of_an_adapter_is_told_to_give_both(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "second")
    change_config(adapter, base_model_name_or_path="../second")
    with pytest.raises(CheckpointError, match="is an adapter itself"):
        find_base(adapter)


def test_the_base_is_looked_for_from_here(
    plain_base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "org").mkdir(parents=True)
    shutil.copytree(plain_base, tmp_path / "here" / "org" / "name")
    change_config(adapter, base_model_name_or_path="org/name")
    monkeypatch.chdir(tmp_path / "here")
    assert find_base(adapter)[0].samefile(tmp_path / "here" / "org" / "name")


def test_the_base_is_found_in_the_hubs_cache(
    plain_base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    for revision in ("0" * 40, "1" * 40):
        shutil.copytree(plain_base, repository / "snapshots" / revision)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "refs" / "v2").write_text("1" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    change_config(adapter, base_model_name_or_path="org/name")
    assert find_base(adapter)[0] == repository / "snapshots" / ("0" * 40)
    change_config(adapter, revision="v2")
    path, notes = find_base(adapter)
    assert path == repository / "snapshots" / ("1" * 40)
    assert "`org/name` at `v2`, from the Hub's cache" in notes[0]


@pytest.mark.parametrize(
    ("base", "message", "hint"),
    [
        ("org/name", "is not on this machine", "hf download org/name"),
        (None, "names no base model", "give the base"),
        ("", "names no base model", "give the base"),
        ("/nowhere/at/all", "is not on this machine", "give the base"),
        ("../..", "is not on this machine", "give the base"),
        ("a\0b", "is not on this machine", "give the base"),
        ("x" * 5000, "is not on this machine", "give the base"),
    ],
)
def test_a_base_that_is_not_there_is_told_how_to_get(
    base: str | None, message: str, hint: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    change_config(adapter, base_model_name_or_path=base)
    with pytest.raises(CheckpointError, match=message) as caught:
        find_base(adapter)
    assert hint in (caught.value.hint or "")
