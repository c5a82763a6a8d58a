"""An index and its shards: what is read by it, and what is said when they do not agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from checkpoint_directories import INDEX, index, placed, put, refusal
from test_checkpoint_directory import S1, S2, S3

from convert.checkpoint import open_checkpoint
from convert.errors import CheckpointError

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


def _lacking(directory: Path) -> str:
    """Say what is wrong with a checkpoint for whoever needs all of it."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory).require_whole()
    return caught.value.message.replace(str(directory), "DIR")


def test_all_missing_shards_are_listed_at_once(tmp_path: Path) -> None:
    put(tmp_path, {S2: ["b"], INDEX: index(a=S1, b=S2, c=S3)})
    assert _lacking(tmp_path) == f"`DIR` lacks 2 of 3 files that `{INDEX}` names: `{S1}`, `{S3}`"
    assert open_checkpoint(tmp_path).absent == ("a", "c")


def test_an_index_without_any_of_its_files_is_refused(tmp_path: Path) -> None:
    put(tmp_path, {INDEX: index(a=S1, b=S2)})
    assert refusal(tmp_path) == f"`DIR` lacks 2 of 2 files that `{INDEX}` names: `{S1}`, `{S2}`"


def test_a_name_too_long_to_be_a_file_is_missing(tmp_path: Path) -> None:
    put(tmp_path, {INDEX: index(a="x" * 4000 + ".safetensors")})
    assert refusal(tmp_path) == f"`DIR` lacks 1 of 1 files that `{INDEX}` names: `{'x' * 119}…`"


def test_shards_missing_by_their_own_numbering_are_listed(tmp_path: Path) -> None:
    put(tmp_path, {S2: ["b"]})
    assert _lacking(tmp_path) == f"`DIR` lacks 2 of 3 files that the shards' numbering names: `{S1}`, `{S3}`"


@pytest.mark.parametrize(
    ("weight_map", "missing"),
    [
        ({"a": S1, "b": S2, "x": S2, "c": S3}, "x"),
        ({"a": S1, "c": S3, "x": S2, "b": S2}, "x"),
        ({"a": S1, "b": S1}, "b"),
    ],
)
def test_a_tensor_that_no_file_has_is_named(tmp_path: Path, weight_map: dict[str, str], missing: str) -> None:
    put(tmp_path, {S1: ["a"], S2: ["b"], S3: ["c"], INDEX: index(**weight_map)})
    looked = weight_map[missing]
    wanted = f"`DIR/{INDEX}` names 1 tensors that are not in their files: `{missing}`, looked for in `{looked}`"
    assert _lacking(tmp_path) == wanted


def test_only_the_files_that_an_index_names_are_read(tmp_path: Path) -> None:
    put(tmp_path, {S1: ["a"], S2: ["b"], S3: ["c"], INDEX: index(a=S1, b=S2)})
    assert [name for name, _ in placed(open_checkpoint(tmp_path))] == ["a", "b"]


@pytest.mark.parametrize(
    ("files", "weight_map", "note"),
    [
        (
            {S1: ["a"], S2: ["b"]},
            {"a": S2, "b": S1},
            f"`{INDEX}` puts 2 tensors elsewhere than they are, in `{S1}`, `{S2}`: `a`, `b`",
        ),
        ({S1: ["a", "z"]}, {"a": S1}, f"`{INDEX}` does not name 1 tensors that its files have: `z`"),
        (
            {S1: ["a", "b"]},
            {"a": S1, "b": S2},
            f"`{INDEX}` puts 1 tensors elsewhere than they are, in `{S1}`: `b`",
        ),
    ],
)
def test_the_files_are_right_where_an_index_says_otherwise(
    tmp_path: Path, files: dict[str, list[str]], weight_map: dict[str, str], note: str
) -> None:
    checkpoint = open_checkpoint(put(tmp_path, {**files, INDEX: index(**weight_map)}))
    checkpoint.require_whole()
    assert placed(checkpoint) == [(tensor, name) for name, tensors in files.items() for tensor in tensors]
    assert note in checkpoint.notes


def test_a_tied_head_that_an_index_names_and_no_file_has_is_a_note(tmp_path: Path) -> None:
    put(tmp_path, {S1: ["a"], INDEX: {"weight_map": {"a": S1, "lm_head.weight": S1}}})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        open_checkpoint(tmp_path).require_whole()
    put(tmp_path, {"config.json": {"tie_word_embeddings": True}})
    checkpoint = open_checkpoint(tmp_path)
    checkpoint.require_whole()
    assert checkpoint.notes == ("`lm_head.weight` is in no file: the output is the embeddings",)


def test_of_a_tensor_in_two_files_the_index_tells_which_is_meant(tmp_path: Path) -> None:
    first, second = "model-a.safetensors", "model-b.safetensors"
    put(tmp_path, {first: ["a", "w"], second: ["w"]})
    assert refusal(tmp_path) == f"tensor `w` is in `DIR/{first}` and in `DIR/{second}`, wanted once"
    put(tmp_path, {INDEX: index(a=first, w=second)})
    assert placed(open_checkpoint(tmp_path)) == [("a", first), ("w", second)]
