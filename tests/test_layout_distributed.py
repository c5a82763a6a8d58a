"""Checkpoints of torch.distributed, saved by torch from two processes: the files are those of the model saved whole."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from distributed_checkpoints import WAYS, changed, write_distributed
from layout_files import hashes, refused
from peft_adapters import TOKENIZER_FILES, write_base
from safetensors.torch import load_file
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save

from convert.checkpoint import Stated, open_checkpoint
from convert.checkpoint.pieces import Pieced
from convert.checkpoint.source import StoredType, TensorSource, matrix_shape
from convert.checkpoint.source_files import SourceFiles
from convert.errors import UnsupportedError
from convert.inspection import inspect
from convert.model import model_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("distributed")
    twin = write_base(root / "twin" / "run")
    write_distributed(twin, root / "made")
    for way in WAYS:
        for name in ("config.json", "generation_config.json", *TOKENIZER_FILES):
            if (twin / name).is_file():
                shutil.copy(twin / name, root / "made" / way / "run")
    return root


@pytest.fixture
def hostile(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "made" / "columns" / "run", tmp_path / "hostile")


@pytest.mark.parametrize("way", WAYS)
def test_files_are_those_of_the_model_saved_whole(way: str, made: Path, tmp_path: Path) -> None:
    assert hashes(made / "made" / way / "run", tmp_path / "ours") == hashes(made / "twin" / "run", tmp_path / "twins")


def test_what_is_no_models_is_passed_over_and_told(made: Path) -> None:
    told = inspect(made / "made" / "fsdp2" / "run")
    assert told.problem is None
    assert any("passes over what is no model's: `optim.state.model.norm.weight.exp_avg`" in note for note in told.notes)
    assert "took the tensors under `model`" in told.notes


def test_an_output_that_is_the_embeddings_is_not_written_twice(tmp_path: Path) -> None:
    twin = write_base(tmp_path / "twin" / "run", tie_word_embeddings=True)
    state = load_file(twin / "model.safetensors")
    own = shutil.copytree(twin, tmp_path / "own" / "run", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.warns(UserWarning, match="in a single process"):
        save({"app": {"model": state | {"lm_head.weight": state["model.embed_tokens.weight"]}}}, checkpoint_id=own)
    assert hashes(own, tmp_path / "a", "f16") == hashes(twin, tmp_path / "b", "f16")


def test_the_folder_itself_is_read_with_a_config_and_a_tokenizer_from_elsewhere(made: Path, tmp_path: Path) -> None:
    inner, twin = made / "made" / "fsdp2" / "run" / "pytorch_model_fsdp_0", made / "twin" / "run"
    assert "config.json` is missing" in refused(inner, tmp_path / "out.gguf").message
    stated = Stated(config=twin / "config.json", tokenizer=twin)
    (found,) = hashes(model_request(inner, stated=stated), tmp_path / "ours", "f16")
    assert found == "pytorch_model_fsdp_0-F16.gguf"


def test_megatrons_names_are_not_guessed(made: Path, tmp_path: Path) -> None:
    error = refused(made / "made" / "megatron" / "run", tmp_path / "out.gguf")
    assert isinstance(error, UnsupportedError)
    assert "has Megatron's names, which are not translated: `module.embedding.word_embeddings.weight`" in error.message
    assert "Megatron Bridge" in str(error.hint)


@pytest.mark.parametrize("shape", [(7,), (6, 5), (3, 4, 5), (2, 3, 4, 5)])
def test_blocks_are_put_together_wherever_rows_are_cut(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path, parts, offsets = tmp_path / "blocks", [], []
    with path.open("wb") as file:
        for corner in np.ndindex(*(2,) * len(shape)):
            cuts = [slice(n // 2) if at == 0 else slice(n // 2, n) for at, n in zip(corner, shape, strict=True)]
            block = np.ascontiguousarray(values[tuple(cuts)])
            parts.append(TensorSource("w", path, file.tell(), StoredType.F32, block.shape))
            offsets.append(tuple(int(cut.start or 0) for cut in cuts))
            file.write(block.tobytes())
    tensor = Pieced("w", shape, tuple(parts), tuple(offsets))
    n_rows, n_cols = matrix_shape(shape)
    for first in range(n_rows):
        for last in range(first + 1, n_rows + 1):
            out = np.empty((last - first, n_cols * 4), np.uint8)
            tensor.read_rows(SourceFiles(), first, out)
            np.testing.assert_array_equal(out.view(np.float32), values.reshape(n_rows, n_cols)[first:last])


NORM, MATRIX = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"


def _place(metadata: Any, name: str = MATRIX) -> Any:  # noqa: ANN401 - torch's own
    return next(place for index, place in metadata.storage_data.items() if index.fqn == name)


def _chunk(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def _moved(metadata: Any) -> None:  # noqa: ANN401
    """Have the second half of a matrix begin in its first."""
    chunks = metadata.state_dict_metadata[MATRIX].chunks
    metadata.storage_data[MetadataIndex(MATRIX, (0, 1))] = _place(metadata)
    chunks[1] = _chunk((0, 1), tuple(chunks[1].sizes))


FAULTS: list[tuple[str, Callable[[Any], object]]] = [
    ("that overlap", _moved),
    ("lacks pieces: ", lambda m: m.state_dict_metadata[MATRIX].chunks.pop()),
    ("has a piece of (65,) at (0,), its shape is (64,)",
     lambda m: m.state_dict_metadata[NORM].chunks.__setitem__(0, _chunk((0,), (65,)))),
    ("has no place for the piece at (0, 0)", lambda m: m.storage_data.pop(MetadataIndex(MATRIX, (0, 0)))),
    ("is said to reach to byte", lambda m: setattr(_place(m), "length", 1 << 40)),
    ("is said to reach to byte", lambda m: setattr(_place(m), "offset", 1 << 40)),
    ("for a shape or a place", lambda m: setattr(_place(m), "offset", -1)),
    ("wanted a zip saved by `torch.save`", lambda m: setattr(_place(m), "offset", _place(m).offset + 3)),
    ("is a broken zip", lambda m: setattr(_place(m), "length", 700)),
    ("`.metadata` says (64,) and BF16",
     lambda m: setattr(m.state_dict_metadata[NORM].properties, "dtype", torch.bfloat16)),
    ("lacks 1 of 3 files that `.metadata` names: `__7_0.distcp`",
     lambda m: setattr(_place(m), "relative_path", "__7_0.distcp")),
    ("wanted a file beside it", lambda m: setattr(_place(m), "relative_path", "../x.distcp")),
    ("is stored compressed", lambda m: setattr(_place(m), "transform_descriptors", ["zstd"])),
    ("tells of no model's tensors", lambda m: m.state_dict_metadata.clear()),
    ("no table of tensors", lambda m: setattr(m, "storage_data", None)),
]  # fmt: skip


@pytest.mark.parametrize(("message", "change"), FAULTS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_contradicts_itself_is_told_before_any_output(
    message: str, change: Callable[[Any], object], hostile: Path, tmp_path: Path
) -> None:
    assert message in refused(changed(hostile, change), tmp_path / "out.gguf").message


class Touch:
    """Pickles as a call that makes a directory, so that loading it can be seen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def test_metadata_that_would_run_code_is_refused_and_not_run(hostile: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    error = refused(changed(hostile, lambda m: setattr(m, "planner_data", Touch(touched))), tmp_path / "out.gguf")
    assert f"to load it would run `{os.mkdir.__module__}.mkdir`; nothing in it was executed" in error.message
    assert not touched.exists()


def test_a_piece_that_would_run_code_is_refused_and_not_run(hostile: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.save(Touch(touched), blob := io.BytesIO())

    def replace(metadata: Any) -> None:  # noqa: ANN401
        place = _place(metadata)
        with (hostile / place.relative_path).open("ab") as file:
            place.offset, place.length = file.tell(), len(blob.getvalue())
            file.write(blob.getvalue())

    assert "nothing in it was executed" in refused(changed(hostile, replace), tmp_path / "out.gguf").message
    assert not touched.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04.",
        b"\x80\x04N.",
        pickle.dumps({"a": 1}),
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo of two thousand million
        b"\x80\x04\x96" + b"\x7f" * 8,  # so many bytes
    ],
)
def test_metadata_that_is_broken_is_told(data: bytes, hostile: Path, tmp_path: Path) -> None:
    (hostile / ".metadata").write_bytes(data)
    assert ".metadata` is" in refused(hostile, tmp_path / "out.gguf").message


def test_pieces_are_read_where_they_lie(made: Path) -> None:
    checkpoint = open_checkpoint(made / "made" / "fsdp2" / "run")
    pieces = [source for source in checkpoint.tensors.values() if source.name.endswith(MATRIX)]
    assert [source.name for source in pieces] == [f"{number}/{MATRIX}" for number in range(2)]
    assert [file.path.name for file in checkpoint.files] == ["__0_0.distcp", "__1_0.distcp"]
