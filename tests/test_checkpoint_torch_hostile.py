"""Torch files that would run code, lie or are broken are refused, each with its reason."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch
from torch_files import refusal, rewritten, saved

from convert.checkpoint.torch_file import read_torch_file
from convert.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# --- what would run code ----------------------------------------------------------------------------------------------


class Touch:
    """Pickles as a call that makes a file, so that loading it can be seen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("place", ["a key beside the tensors", "data.pkl alone"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, protocol: int, place: str) -> None:
    touched = tmp_path / "touched"
    path = saved(tmp_path, {"w": torch.ones(2), "x": Touch(touched)})
    if place == "data.pkl alone":
        rewritten(path, {"data.pkl": pickle.dumps(Touch(touched), protocol=protocol)})
    else:
        saved(tmp_path, {"w": torch.ones(2), "x": Touch(touched)}, pickle_protocol=protocol)
    expected = (
        f"`DIR/model.pt` is refused: to load it would run `{os.mkdir.__module__}.mkdir`; nothing in it was executed"
    )
    assert refusal(path) == expected
    assert not touched.exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    assert refusal(path) == "`DIR/model.pt` is a bare pickle, wanted a zip saved by `torch.save`"
    assert not (tmp_path / "touched").exists()


def test_a_whole_module_is_refused_with_a_hint_to_save_its_state_dict(tmp_path: Path) -> None:
    path = saved(tmp_path, torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError) as caught:
        read_torch_file(path)
    assert "holds a `torch.nn.modules.linear.Linear`, wanted plain tensors" in caught.value.message
    assert "model.state_dict()" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("builtins bytearray", "is refused: to load it would run `builtins.bytearray`; nothing in it was executed"),
        ("torch Tensor", "holds a `torch.Tensor`, wanted plain tensors"),
        ("torch FloatTensor", "holds a `torch.FloatTensor`, wanted plain tensors"),
    ],
)
def test_a_pickle_that_asks_for_memory_is_refused(tmp_path: Path, name: str, message: str) -> None:
    module, attribute = name.split()
    bomb = f"\x80\x02c{module}\n{attribute}\n\x8a\x06".encode("latin-1") + (1 << 44).to_bytes(6, "little") + b"\x85R."
    path = rewritten(saved(tmp_path, {"w": torch.ones(2)}), {"data.pkl": bomb})
    assert refusal(path) == f"`DIR/model.pt` {message}"


# --- what is broken ---------------------------------------------------------------------------------------------------


def test_the_format_of_before_1_6_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert refusal(path) == "`DIR/model.pt` was saved in the format of PyTorch before 1.6, wanted a zip"


@pytest.mark.parametrize("protocol", [3, 4])
def test_another_pickle_protocol_is_refused_by_number(tmp_path: Path, protocol: int) -> None:
    path = saved(tmp_path, {"w": torch.ones(2)}, pickle_protocol=protocol)
    assert refusal(path) == f"`DIR/model.pt` has a pickle of protocol {protocol}, wanted 2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "`DIR/model.pt` is empty, wanted a file saved by `torch.save`"),
        (b"hello", "`DIR/model.pt` begins with `68 65 6c 6c`, wanted a zip saved by `torch.save`"),
        (b"version https://git-lfs.github.com/spec/v1\n", "`DIR/model.pt` is a git-lfs pointer, not the file itself"),
    ],
)
def test_a_file_that_is_no_torch_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert refusal(tmp_path / "model.pt") == message


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    assert refusal(tmp_path / "model.pt") == "`DIR/model.pt` is a pipe or a device, wanted a regular file"


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path, {"w": torch.ones(2000), "v": torch.ones(100)})
    nbytes = int(path.stat().st_size * kept)
    os.truncate(path, nbytes)
    assert refusal(path) == f"`DIR/model.pt` is a broken zip of {nbytes} bytes: File is not a zip file"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.pkl": None}, "`DIR/model.pt` is a zip without a `data.pkl`, wanted a file saved by `torch.save`"),
        ({"byteorder": b"big"}, "`DIR/model.pt` has the byte order `big`, wanted `little`"),
        ({"data/0": b"\0" * 4}, "tensor `w` in `DIR/model.pt` is stored in 8 bytes at byte N, its directory has 4"),
        ({"data.pkl": b"\x80\x02."}, "`DIR/model.pt` is refused by `torch.load`: pop from empty list"),
        (
            {"data.pkl": b"\x80\x02\x8a"},
            "`DIR/model.pt` has a malformed pickle: not enough data in stream to read uint1",
        ),
        ({"data.pkl": b"\x80\x02h\x05."}, "`DIR/model.pt` is refused by `torch.load`: 5"),
        ({"data.pkl": b"\x80\x02]."}, "`DIR/model.pt` holds a `list`, wanted a dict of tensors"),
        ({"data.pkl": b"\x80\x02}."}, "`DIR/model.pt` holds no tensors; its keys are none"),
    ],
)
def test_a_broken_record_is_named(tmp_path: Path, changes: dict[str, bytes | None], message: str) -> None:
    path = rewritten(saved(tmp_path, {"w": torch.ones(2)}), changes)
    got = refusal(path)
    if "byte N" in message:
        with zipfile.ZipFile(path) as archive:
            record = archive.getinfo("model/data/0")
        message = message.replace("byte N", f"byte {record.header_offset + 30 + len(record.filename)}")
    assert got == message


