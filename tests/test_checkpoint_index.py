"""An index and its shards: what is read by it, and what is said when they do not agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from checkpoint_directories import INDEX, index, placed, put, refusal
from test_checkpoint_directory import S1, S2, S3

from convert.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

OUT = "a path out of the checkpoint"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, f"`DIR/{INDEX}` has no `weight_map` from tensor names to file names"),
        ({"weight_map": {}}, f"`DIR/{INDEX}` has no `weight_map` from tensor names to file names"),
        ({"weight_map": ["a"]}, f"`DIR/{INDEX}` has no `weight_map` from tensor names to file names"),
        (index(a=3), f"`DIR/{INDEX}` maps `a` to `3`, wanted a file name"),
        (index(a="../model.safetensors"), f"`DIR/{INDEX}` maps `a` to `../model.safetensors`, {OUT}"),
        (index(a="x/../../model.safetensors"), f"`DIR/{INDEX}` maps `a` to `x/../../model.safetensors`, {OUT}"),
        (index(a="/etc/x.safetensors"), f"`DIR/{INDEX}` maps `a` to `/etc/x.safetensors`, {OUT}"),
        (index(a="model.bin"), f"`DIR/{INDEX}` maps `a` to `model.bin`, wanted a name that ends in `.safetensors`"),
        (
            index(a="x\0.safetensors"),
            f"`DIR/{INDEX}` maps `a` to `x\\x00.safetensors`, wanted a name that ends in `.safetensors`",
        ),
        (b"[1]", f"`DIR/{INDEX}` holds a list at its top, wanted an object"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', f"`DIR/{INDEX}` has the key `a` twice"),
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, content: object, message: str) -> None:
    assert refusal(put(tmp_path, {INDEX: content, "model.safetensors": ["a"]})) == message


def test_all_missing_shards_are_listed_at_once(tmp_path: Path) -> None:
    put(tmp_path, {S2: ["b"], INDEX: index(a=S1, b=S2, c=S3)})
    assert refusal(tmp_path) == f"`DIR` lacks 2 of 3 files that `{INDEX}` names: `{S1}`, `{S3}`"


def test_a_name_too_long_to_be_a_file_is_missing(tmp_path: Path) -> None:
    put(tmp_path, {INDEX: index(a="x" * 4000 + ".safetensors")})
    assert refusal(tmp_path) == f"`DIR` lacks 1 of 1 files that `{INDEX}` names: `{'x' * 119}…`"


def test_shards_missing_by_their_own_numbering_are_listed(tmp_path: Path) -> None:
    put(tmp_path, {S2: ["b"]})
    assert refusal(tmp_path) == f"`DIR` lacks 2 of 3 files that the shards' numbering names: `{S1}`, `{S3}`"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (
            {"a": S1, "b": S2, "x": S2, "c": S3},
            f"`DIR/{INDEX}` names 1 tensors that are not in their files: `x`, looked for in `{S2}`",
        ),
        (
            {"a": S1, "c": S3, "x": S2},
            f"`DIR/{INDEX}` names 1 tensors that are not in their files: `x`, looked for in `{S2}`",
        ),
        ({"a": S1, "b": S2}, None),
        (
            {"a": S1, "b": S1, "c": S3},
            f"`DIR/{INDEX}` names 1 tensors that are not in their files: `b`, looked for in `{S1}`",
        ),
        ({"a": S2, "b": S1, "c": S3}, f"`DIR/{INDEX}` puts `a` in `{S2}`, it is in `{S1}`"),
    ],
)
def test_an_index_and_its_files_must_tell_the_same(
    tmp_path: Path, weight_map: dict[str, str], message: str | None
) -> None:
    put(tmp_path, {S1: ["a"], S2: ["b"], S3: ["c"], INDEX: index(**weight_map)})
    if message is None:
        assert [name for name, _ in placed(open_checkpoint(tmp_path))] == list(weight_map)
    else:
        assert refusal(tmp_path) == message


def test_a_tensor_that_the_index_does_not_name_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, {S1: ["a", "z"], INDEX: index(a=S1)})
    expected = f"`DIR/{INDEX}` does not name 1 tensors that its files have: `z`, found in `{S1}`"
    assert refusal(tmp_path) == expected


@pytest.mark.parametrize("with_index", [True, False])
def test_a_tensor_in_two_files_is_an_error(tmp_path: Path, *, with_index: bool) -> None:
    first, second = "model-a.safetensors", "model-b.safetensors"
    put(tmp_path, {first: ["a", "w"], second: ["w"]})
    if with_index:
        put(tmp_path, {INDEX: index(a=first, w=second)})
    assert refusal(tmp_path) == f"tensor `w` is in `DIR/{first}` and in `DIR/{second}`, wanted once"
