"""Safetensors files: what the producer's library writes is found byte for byte, what breaks a rule is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from convert.checkpoint.safetensors_file import read_safetensors
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, ConvertError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = {
    torch.float64: StoredType.F64,
    torch.float32: StoredType.F32,
    torch.float16: StoredType.F16,
    torch.bfloat16: StoredType.BF16,
    torch.float8_e4m3fn: StoredType.F8_E4M3,
    torch.float8_e5m2: StoredType.F8_E5M2,
    torch.int64: StoredType.I64,
    torch.int32: StoredType.I32,
    torch.int16: StoredType.I16,
    torch.int8: StoredType.I8,
    torch.uint64: StoredType.U64,
    torch.uint32: StoredType.U32,
    torch.uint16: StoredType.U16,
    torch.uint8: StoredType.U8,
    torch.bool: StoredType.BOOL,
}


def entry(
    dtype: object = "F32", shape: object = (2,), data_offsets: object = (0, 8), **more: object
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}


def written(tmp_path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """Write a file from a header (bytes, or to be made JSON), a data buffer, and perhaps a lie about the length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def refusal(path: Path, kind: type[ConvertError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        read_safetensors(path)
    return caught.value.message.replace(str(path.parent), "DIR")


def the_library_refuses(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, framework="np"):
            return False
    except (safetensors.SafetensorError, OSError):
        return True


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_of_each_dtype_is_found_where_it_lies(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(1, 25).reshape(2, 3, 4).to(dtype)
    save_file({"first": torch.ones(3), "t": tensor}, tmp_path / "model.safetensors")
    source = next(s for s in read_safetensors(tmp_path / "model.safetensors") if s.name == "t")
    data = (tmp_path / "model.safetensors").read_bytes()[source.offset : source.offset + source.nbytes]
    assert (source.dtype, source.shape) == (DTYPES[dtype], (2, 3, 4))
    assert data == tensor.view(torch.uint8).numpy().tobytes()


def test_tensors_come_sorted_by_name_wherever_they_lie(tmp_path: Path) -> None:
    # The library lays out by dtype; llama.cpp reads by name, and the output's order follows.
    save_file(
        {"b": torch.ones(1), "a": torch.ones(1).half(), "c.10": torch.ones(2), "c.9": torch.ones(2)}, tmp_path / "x"
    )
    assert [source.name for source in read_safetensors(tmp_path / "x")] == ["a", "b", "c.10", "c.9"]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1, 5)])
def test_scalars_and_empty_tensors_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_file({"t": torch.zeros(shape), "u": torch.zeros(0)}, tmp_path / "x", metadata={"format": "pt"})
    (source, empty) = read_safetensors(tmp_path / "x")
    assert (source.shape, source.nbytes, empty.nbytes) == (shape, torch.zeros(shape).nbytes, 0)


def test_a_header_without_tensors_is_read(tmp_path: Path) -> None:
    assert read_safetensors(written(tmp_path, b"{}      ")) == ()


