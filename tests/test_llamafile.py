"""A llamafile: the GGUF in a program's zip, read where it lies."""

from __future__ import annotations

import struct
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from convert.conversion import convert_all, quantize
from convert.errors import ConvertError
from convert.gguf_file import read_gguf
from convert.inspection import inspect
from convert.plan import OutputRequest
from convert.verify import verify_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def gguf(tiny_llama: Path, tmp_path: Path) -> Path:
    convert_all(tiny_llama, OutputRequest(tmp_path, "f16", "tiny"))
    return tmp_path / "tiny-F16.gguf"


def write_llamafile(gguf: Path, path: Path, *, compression: int = zipfile.ZIP_STORED, n_members: int = 1) -> Path:
    """Put GGUF files behind a program, as `zipalign` does: stored."""
    path.write_bytes(b"MZqFpD='\n" + bytes(5000))
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr(".args", "-m\ntiny.gguf\n")
        for number in range(n_members):
            archive.write(gguf, f"tiny{number or ''}.gguf")
    return path


def test_it_is_quantized_inspected_and_verified_as_the_gguf_in_it(gguf: Path, tmp_path: Path) -> None:
    llamafile = write_llamafile(gguf, tmp_path / "tiny-F16.llamafile")
    quantize(gguf, OutputRequest(tmp_path / "a", "q4_0,q6_k"))
    quantize(llamafile, OutputRequest(tmp_path / "b", "q4_0,q6_k"))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    one, other = inspect(llamafile), inspect(gguf)
    assert (one.metadata, one.tensors, one.stored) == (other.metadata, other.tensors, other.stored)
    verify_files([llamafile]).check()
    header = read_gguf(llamafile)
    start = header.start
    assert llamafile.read_bytes()[start : header.nbytes] == gguf.read_bytes()


def _directory_lie(path: Path, at: int, value: int) -> None:
    """Change four bytes in the directory's entry of the GGUF; it is the last."""
    data = bytearray(path.read_bytes())
    entry = data.rfind(b"PK\1\2")
    data[entry + at : entry + at + 4] = struct.pack("<I", value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: _directory_lie(path, 24, 1 << 30), "reaches to byte"),
        (lambda path: _directory_lie(path, 42, 20), "has no header at byte"),
        (lambda path: _directory_lie(path, 24, 1000), "is not a sound GGUF file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "is not a GGUF file: it starts with b'MZqF'"),
    ],
)
def test_a_place_that_is_a_lie_is_told(change: Any, message: str, gguf: Path, tmp_path: Path) -> None:  # noqa: ANN401
    llamafile = write_llamafile(gguf, tmp_path / "tiny.llamafile")
    change(llamafile)
    with pytest.raises(ConvertError) as caught:
        read_gguf(llamafile)
    assert message in caught.value.message


def test_what_is_not_one_stored_gguf_is_told(gguf: Path, tmp_path: Path) -> None:
    packed = write_llamafile(gguf, tmp_path / "packed.llamafile", compression=zipfile.ZIP_DEFLATED)
    two = write_llamafile(gguf, tmp_path / "two.llamafile", n_members=2)
    for path, message in ((packed, "is compressed or encrypted"), (two, "has several GGUF files in it")):
        with pytest.raises(ConvertError, match=message):
            read_gguf(path)
