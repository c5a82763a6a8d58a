"""JSON files that a hostile or broken checkpoint may hold."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from convert.checkpoint.json_file import MAX_DEPTH, read_json
from convert.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def refusal(path: Path, **options: Any) -> str:  # noqa: ANN401 - read_json's own
    with pytest.raises(CheckpointError) as caught:
        read_json(path, **options)
    assert caught.value.exit_code == 3
    return caught.value.message.replace(str(path.parent), "DIR")


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    return path


def test_a_document_is_read_as_it_stands(tmp_path: Path) -> None:
    path = written(tmp_path, '{"a": [1, -2.5e3, true, null], "é": {"": "\\ud83d\\ude00"}}'.encode())
    assert read_json(path) == {"a": [1, -2500.0, True, None], "é": {"": "😀"}}


def test_the_top_may_be_asked_to_be_a_list(tmp_path: Path) -> None:
    assert read_json(written(tmp_path, b"[1]"), top=list) == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "`DIR/config.json` is not JSON: Expecting value, line 1 column 1"),
        (b'{"a": 1', "`DIR/config.json` is not JSON: Expecting ',' delimiter, line 1 column 8"),
        (b"{} {}", "`DIR/config.json` is not JSON: Extra data, line 1 column 4"),
        (
            b"\xef\xbb\xbf{}",
            "`DIR/config.json` is not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig), line 1 column 1",
        ),
        (b'{"a": "\xff"}', "`DIR/config.json` is not UTF-8: byte 7 is 0xff"),
        ("{}".encode("utf-16"), "`DIR/config.json` is not UTF-8: byte 0 is 0xff"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "`DIR/config.json` has the key `c` twice"),
        (b'{"a": NaN}', "`DIR/config.json` holds the number `NaN`, wanted finite numbers"),
        (b'{"a": [-Infinity]}', "`DIR/config.json` holds the number `-Infinity`, wanted finite numbers"),
        (b'{"a": 1e999}', "`DIR/config.json` holds the number `1e999`, wanted finite numbers"),
        (b'{"a": ' + b"9" * 5000 + b"}", "`DIR/config.json` holds a number of 5000 digits, at most 64 are read"),
        (b'{"a": "\\ud800"}', "`DIR/config.json` holds half of a surrogate pair in a string"),
        (b"[]", "`DIR/config.json` holds a list at its top, wanted an object"),
        (b"3", "`DIR/config.json` holds a value at its top, wanted an object"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "`DIR/config.json` is a git-lfs pointer, not the file itself",
        ),
    ],
)
def test_a_broken_document_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(written(tmp_path, content)) == message


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
def test_deep_nesting_is_refused(tmp_path: Path, opening: bytes, depth: int) -> None:
    closing = b"]" if opening == b"[" else b"}"
    path = written(tmp_path, opening * depth + b"1" + closing * depth)
    assert refusal(path, top=object) == "`DIR/config.json` is nested too deep, at most 64 levels are read"


def test_nesting_up_to_the_limit_is_read(tmp_path: Path) -> None:
    assert read_json(written(tmp_path, b"[" * MAX_DEPTH + b"]" * MAX_DEPTH), top=list)


def test_a_long_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.touch()
    os.truncate(path, 1 << 40)
    assert refusal(path, max_nbytes=1000) == "`DIR/config.json` has 1099511627776 bytes, at most 1000 are read"


def test_a_document_of_very_many_values_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, b"[" + b"[]," * 4_100_000 + b"1]")
    assert refusal(path, top=list) == "`DIR/config.json` holds about 8200001 values, at most 8000000 are read"


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert refusal(tmp_path / "config.json") == "`DIR/config.json` is a pipe or a device, wanted a regular file"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert refusal(tmp_path / "config.json") == "`DIR/config.json` is a directory, wanted a regular file"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "config.json") == "`DIR/config.json` does not exist"


def test_a_hostile_name_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"\\u001b[31m' + b"x" * 500 + b'": 1, "\\u001b[31m' + b"x" * 500 + b'": 1}')
    message = refusal(path)
    assert message == "`DIR/config.json` has the key `\\x1b[31m" + "x" * 114 + "…` twice"