EIGHT = b"\0" * 8
BROKEN: dict[str, tuple[object, bytes, str]] = {
    "no header": (b"", b"", "the header of `DIR/model.safetensors` begins with ``, wanted `{`"),
    "a space before the header": (
        b' {"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        EIGHT,
        "the header of `DIR/model.safetensors` begins with ` `, wanted `{`",
    ),
    "not UTF-8": (b'{"\xff":1}', b"", "the header of `DIR/model.safetensors` is not UTF-8: byte 2 is 0xff"),
    "not JSON": (
        b"{a}",
        b"",
        (
            "the header of `DIR/model.safetensors` is not JSON: "
            "Expecting property name enclosed in double quotes, line 1 column 2"
        ),
    ),
    "not an object": (b"[1]", b"", "the header of `DIR/model.safetensors` begins with `[`, wanted `{`"),
    "deep nesting": (
        b'{"t":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"",
        "the header of `DIR/model.safetensors` is nested too deep, at most 64 levels are read",
    ),
    "a tensor twice": (
        b'{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        EIGHT,
        "the header of `DIR/model.safetensors` has the key `t` twice",
    ),
    "metadata of numbers": (
        {"__metadata__": {"step": 3}},
        b"",
        "the header of `DIR/model.safetensors` has a `__metadata__` that is not an object of strings",
    ),
    "an entry that is no object": (
        {"t": [1]},
        b"",
        "tensor `t` in `DIR/model.safetensors` is described by `[1]`, wanted `dtype`, `shape` and `data_offsets`",
    ),
    "an entry without shape": (
        {"t": {"dtype": "F32", "data_offsets": [0, 8]}},
        EIGHT,
        (
            "tensor `t` in `DIR/model.safetensors` is described by `dtype`, `data_offsets`, "
            "wanted `dtype`, `shape` and `data_offsets`"
        ),
    ),
    "an unknown field": (
        {"t": entry(strides=[1])},
        EIGHT,
        (
            "tensor `t` in `DIR/model.safetensors` is described by `dtype`, `shape`, `data_offsets`, `strides`, "
            "wanted `dtype`, `shape` and `data_offsets`"
        ),
    ),
    "an unknown dtype": (
        {"t": entry("F33")},
        EIGHT,
        "tensor `t` in `DIR/model.safetensors` has the unknown dtype `F33`",
    ),
    "a dtype that is no string": (
        {"t": entry(["F32"])},
        EIGHT,
        "tensor `t` in `DIR/model.safetensors` has the dtype `['F32']`, wanted a string",
    ),
    "a hole": (
        {"a": entry(), "b": entry(data_offsets=[12, 20])},
        b"\0" * 20,
        "tensor `b` in `DIR/model.safetensors` leaves a hole before: it begins at byte 12 of the data, wanted 8",
    ),
    "a hole at the beginning": (
        {"a": entry(data_offsets=[4, 12])},
        b"\0" * 12,
        "tensor `a` in `DIR/model.safetensors` leaves a hole before: it begins at byte 4 of the data, wanted 0",
    ),
    "an overlap": (
        {"a": entry(), "b": entry(data_offsets=[4, 12])},
        b"\0" * 12,
        "tensor `b` in `DIR/model.safetensors` overlaps the one before: it begins at byte 4 of the data, wanted 8",
    ),
    "two tensors at one place": (
        {"a": entry(), "b": entry()},
        EIGHT,
        "tensor `b` in `DIR/model.safetensors` overlaps the one before: it begins at byte 0 of the data, wanted 8",
    ),
    "bytes after the last tensor": (
        {"a": entry()},
        b"\0" * 11,
        "`DIR/model.safetensors` has 3 bytes after its last tensor, wanted none",
    ),
    "bytes and no tensor": ({}, b"\0", "`DIR/model.safetensors` has 1 bytes after its last tensor, wanted none"),
    "a lie about the size": (
        {"a": entry(shape=[3])},
        EIGHT,
        "tensor `a` in `DIR/model.safetensors` takes 8 bytes, its shape (3,) in F32 takes 12",
    ),
    "end before begin": (
        {"a": entry(shape=[0], data_offsets=[8, 0])},
        EIGHT,
        (
            "tensor `a` in `DIR/model.safetensors` has the data_offsets `[8, 0]`, "
            "wanted [begin, end] with 0 <= begin <= end"
        ),
    ),
    "three offsets": (
        {"a": entry(data_offsets=[0, 4, 8])},
        EIGHT,
        (
            "tensor `a` in `DIR/model.safetensors` has the data_offsets `[0, 4, 8]`, "
            "wanted [begin, end] with 0 <= begin <= end"
        ),
    ),
    "a negative offset": (
        {"a": entry(data_offsets=[-8, 0])},
        EIGHT,
        (
            "tensor `a` in `DIR/model.safetensors` has the data_offsets `[-8, 0]`, "
            "wanted [begin, end] with 0 <= begin <= end"
        ),
    ),
    "a negative dimension": (
        {"a": entry(shape=[-2, -1])},
        EIGHT,
        "tensor `a` in `DIR/model.safetensors` has the shape `[-2, -1]`, wanted integers from 0 below 2**63",
    ),
    "a dimension of 2**63": (
        {"a": entry(shape=[2**63])},
        EIGHT,
        (
            "tensor `a` in `DIR/model.safetensors` has the shape `[9223372036854775808]`, "
            "wanted integers from 0 below 2**63"
        ),
    ),
    "a product that wraps around 64 bits": (
        {"a": entry(shape=[2**32 + 1, 2**32 - 1, 2**62, 4], data_offsets=[0, 0])},
        b"",
        (
            "tensor `a` in `DIR/model.safetensors` takes 0 bytes, its shape "
            f"(4294967297, 4294967295, 4611686018427387904, 4) in F32 takes {(2**64 - 1) * 2**66}"
        ),
    ),
    "a boolean dimension": (
        {"a": entry(shape=[2, True])},
        EIGHT,
        "tensor `a` in `DIR/model.safetensors` has the shape `[2, True]`, wanted integers from 0 below 2**63",
    ),
    "a fractional dimension": (
        {"a": entry(shape=[2.0])},
        EIGHT,
        "tensor `a` in `DIR/model.safetensors` has the shape `[2.0]`, wanted integers from 0 below 2**63",
    ),
    "very many dimensions": (
        {"a": entry(shape=[1] * 32 + [2])},
        EIGHT,
        "tensor `a` in `DIR/model.safetensors` has 33 dimensions, at most 32 are read",
    ),
    "a truncated shard": (
        {"a": entry(), "b": entry(data_offsets=[8, 16])},
        b"\0" * 15,
        "`DIR/model.safetensors` is truncated: it has 146 bytes, its tensors reach to byte 147",
    ),
}
# Where this package is stricter than the library: the format's text forbids the first two, says nothing of the others.
STRICTER = {"a space before the header", "a tensor twice", "an unknown field", "very many dimensions"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_named(tmp_path: Path, name: str) -> None:
    header, data, message = BROKEN[name]
    assert refusal(written(tmp_path, header, data)) == message


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_library_refuses_is_refused(tmp_path: Path, name: str) -> None:
    header, data, _ = BROKEN[name]
    assert the_library_refuses(written(tmp_path, header, data)) is (name not in STRICTER)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2", "C64"])
def test_a_dtype_of_the_format_that_is_not_read_is_unsupported(tmp_path: Path, dtype: str) -> None:
    path = written(tmp_path, {"t": entry(dtype)}, EIGHT)
    message = f"tensor `t` in `DIR/model.safetensors` has the dtype `{dtype}`, which this version does not read"
    assert refusal(path, UnsupportedError) == message


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (100_000_001, "`DIR/model.safetensors` declares a header of 100000001 bytes, at most 100000000 are read"),
        (
            2**64 - 1,
            "`DIR/model.safetensors` declares a header of 18446744073709551615 bytes, at most 100000000 are read",
        ),
        (3, "`DIR/model.safetensors` declares a header of 3 bytes, only 2 follow"),
        (90_000_000, "`DIR/model.safetensors` declares a header of 90000000 bytes, only 2 follow"),
    ],
)
def test_a_header_longer_than_the_file_or_the_limit_is_refused_unread(
    tmp_path: Path, length: int, message: str
) -> None:
    path = written(tmp_path, b"{}", length=length)
    tracemalloc.start()
    try:
        assert refusal(path) == message
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"\x02\0\0"])
def test_a_file_too_short_for_a_length_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    message = f"`DIR/model.safetensors` has {len(content)} bytes, a safetensors file has at least 8"
    assert refusal(tmp_path / "model.safetensors") == message


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(CheckpointError, match="is a git-lfs pointer, not the file itself") as caught:
        read_safetensors(path)
    assert "git lfs pull" in str(caught.value.hint)


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    expected = "`DIR/model.safetensors` is a pipe or a device, wanted a regular file"
    assert refusal(tmp_path / "model.safetensors") == expected


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    assert refusal(tmp_path / "model.safetensors") == "`DIR/model.safetensors` is a directory, wanted a regular file"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(10**6)) + b"}",
            "the header of `DIR/model.safetensors` holds about 1000001 tensors, at most 250000 are read",
        ),
        (
            b'{"t":[' + b"[]," * 10_000_000 + b"[]]}",
            "the header of `DIR/model.safetensors` holds about 20000003 values, at most 4000000 are read",
        ),
        (
            b'{"t":[' + b"1," * 10_000_000 + b"1]}",
            "the header of `DIR/model.safetensors` holds about 10000002 values, at most 4000000 are read",
        ),
    ],
    ids=["a million tensors", "many lists", "many numbers"],
)
def test_a_huge_header_takes_no_more_memory_than_its_bytes(tmp_path: Path, header: bytes, message: str) -> None:
    path = written(tmp_path, header)
    tracemalloc.start()
    try:
        assert refusal(path) == message
        assert tracemalloc.get_traced_memory()[1] < 1.1 * len(header) + (1 << 20)
    finally:
        tracemalloc.stop()


