"""Torch files: what `torch.save` writes is found byte for byte; what would run code, or lies, is refused."""

from __future__ import annotations

import collections
import os
import pickle
import re
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from convert.checkpoint import open_checkpoint
from convert.checkpoint.source import StoredType
from convert.checkpoint.torch_file import read_torch_file
from convert.errors import CheckpointError, ConvertError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from convert.checkpoint.torch_file import TorchFile

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


def saved(tmp_path: Path, value: object, **options: Any) -> Path:  # noqa: ANN401 - torch.save's own
    torch.save(value, tmp_path / "model.pt", **options)
    return tmp_path / "model.pt"


def bytes_at(file: TorchFile) -> dict[str, bytes]:
    return {s.name: s.path.read_bytes()[s.offset : s.offset + s.nbytes] for s in file.sources}


def bytes_of(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def refusal(path: Path, kind: type[ConvertError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        read_torch_file(path)
    return caught.value.message.replace(str(path.parent), "DIR")


def rewritten(path: Path, changes: Mapping[str, bytes | None], *, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a torch file again with some of its records replaced, added or (None) left out."""
    with zipfile.ZipFile(path) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    # With this record, torch computes where records lie from its own padding, which Python's zipfile does not write.
    records.pop(".format_version", None)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**records, **changes}.items():
            if data is not None:
                archive.writestr(f"model/{name}", data)
    return path


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_of_each_dtype_is_found_where_it_lies(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(1, 25).reshape(2, 3, 4).to(dtype)
    file = read_torch_file(saved(tmp_path, {"first": torch.ones(3), "t": tensor}))
    assert [(s.name, s.dtype, s.shape) for s in file.sources][1] == ("t", DTYPES[dtype], (2, 3, 4))
    assert bytes_at(file)["t"] == bytes_of(tensor)


def test_windows_shared_storages_scalars_and_empty_tensors_are_found(tmp_path: Path) -> None:
    whole = torch.randn(30, 8)
    state = {
        "whole": whole,
        "tied": whole,
        "window": whole[10:20],
        "row": whole[3],
        "scalar": torch.tensor(7.0),
        "element": whole[4, 5],
        "empty": torch.zeros(0, 4),
        "thin": whole.t()[:1].t()[:1],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "after": torch.randn(5),
    }
    file = read_torch_file(saved(tmp_path, state))
    assert bytes_at(file) == {name: bytes_of(tensor) for name, tensor in state.items()}
    assert file.notes == ()


def test_tensors_come_in_the_order_they_were_saved(tmp_path: Path) -> None:
    state = collections.OrderedDict((name, torch.ones(1)) for name in ("z", "a", "m"))
    assert [source.name for source in read_torch_file(saved(tmp_path, state)).sources] == ["z", "a", "m"]


def test_a_modules_own_state_dict_is_read(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2, bias=False))
    file = read_torch_file(saved(tmp_path, model.state_dict()))
    assert bytes_at(file) == {name: bytes_of(tensor) for name, tensor in model.state_dict().items()}


def test_a_zip_written_by_another_tool_is_read(tmp_path: Path) -> None:
    state = {"a": torch.randn(5), "b": torch.randn(3, 3)}
    file = read_torch_file(rewritten(saved(tmp_path, state), {}))
    assert bytes_at(file) == {name: bytes_of(tensor) for name, tensor in state.items()}


def test_the_file_is_loaded_without_code_and_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []
    load = torch.load

    def recorded(path: Path, **options: Any) -> object:  # noqa: ANN401 - torch.load's own
        calls.append(options)
        return load(path, **options)

    monkeypatch.setattr("torch.load", recorded)
    read_torch_file(saved(tmp_path, {"t": torch.ones(3)}))
    assert calls == [{"map_location": "meta", "mmap": True, "weights_only": True}]


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module", "model_state_dict"])
def test_a_trainers_checkpoint_is_unwrapped(tmp_path: Path, wrapper: str) -> None:
    weight = torch.randn(4)
    value = {
        "step": 5,
        wrapper: {"w": weight},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}},
        "rng": torch.zeros(9, dtype=torch.uint8),
    }
    file = read_torch_file(saved(tmp_path, value))
    assert bytes_at(file) == {"w": bytes_of(weight)}
    assert file.notes == (f"`model.pt`: took the tensors under `{wrapper}`, ignored `step`, `optimizer`, `rng`",)


def test_entries_that_are_not_tensors_are_noted(tmp_path: Path) -> None:
    file = read_torch_file(saved(tmp_path, {"step": 5, "w": torch.ones(1), "name": "x", "nested": {"n": 1}}))
    assert [source.name for source in file.sources] == ["w"]
    assert file.notes == ("`model.pt`: ignored `step`, `name`, `nested`",)


@pytest.mark.parametrize(
    ("names", "plain", "prefixes"),
    [
        (["module.a.w", "module.b.w"], ["a.w", "b.w"], ["module."]),
        (["_orig_mod.b.w", "_orig_mod.a.w"], ["b.w", "a.w"], ["_orig_mod."]),
        (["module._orig_mod.a.w"], ["a.w"], ["_orig_mod.", "module."]),
        (["_orig_mod.module.a.w"], ["a.w"], ["_orig_mod.", "module."]),
        (["model.layers.0._orig_mod.w", "lm_head.w"], ["model.layers.0.w", "lm_head.w"], ["_orig_mod."]),
        (["model.model.norm.w", "model.lm_head.w"], ["model.norm.w", "lm_head.w"], ["model."]),
        (["model.norm.w", "model.embed.w"], ["model.norm.w", "model.embed.w"], []),
        (["module.a.w", "b.w"], ["module.a.w", "b.w"], []),
    ],
)
def test_wrappers_prefixes_are_removed_and_noted(
    tmp_path: Path, names: list[str], plain: list[str], prefixes: list[str]
) -> None:
    saved(tmp_path, {name: torch.full((2,), float(i)) for i, name in enumerate(names)})
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == plain
    assert [source.name for source in checkpoint.tensors.values()] == plain
    assert checkpoint.notes == tuple(f"removed `{prefix}` from tensor names" for prefix in prefixes)


def test_two_names_that_become_one_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, {"a.w": torch.ones(1), "_orig_mod.a.w": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"^tensors `a\.w` and `_orig_mod\.a\.w` are both `a\.w`$"):
        open_checkpoint(tmp_path)


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
