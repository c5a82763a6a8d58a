"""GGUF headers: what we write is what the gguf package writes, and a hostile file is an error."""

from __future__ import annotations

import datetime as dt
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from convert.errors import CheckpointError, ConvertError, ShapeError, UnsupportedError
from convert.gguf_file import KeyValue, encode_key_value, encoded_entry, layout, read_gguf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Return a small GGUF file made by the gguf package."""
    path = tmp_path / "small.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list([b"a", "\u00e9".encode(), b"\xff\xfe", b""])
    writer.add_token_scores([0.0, -1.5, 2.0, 3.0])
    writer.add_bool("a.flag", val=True)
    writer.add_array("a.words", ["x"])
    writer.add_float64("a.double", 0.1)
    writer.add_tensor("blk.0.w.weight", np.arange(64, dtype=np.float16).reshape(2, 32))
    writer.add_tensor("norm.weight", np.arange(3, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_our_layout_is_the_gguf_packages(written: Path) -> None:
    file = read_gguf(written)
    tensors = [(tensor.name, tensor.shape, tensor.type) for tensor in file.tensors]
    header, infos, nbytes = layout(tensors, [encoded_entry(entry) for entry, _ in file.entries])
    assert written.read_bytes()[: len(header)] == header
    assert infos == file.tensors
    assert nbytes == written.stat().st_size


def test_the_reader_agrees_with_the_gguf_packages_reader(written: Path) -> None:
    file, reference = read_gguf(written), GGUFReader(written)
    raw_key = "tokenizer.ggml.tokens"  # not all UTF-8, which the package's reader cannot show
    fields = {
        key: field.contents()
        for key, field in reference.fields.items()
        if not key.startswith("GGUF.") and key != raw_key
    }
    raw = reference.fields[raw_key]
    fields[raw_key] = [bytes(raw.parts[index]) for index in raw.data]
    ours = {key: list(value) if isinstance(value, tuple) else value for key, value in file.metadata.items()}
    ours["a.words"] = ["x"]  # the package decodes, we keep bytes
    assert ours == fields
    places = [(str(tensor.name), tensor.data_offset, tensor.n_bytes) for tensor in reference.tensors]
    assert [(tensor.name, tensor.offset, tensor.nbytes) for tensor in file.tensors] == places


def test_an_entry_read_and_encoded_again_is_the_same_bytes(written: Path) -> None:
    for entry, encoded in read_gguf(written).entries:
        assert encode_key_value(entry) == encoded, entry.key


VALUES: dict[GGUFValueType, tuple[object, ...]] = {
    GGUFValueType.UINT8: (0, 1, 255),
    GGUFValueType.INT8: (-128, 0, 127),
    GGUFValueType.UINT16: (0, 65535),
    GGUFValueType.INT16: (-32768, 32767),
    GGUFValueType.UINT32: (0, (1 << 32) - 1),
    GGUFValueType.INT32: (-(1 << 31), (1 << 31) - 1),
    GGUFValueType.FLOAT32: (0.0, -0.0, 1.5, 2.0**-149, float("inf")),
    GGUFValueType.BOOL: (True, False, True),
    GGUFValueType.STRING: ("plain", "", "\u00e9 \U0001f999", "a\0b"),
    GGUFValueType.UINT64: (0, (1 << 64) - 1),
    GGUFValueType.INT64: (-(1 << 63), (1 << 63) - 1),
    GGUFValueType.FLOAT64: (0.1, -0.0, 5e-324),
}
ENTRIES: dict[str, KeyValue] = {
    **{type_.name: KeyValue("a.value", values[-1], type_) for type_, values in VALUES.items()},
    **{
        f"array of {type_.name}": KeyValue("a.values", values, GGUFValueType.ARRAY, type_)
        for type_, values in VALUES.items()
    },
}


def _written_by_the_package(path: Path, entry: KeyValue) -> bytes:
    writer = GGUFWriter(path, "llama")
    writer.add_key_value(entry.key, entry.value, entry.type, entry.item_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    content = path.read_bytes()
    return content[content.index(struct.pack("<Q", len(entry.key)) + entry.key.encode()) :]


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_the_gguf_packages_bytes(name: str, tmp_path: Path) -> None:
    assert encode_key_value(ENTRIES[name]) == _written_by_the_package(tmp_path / "theirs.gguf", ENTRIES[name])


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_of_ours_is_read_by_us_and_by_the_gguf_package(name: str, tmp_path: Path) -> None:
    entry = ENTRIES[name]
    path = tmp_path / "ours.gguf"
    path.write_bytes(layout([], [encoded_entry(entry)])[0])
    theirs = GGUFReader(path).fields[entry.key].contents()
    assert theirs == (list(entry.value) if isinstance(entry.value, tuple) else entry.value)
    ((read, encoded),) = read_gguf(path).entries
    assert encode_key_value(read) == encoded == encode_key_value(entry)
    items = read.value if isinstance(read.value, tuple) else (read.value,)
    shown = [item.decode() if isinstance(item, bytes) else item for item in items]
    assert shown == (theirs if isinstance(theirs, list) else [theirs])


@pytest.mark.parametrize(
    "value",
    [("a", "\u00e9"), (b"\xff", "a"), (1, -2), (1.5, 2.5), (True, False), b"\0\xff", "ab", [1, 2], (3,)],
    ids=repr,
)
def test_the_type_of_items_is_inferred_as_the_gguf_package_does(value: object, tmp_path: Path) -> None:
    entry = KeyValue("a.values", value, GGUFValueType.ARRAY)
    assert encode_key_value(entry) == _written_by_the_package(tmp_path / "theirs.gguf", entry)


UNENCODABLE: dict[str, tuple[object, GGUFValueType, GGUFValueType | None]] = {
    "a negative count": (-1, GGUFValueType.UINT32, None),
    "an integer too large": (1 << 64, GGUFValueType.UINT64, None),
    "a float beyond float32": (1e300, GGUFValueType.FLOAT32, None),
    "a word for a number": ("x", GGUFValueType.FLOAT32, None),
    "no number": (None, GGUFValueType.INT32, None),
    "a number for a string": (3, GGUFValueType.STRING, None),
    "a list for a string": (["x"], GGUFValueType.STRING, None),
    "a date for a string": (dt.date(2024, 1, 2), GGUFValueType.STRING, None),
    "half of a surrogate pair": ("\ud800", GGUFValueType.STRING, None),
    "an array of nothing": ((), GGUFValueType.ARRAY, None),
    "an array that is a set": ({"x"}, GGUFValueType.ARRAY, None),
    "an array of two types": (("x", 1), GGUFValueType.ARRAY, None),
    "an array of dates": ((dt.date(2024, 1, 2),), GGUFValueType.ARRAY, None),
    "an array with a float beyond float32": ((1.0, 1e300), GGUFValueType.ARRAY, GGUFValueType.FLOAT32),
    "an array with a word for a number": ((1, "x"), GGUFValueType.ARRAY, GGUFValueType.INT32),
    "an array with a number for a string": (("x", 1), GGUFValueType.ARRAY, GGUFValueType.STRING),
}


@pytest.mark.parametrize("name", UNENCODABLE)
def test_what_the_gguf_package_refuses_fails_the_same_way(name: str, tmp_path: Path) -> None:
    entry = KeyValue("a.value", *UNENCODABLE[name])
    writer = GGUFWriter(tmp_path / "theirs.gguf", "llama")
    writer.add_key_value(entry.key, entry.value, entry.type, entry.item_type)
    writer.write_header_to_file()
    with pytest.raises((ArithmeticError, TypeError, ValueError, struct.error)) as theirs:
        writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(theirs.type):
        encode_key_value(entry)


def test_arrays_of_arrays_are_not_encoded() -> None:
    # The package writes them, but neither llama.cpp nor we read them.
    with pytest.raises(ValueError, match="no arrays of arrays"):
        encode_key_value(KeyValue("a.values", ([1], [2]), GGUFValueType.ARRAY))


def test_a_vocabulary_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    tokens = KeyValue("a.tokens", tuple(b"%d" % number * 9 for number in range(50_000)), GGUFValueType.ARRAY)
    long = KeyValue("a.text", "x" * (3 << 20), GGUFValueType.STRING)
    empty = KeyValue("a.none", (), GGUFValueType.ARRAY, GGUFValueType.STRING)
    path = tmp_path / "long.gguf"
    path.write_bytes(layout([], [encoded_entry(entry) for entry in (tokens, long, empty)])[0])
    file = read_gguf(path)
    assert file.metadata == {"a.tokens": tokens.value, "a.text": long.value, "a.none": ()}
    assert [encode_key_value(entry) for entry, _ in file.entries] == [raw for _, raw in file.entries]


def test_rows_that_do_not_fill_blocks_cannot_be_laid_out() -> None:
    with pytest.raises(ShapeError, match="a row has 48 columns, Q4_0 needs a multiple of 32"):
        layout([("x", (2, 48), T.Q4_0)], [])


def _replace(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


def _counts(n_tensors: int, n_entries: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:8] + struct.pack("<QQ", n_tensors, n_entries) + data[24:]


NORM_SHAPE = b"norm.weight" + struct.pack("<IQ", 1, 3)
WEIGHT_INFO = b"blk.0.w.weight" + struct.pack("<IQQIQ", 2, 32, 2, T.F16, 0)

HOSTILE: dict[str, tuple[Callable[[bytes], bytes], type[ConvertError], str]] = {
    "empty": (lambda _: b"", CheckpointError, "is empty"),
    "not gguf": (lambda data: b"FUGG" + data[4:], CheckpointError, "starts with"),
    "version 1": (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], UnsupportedError, "version 1"),
    "big endian": (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], UnsupportedError, "big endian"),
    "too many tensors": (_counts(1 << 60, 8), CheckpointError, "claims"),
    "too many entries": (_counts(2, 1 << 60), CheckpointError, "claims"),
    "truncated header": (lambda data: data[:200], CheckpointError, "needs"),
    "truncated data": (lambda data: data[:-64], CheckpointError, "ends at"),
    "a key of 2**63 bytes": (
        lambda data: data[:24] + struct.pack("<Q", 1 << 63) + data[32:],
        CheckpointError,
        "a metadata key has",
    ),
    "a key twice": (
        lambda data: _replace(data, b"tokenizer.ggml.scores", b"tokenizer.ggml.tokens"),
        CheckpointError,
        "stands twice",
    ),
    "a token of 2**63 bytes": (
        lambda data: _replace(data, struct.pack("<Q", 2) + b"\xff\xfe", struct.pack("<Q", 1 << 63) + b"\xff\xfe"),
        CheckpointError,
        "`tokenizer.ggml.tokens` has 9223372036854775808 bytes",
    ),
    "an unknown value type": (
        lambda data: _replace(data, b"a.flag" + struct.pack("<I", 7), b"a.flag" + struct.pack("<I", 99)),
        CheckpointError,
        "unknown value type 99",
    ),
    "an array of 2**62 items": (
        lambda data: _replace(
            data, b"scores" + struct.pack("<IIQ", 9, 6, 4), b"scores" + struct.pack("<IIQ", 9, 6, 1 << 62)
        ),
        CheckpointError,
        "is an array of",
    ),
    "an array of arrays": (
        lambda data: _replace(data, b"a.words" + struct.pack("<II", 9, 8), b"a.words" + struct.pack("<II", 9, 9)),
        CheckpointError,
        "is an array of",
    ),
    "five dimensions": (
        lambda data: _replace(data, NORM_SHAPE, b"norm.weight" + struct.pack("<IQ", 5, 3)),
        CheckpointError,
        "has 5 dimensions",
    ),
    "an empty shape": (
        lambda data: _replace(data, NORM_SHAPE, b"norm.weight" + struct.pack("<IQ", 1, 0)),
        CheckpointError,
        "has shape (0,)",
    ),
    "a huge shape": (
        lambda data: _replace(data, NORM_SHAPE, b"norm.weight" + struct.pack("<IQ", 1, 1 << 61)),
        CheckpointError,
        "ends at",
    ),
    "an unknown tensor type": (
        lambda data: _replace(data, WEIGHT_INFO, WEIGHT_INFO[:-12] + struct.pack("<IQ", 999, 0)),
        UnsupportedError,
        "unknown type 999",
    ),
    "an offset out of line": (
        lambda data: _replace(data, WEIGHT_INFO, WEIGHT_INFO[:-8] + struct.pack("<Q", 7)),
        CheckpointError,
        "not a multiple of 32",
    ),
    "overlapping tensors": (
        lambda data: _replace(data, NORM_SHAPE + struct.pack("<IQ", 0, 128), NORM_SHAPE + struct.pack("<IQ", 0, 96)),
        CheckpointError,
        "overlaps",
    ),
    "a name twice": (
        lambda data: _replace(data, struct.pack("<Q", 11) + b"norm.weight", struct.pack("<Q", 14) + b"blk.0.w.weight"),
        CheckpointError,
        "same name",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_a_clear_error(name: str, written: Path, tmp_path: Path) -> None:
    change, error, says = HOSTILE[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(change(written.read_bytes()))
    with pytest.raises(error) as caught:
        read_gguf(path)
    assert says in caught.value.message
    assert str(path) in caught.value.message


def test_a_directory_is_not_a_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a directory, wanted a GGUF file"):
        read_gguf(tmp_path)


def test_an_alignment_that_is_no_power_of_two_is_refused(tmp_path: Path) -> None:
    header, _, _ = layout([], [encoded_entry(KeyValue("general.alignment", 48, GGUFValueType.UINT32))])
    path = tmp_path / "odd.gguf"
    path.write_bytes(header)
    with pytest.raises(CheckpointError, match="not a power of two"):
        read_gguf(path)
