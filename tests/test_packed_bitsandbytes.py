"""bitsandbytes checkpoints decode to what bitsandbytes makes of them, bit for bit."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from bitsandbytes_checkpoints import (
    KINDS,
    SECTION,
    PackedAs,
    dequantize_with_transformers,
    flat_values,
    model_values,
    pack_4bit,
    save_each_once,
    save_with_transformers,
)
from checkpoint_weights import tensor_shapes
from packed_checkpoints import (
    assert_same,
    bits_of,
    read_bits,
    read_stored,
    read_tensor,
    tiny_config,
    unpacked,
    write_safetensors_checkpoint,
)

from convert.checkpoint import SourceFiles
from convert.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from convert.checkpoint import Tensor

    Stored = dict[str, torch.Tensor]

NAME: Final = "model.layers.0.mlp.up_proj.weight"
Q_PROJ: Final = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory that transformers saved for a kind; made once."""
    return save_each_once(tmp_path_factory.mktemp("saved"))


def _random(shape: tuple[int, ...], seed: int = 5) -> torch.Tensor:
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def _packed_alone(tmp_path: Path, stored: Stored, **section: object) -> Mapping[str, Tensor]:
    config = tiny_config(quantization_config={**SECTION, **section})
    return unpacked(write_safetensors_checkpoint(tmp_path / "alone", config, stored))


def _formula(stored: Stored, name: str, packed_as: PackedAs, shape: tuple[int, ...]) -> torch.Tensor:
    """Compute code[index] * absmax[flat position // block] in float32, from the QLoRA paper: here in NumPy."""
    import torch

    packed = stored[name].contiguous().view(torch.uint8).reshape(-1).numpy()
    index = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[: int(np.prod(shape))]
    absmax = stored[f"{name}.absmax"].numpy()
    if packed_as.double:
        (state_name,) = (key for key in stored if key.startswith(f"{name}.quant_state"))
        offset = np.float32(json.loads(stored[state_name].numpy().tobytes())["nested_offset"])
        scales = np.repeat(stored[f"{name}.nested_absmax"].numpy(), 256)[: len(absmax)]
        absmax = stored[f"{name}.nested_quant_map"].numpy()[absmax] * scales + offset
    values = stored[f"{name}.quant_map"].numpy()[index] * np.repeat(absmax, packed_as.block_size)[: len(index)]
    return torch.from_numpy(values.reshape(shape)).to(getattr(torch, packed_as.dtype))


# --- What bitsandbytes has packed


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_every_kind_of_4_bit_weight_has_bitsandbytes_bits(
    quant_type: str, double: bool, dtype: str, tmp_path: Path
) -> None:
    packed_as = PackedAs(quant_type, double=double, dtype=dtype)
    stored = pack_4bit(NAME, _random((300, 352)), packed_as)  # rows of 5.5 blocks, 7 nested blocks, two chunks
    tensor = _packed_alone(tmp_path, stored)[NAME]
    assert_same(tensor, flat_values(stored, NAME))
    assert_same(tensor, _formula(stored, NAME, packed_as, (300, 352)))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("block_size", [32, 64, 128, 256, 512, 1024, 2048, 4096])
