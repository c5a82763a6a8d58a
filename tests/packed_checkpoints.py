"""What the tests of packed checkpoints share: a directory around any tensors, and a Tensor read as `convert` reads it.

    write_safetensors_checkpoint(tmp_path / "packed", tiny_config(quantization_config=…), tensors)
    for name, tensor in unpacked(tmp_path / "packed").items():
        assert_same(tensor, expected[name])             # dtype, shape and every bit, whole and in odd windows

`tiny_config` is a Llama whose vocabulary is that of tests/data/tiny-llama, so that `convert_all` takes it.
"""

from __future__ import annotations

import json
import pickle
import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from convert.checkpoint import SourceFiles, StoredType, matrix_shape, open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.checkpoint.statistics import measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

    from convert.checkpoint import Tensor

TINY_LLAMA: Final = Path(__file__).parent / "data" / "tiny-llama"
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
WINDOW_ROWS: Final = (1, 3, 7, 64)  # rows read at a time, besides all at once


def tiny_config(**changes: object) -> dict[str, Any]:
    """Return config.json of a Llama of one layer, 64 wide, float16, with these keys changed."""
    config = json.loads((TINY_LLAMA / "config.json").read_text())
    small = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "head_dim": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "tie_word_embeddings": False,
    }
    return {**config, **small, **changes}


def write_safetensors_checkpoint(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> Path:
    """Write config.json, model.safetensors and tiny-llama's tokenizer into a new directory, and return that."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    separate = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(separate, directory / "model.safetensors", metadata={"format": "pt"})
    for name in TOKENIZER_FILES:
        shutil.copyfile(TINY_LLAMA / name, directory / name)
    return directory


def read_stored(directory: Path) -> dict[str, torch.Tensor]:
    """Read a directory's model.safetensors as it lies there, packed."""
    from safetensors.torch import load_file

    stored: dict[str, torch.Tensor] = load_file(directory / "model.safetensors")
    return stored


def unpacked(directory: Path) -> Mapping[str, Tensor]:
    """Open a directory and return the model's tensors, packed ones as decoders."""
    return model_tensors(open_checkpoint(directory)).tensors


def read_bits(tensor: Tensor, *, rows_at_a_time: int | None = None) -> NDArray[Any]:
    """Read a tensor in windows of rows: its values as unsigned integers of their size, in its shape."""
    n_rows, n_cols = matrix_shape(tensor.shape)
    out = np.full((n_rows, n_cols * tensor.dtype.itemsize), 0xA5, np.uint8)
    step = rows_at_a_time or max(n_rows, 1)
    with closing(SourceFiles()) as files:
        tensor = measured(tensor, files)
        for first in range(0, n_rows, step):
            tensor.read_rows(files, first, out[first : first + step])
    return out.reshape(-1).view(f"<u{tensor.dtype.itemsize}").reshape(tensor.shape)


def read_tensor(tensor: Tensor, *, rows_at_a_time: int | None = None) -> NDArray[np.float32]:
    """Read a tensor in windows of rows: its values as float32, exactly, in its shape."""
    bits = read_bits(tensor, rows_at_a_time=rows_at_a_time)
    values: NDArray[np.float32]
    if tensor.dtype is StoredType.BF16:
        values = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    else:
        values = bits.view(f"<f{tensor.dtype.itemsize}").astype(np.float32)
    return values


def bits_of(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a torch tensor's values as unsigned integers of their size, in its shape, as `read_bits` does."""
    import torch

    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return raw.view(f"<u{tensor.element_size()}").reshape(tuple(tensor.shape))


def stored_type(tensor: torch.Tensor) -> StoredType:
    """Return what safetensors calls a torch tensor's float type."""
    import torch

    return {torch.float32: StoredType.F32, torch.float16: StoredType.F16, torch.bfloat16: StoredType.BF16}[tensor.dtype]


def assert_same(tensor: Tensor, expected: torch.Tensor) -> None:
    """Compare type, shape and every bit, read whole, in odd windows, and from a row in the middle.

    What is read is what another process would get, pickled.
    """
    tensor = pickle.loads(pickle.dumps(tensor))
    assert (tensor.dtype, tensor.shape) == (stored_type(expected), tuple(expected.shape)), tensor.name
    bits = bits_of(expected)
    for rows_at_a_time in (None, *WINDOW_ROWS):
        np.testing.assert_array_equal(read_bits(tensor, rows_at_a_time=rows_at_a_time), bits, err_msg=tensor.name)
    _assert_same_middle(tensor, bits)


def _assert_same_middle(tensor: Tensor, bits: NDArray[Any]) -> None:
    n_rows, n_cols = matrix_shape(tensor.shape)
    first, last = n_rows // 3, n_rows - n_rows // 4
    out = np.zeros((last - first, n_cols * tensor.dtype.itemsize), np.uint8)
    with closing(SourceFiles()) as files:
        measured(tensor, files).read_rows(files, first, out)
    wanted = bits.reshape(n_rows, n_cols)[first:last]
    np.testing.assert_array_equal(out.view(wanted.dtype), wanted, err_msg=tensor.name)