def test_a_missing_storage_is_refused(tmp_path: Path) -> None:
    path = rewritten(saved(tmp_path, {"w": torch.ones(2)}), {"data/0": None})
    assert "`DIR/model.pt` is refused by `torch.load`: PytorchStreamReader failed locating file data/0" in refusal(path)


def test_a_compressed_record_is_refused(tmp_path: Path) -> None:
    path = rewritten(saved(tmp_path, {"w": torch.ones(2000)}), {}, compression=zipfile.ZIP_DEFLATED)
    assert refusal(path) == "record `model/data.pkl` in `DIR/model.pt` is compressed or encrypted, wanted it stored"


def test_a_record_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.ones(2)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"")
    assert refusal(path) == "`DIR/model.pt` has the record `other/data.pkl` twice"


def test_a_torchscript_program_is_unsupported(tmp_path: Path) -> None:
    path = rewritten(saved(tmp_path, {"w": torch.ones(2)}), {"constants.pkl": b""})
    assert refusal(path, UnsupportedError) == "`DIR/model.pt` is a TorchScript program, wanted a state dict"


def test_an_offset_that_torch_computed_wrong_is_noticed(tmp_path: Path) -> None:
    # torch adds up the padding that its own writer leaves; a zip packed again without it would be read beside the mark.
    path = rewritten(saved(tmp_path, {"v": torch.ones(3), "w": torch.ones(5)}), {".format_version": b"1"})
    assert "tensor `w` in `DIR/model.pt` is stored in 20 bytes at byte" in refusal(path)


def test_a_transposed_matrix_says_so(tmp_path: Path) -> None:
    stored = torch.randn(3, 4)
    (source,) = read_torch_file(saved(tmp_path, {"w": stored.t()})).sources
    assert (source.shape, source.is_transposed) == ((4, 3), True)
    assert source.path.read_bytes()[source.offset : source.offset + source.nbytes] == stored.numpy().tobytes()


@pytest.mark.parametrize(
    ("view", "shape", "strides"),
    [
        (lambda t: t[:, :2], "(3, 2)", "(4, 1)"),
        (lambda t: t[0].expand(5, 4), "(5, 4)", "(0, 1)"),
        (lambda t: t[::2], "(2, 4)", "(8, 1)"),
    ],
    ids=["columns", "expanded", "every other row"],
)
def test_other_strides_are_refused_with_the_way_out(
    tmp_path: Path, view: Callable[[torch.Tensor], torch.Tensor], shape: str, strides: str
) -> None:
    path = saved(tmp_path, {"w": view(torch.randn(3, 4))})
    with pytest.raises(CheckpointError) as caught:
        read_torch_file(path)
    expected = f"tensor `w` in `{path}`, shape {shape}, is not contiguous: its strides are {strides}"
    assert caught.value.message == expected
    assert ".contiguous()" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: torch.ones(2, dtype=torch.complex64),
            "has the dtype `torch.complex64`, which this version does not read",
        ),
        (
            lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
            "is sparse, quantized or lazily negated, wanted a plain tensor",
        ),
    ],
    ids=["complex", "negated"],
)
def test_a_tensor_of_another_kind_is_unsupported(
    tmp_path: Path, make: Callable[[], torch.Tensor], message: str
) -> None:
    path = saved(tmp_path, {"w": make()})
    assert refusal(path, UnsupportedError) == f"tensor `w` in `DIR/model.pt` {message}"


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.eye(3).to_sparse()})
    assert refusal(path) == "`DIR/model.pt` holds a `torch._utils._rebuild_sparse_tensor`, wanted plain tensors"


def test_a_window_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.ones(4)})
    with zipfile.ZipFile(path) as archive:
        data = archive.read("model/data.pkl")
    # shape (4,) as BININT1 4, TUPLE1: say 200 instead
    assert data.count(b"K\x04\x85") == 1
    rewritten(path, {"data.pkl": data.replace(b"K\x04\x85", b"K\xc8\x85")})
    # On the meta device torch lets the storage grow to what the tensor asks for.
    assert re.fullmatch(
        r"tensor `w` in `DIR/model.pt` is stored in 800 bytes at byte \d+, its directory has 16", refusal(path)
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"step": 3}, "`DIR/model.pt` holds no tensors; its keys are `step`"),
        ({"a": {"b": {"w": torch.ones(1)}}}, "`DIR/model.pt` holds no tensors; its keys are `a`"),
        (torch.ones(2), "`DIR/model.pt` holds a `Tensor`, wanted a dict of tensors"),
        ({0: torch.ones(2)}, "`DIR/model.pt` has a tensor under the key `0`, wanted a string"),
        (
            {"model": {"w": torch.ones(1)}, "state_dict": {"w": torch.ones(1)}},
            "`DIR/model.pt` holds several state dicts: `state_dict`, `model`, wanted one",
        ),
    ],
)
def test_a_file_without_one_state_dict_is_refused(tmp_path: Path, value: object, message: str) -> None:
    assert refusal(saved(tmp_path, value)) == message


def test_random_damage_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(3), "b": torch.ones(2, 2).half(), "step": 3})
    with zipfile.ZipFile(path) as archive:
        data = archive.read("model/data.pkl")
    generator = torch.Generator().manual_seed(7)
    for _ in range(300):
        damaged = bytearray(data)
        for position in torch.randint(len(data), (2,), generator=generator).tolist():
            damaged[position] = int(torch.randint(256, (1,), generator=generator))
        rewritten(path, {"data.pkl": bytes(damaged)})
        try:
            file = read_torch_file(path)
        except (CheckpointError, UnsupportedError):
            continue
        assert all(source.offset + source.nbytes <= path.stat().st_size for source in file.sources)