def test_only_the_header_is_read(tmp_path: Path) -> None:
    nbytes = 1 << 40  # a sparse file: reading it would not end
    header: dict[str, Any] = {"t": entry("U8", [nbytes], [0, nbytes])}
    path = written(tmp_path, header)
    os.truncate(path, path.stat().st_size + nbytes)
    assert [source.nbytes for source in read_safetensors(path)] == [nbytes]


def test_opening_safetensors_does_not_import_torch(tmp_path: Path) -> None:
    save_file({"t": torch.ones(3)}, tmp_path / "model.safetensors")
    program = (
        "import sys; from pathlib import Path; from convert.checkpoint import open_checkpoint; "
        f"open_checkpoint(Path({str(tmp_path)!r})); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_random_damage_to_a_header_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2).half()}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    generator = torch.Generator().manual_seed(7)
    for _ in range(500):
        damaged = bytearray(whole)
        for position in torch.randint(len(whole) - 20, (3,), generator=generator).tolist():
            damaged[position] = int(torch.randint(256, (1,), generator=generator))
        (tmp_path / "model.safetensors").write_bytes(damaged)
        try:
            read_safetensors(tmp_path / "model.safetensors")
        except (CheckpointError, UnsupportedError):
            continue
        assert not the_library_refuses(tmp_path / "model.safetensors")