def test_every_block_size_has_bitsandbytes_bits(block_size: int, double: bool, tmp_path: Path) -> None:
    packed_as = PackedAs("nf4", block_size, double=double)
    stored = pack_4bit(NAME, _random((100, 172)), packed_as)
    tensor = _packed_alone(tmp_path, stored)[NAME]
    assert_same(tensor, flat_values(stored, NAME))
    assert_same(tensor, _formula(stored, NAME, packed_as, (100, 172)))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 33), (129, 1), (1, 4097), (77,), (3, 5, 7), (2, 8, 96)], ids=str)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_any_shape_has_bitsandbytes_bits(quant_type: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    packed_as = PackedAs(quant_type, double=True)
    stored = pack_4bit(NAME, _random(shape), packed_as)
    tensor = _packed_alone(tmp_path, stored)[NAME]
    assert_same(tensor, flat_values(stored, NAME))
    assert_same(tensor, _formula(stored, NAME, packed_as, shape))


@pytest.mark.parametrize("shape", [(64, 256), (5, 64), (96, 128)], ids=str)
def test_where_rows_are_whole_blocks_bitsandbytes_own_shape_gives_the_same(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = _random(shape)
    packed, state = quantize_4bit(weight, quant_type="nf4")
    stored = pack_4bit(NAME, weight, PackedAs("nf4", dtype="float32"))
    assert_same(_packed_alone(tmp_path, stored)[NAME], dequantize_4bit(packed, state))


def test_where_rows_are_not_whole_blocks_bitsandbytes_own_shape_is_wrong_and_ours_is_near_the_weight(
    tmp_path: Path,
) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = _random((128, 352))
    theirs = dequantize_4bit(*quantize_4bit(weight, quant_type="nf4")).numpy()
    stored = pack_4bit(NAME, weight, PackedAs("nf4", dtype="float32"))
    ours = read_tensor(_packed_alone(tmp_path, stored)[NAME])
    errors = [np.linalg.norm(values - weight.numpy()) / np.linalg.norm(weight.numpy()) for values in (ours, theirs)]
    assert errors[0] < 0.1
    assert errors[1] > 0.2


@pytest.mark.parametrize("storage", ["uint8", "int8", "float16", "bfloat16", "float32", "float64"])
def test_the_type_that_bytes_are_stored_as_changes_nothing(storage: str, tmp_path: Path) -> None:
    stored = pack_4bit(NAME, _random((48, 96)), PackedAs("nf4", double=True, storage=storage))
    tensors = _packed_alone(tmp_path, stored, bnb_4bit_quant_storage=storage)
    assert_same(tensors[NAME], flat_values(stored, NAME))


def test_the_code_is_the_checkpoints(tmp_path: Path) -> None:
    import torch

    stored = pack_4bit(NAME, _random((8, 64)), PackedAs("nf4"))
    stored[f"{NAME}.quant_map"] = torch.linspace(-0.75, 0.9, 16)
    assert_same(_packed_alone(tmp_path, stored)[NAME], _formula(stored, NAME, PackedAs("nf4"), (8, 64)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_statistics_in_half_precision_are_widened_as_bitsandbytes_does(dtype: str, tmp_path: Path) -> None:
    import torch

    stored = pack_4bit(NAME, _random((16, 96)), PackedAs("nf4"))
    stored[f"{NAME}.absmax"] = stored[f"{NAME}.absmax"].to(getattr(torch, dtype))
    assert_same(_packed_alone(tmp_path, stored)[NAME], flat_values(stored, NAME))


def test_an_infinite_absmax_decodes_without_a_warning(tmp_path: Path) -> None:
    stored = pack_4bit(NAME, _random((2, 64)), PackedAs("nf4"))
    stored[f"{NAME}.absmax"][1] = float("inf")
    values = read_tensor(_packed_alone(tmp_path, stored)[NAME])
    assert np.isfinite(values[0]).all()
    assert not np.isfinite(values[1]).any()


# --- What transformers has saved


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_that_transformers_saved_has_bitsandbytes_bits(kind: str, saved: Callable[[str], Path]) -> None:
    directory = saved(kind)
    expected = model_values(directory, KINDS[kind])
    tensors = unpacked(directory)
    assert sorted(tensors) == sorted(expected)
    for name, values in expected.items():
        assert_same(tensors[name], values)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_to_be_packed_is_packed(kind: str, saved: Callable[[str], Path]) -> None:
    skipped = KINDS[kind].options.get("llm_int8_skip_modules", ["lm_head"])
    decoded = {name for name, tensor in unpacked(saved(kind)).items() if "Packed" in type(tensor).__name__}
    linear = {name for name in tensor_shapes(tiny_config()) if "_proj" in name or name == "lm_head.weight"}
    assert decoded == {name for name in linear if not any(module in name for module in skipped)}


@pytest.mark.parametrize("kind", ["nf4", "nf4-dq", "fp4", "fp4-dq", "int8", "int8-bf16"])
def test_transformers_own_dequantize_gives_the_same(kind: str, tmp_path: Path) -> None:
    # Rows of whole blocks, where bitsandbytes' CPU kernel is right.
    directory = save_with_transformers(KINDS[kind], tmp_path / "model", intermediate_size=128)
    expected = dequantize_with_transformers(directory)
    tensors = unpacked(directory)
    assert sorted(tensors) == sorted(expected)
    for name, values in expected.items():
        assert_same(tensors[name], values + 0 if kind.startswith("fp4") and "_proj" in name else values)


def test_int8_without_a_declared_dtype_is_float32(saved: Callable[[str], Path], tmp_path: Path) -> None:
    from bitsandbytes.functional import int8_vectorwise_dequant

    stored = read_stored(saved("int8"))
    config = tiny_config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    del config["dtype"]
    tensors = unpacked(write_safetensors_checkpoint(tmp_path / "undeclared", config, stored))
    assert_same(tensors[Q_PROJ], int8_vectorwise_dequant(stored[Q_PROJ], stored[Q_PROJ.replace("weight", "SCB")]))


def test_int8_saved_before_there_was_a_weight_format_is_rows(saved: Callable[[str], Path], tmp_path: Path) -> None:
    stored = {name: tensor for name, tensor in read_stored(saved("int8")).items() if "weight_format" not in name}
    config = json.loads((saved("int8") / "config.json").read_text())
    tensors = unpacked(write_safetensors_checkpoint(tmp_path / "old", config, stored))
    for name, tensor in unpacked(saved("int8")).items():
        np.testing.assert_array_equal(read_bits(tensors[name]), read_bits(tensor))


@pytest.mark.parametrize("layout", ["row", "col_turing", "col_ampere"])
def test_int8_in_a_torch_file_says_its_layout_as_text(
    saved: Callable[[str], Path], tmp_path: Path, layout: str
) -> None:
    """So bitsandbytes 0.38 to 0.41 saved; a model that had run was in the order of its GPU."""
    import torch

    stored: dict[str, object] = dict(read_stored(saved("int8")))
    stored |= {name: layout for name in stored if name.endswith("weight_format")}
    directory = write_safetensors_checkpoint(
        tmp_path / "old", json.loads((saved("int8") / "config.json").read_text()), {}
    )
    (directory / "model.safetensors").unlink()
    torch.save(stored, directory / "pytorch_model.bin")
    if layout != "row":
        with pytest.raises(UnsupportedError, match=f"`.*weight_format` in .* laid out as `{layout}`, only `row` is"):
            unpacked(directory)
        return
    tensors = unpacked(directory)
    for name, tensor in unpacked(saved("int8")).items():
        np.testing.assert_array_equal(read_bits(tensors[name]), read_bits(tensor))


@pytest.mark.shared
def test_the_shared_checkpoint_has_bitsandbytes_bits(shared_fixtures: Path) -> None:
    directory = shared_fixtures / "stories260K-nf4"
    expected = model_values(directory, KINDS["fp4"])
    tensors = unpacked(directory)
    assert sorted(tensors) == sorted(expected)
    for name, values in expected.items():
        assert_same(tensors[name], values)


# --- How a config says it


OLD_SECTIONS: Final = {
    "now": {"quant_method": "bitsandbytes", "_load_in_4bit": True, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "transformers 4.30": {"load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4"},
    "only private flags": {"quant_method": "bitsandbytes", "_load_in_4bit": True, "_load_in_8bit": False},
    "only 4-bit options": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float16"},
    "nothing but a name": {"quant_method": "bitsandbytes"},
    "bits in the name": {"quant_method": "BITSANDBYTES_4BIT"},
    "torch's spelling": {"quant_method": "bitsandbytes", "bnb_4bit_quant_storage": "torch.uint8"},
}


@pytest.mark.parametrize("section", OLD_SECTIONS.values(), ids=OLD_SECTIONS)
def test_every_spelling_of_the_config_is_known(section: dict[str, Any], tmp_path: Path) -> None:
    stored = pack_4bit(NAME, _random((8, 64)), PackedAs("nf4"))
    directory = write_safetensors_checkpoint(tmp_path / "m", tiny_config(quantization_config=section), stored)
    assert_same(unpacked(directory)[NAME], flat_values(stored, NAME))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_checkpoint_whose_modules_were_all_skipped_is_plain(bits: int, tmp_path: Path) -> None:
    weights = {NAME: _random((8, 64)).half()}
    section = {"quant_method": "bitsandbytes", f"load_in_{bits}bit": True, "bnb_4bit_quant_type": "nf4"}
    directory = write_safetensors_checkpoint(tmp_path / "m", tiny_config(quantization_config=section), weights)
    assert_same(unpacked(directory)[NAME], weights[NAME])


def test_shards_and_torch_files_are_read_alike(saved: Callable[[str], Path], tmp_path: Path) -> None:
    import torch

    stored = read_stored(saved("nf4-dq"))
    torch_file = tmp_path / "torch"
    torch_file.mkdir()
    shutil.copyfile(saved("nf4-dq") / "config.json", torch_file / "config.json")
    torch.save(stored, torch_file / "pytorch_model.bin")
    tensors = unpacked(torch_file)
    for name, tensor in unpacked(saved("nf4-dq")).items():
        np.testing.assert_array_equal(read_bits(tensors[name]), read_bits(tensor))


# --- In bounded memory


class _Counting(SourceFiles):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def read_into(self, path: Path, position: int, out: NDArray[np.uint8], *, name: str) -> None:
        self.nbytes += out.nbytes
        super().read_into(path, position, out, name=name)


@pytest.mark.parametrize("double", [False, True])
def test_a_row_is_made_from_its_own_blocks_alone(double: bool, tmp_path: Path) -> None:
    stored = pack_4bit(NAME, _random((2048, 1024)), PackedAs("nf4", double=double))
    tensor = _packed_alone(tmp_path, stored)[NAME]
    row = np.empty((1, 2048), np.uint8)
    with closing(_Counting()) as files:
        tensor.read_rows(files, 1000, row)
    np.testing.assert_array_equal(row.reshape(-1).view(np.uint16), bits_of(flat_values(stored, NAME))[1000])
    assert files.nbytes <= 512 + 16 * 4  # 16 blocks, and a nested one at most


def test_replace_parameter_4bit_saves_a_stack_under_the_names_that_are_read(tmp_path: Path) -> None:
    import torch
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    module = torch.nn.Module()
    module.down_proj = torch.nn.Parameter(_random((4, 24, 48)).half())
    replace_parameter_4bit(module, "down_proj", compress_statistics=True)
    stored = dict(module.state_dict(prefix="model.layers.0.mlp.experts."))
    (name,) = (name for name in stored if name.endswith("down_proj"))
    assert_same(_packed_alone(tmp_path, stored)[name], flat_values(stored, name))
