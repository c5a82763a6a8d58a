"""torchao checkpoints that are refused: classes, weights and headers, each with an error that names what is wrong."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

import pytest
import torch
from group_packing import NAME, Tensors
from packed_checkpoints import unpacked
from safetensors.torch import load_file
from torchao_checkpoints import WEIGHT, Packed, float8_tensor, int4_tensor, int8_tensor, said, write

import convert
from convert.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("Int4TilePackedTo4dTensor", "4 bits in the order of a CUDA kernel (tinygemm)"),
        ("Int4PreshuffledTensor", "4 bits in the order of a CUDA kernel"),
        ("Int4PlainInt32Tensor", "4 bits in the order of Intel's or Ascend's kernels"),
        ("MXTensor", "a layout that this version does not decode"),
        ("Anything", "a layout that this version does not decode"),
    ],
)
def test_classes_that_are_refused(tmp_path: Path, kind: str, why: str) -> None:
    packed = int4_tensor()
    packed.kind = kind
    with pytest.raises(UnsupportedError, match=re.escape(f"weight `{WEIGHT}` is torchao's `{kind}`: {why}")) as caught:
        unpacked(write(tmp_path, packed))
    assert "get the 16-bit checkpoint" in (caught.value.hint or "")


@pytest.mark.parametrize("packed", [int4_tensor(), int8_tensor()], ids=lambda packed: packed.kind)
def test_a_weight_whose_activations_are_scaled_is_refused(tmp_path: Path, packed: Packed) -> None:
    packed.data["act_pre_scale"] = torch.ones(32)
    with pytest.raises(UnsupportedError, match="has `act_pre_scale`, without which it is not the weight of the model"):
        unpacked(write(tmp_path, packed))


def option(**changes: object) -> Callable[[Packed], None]:
    """Change what a class needs."""
    return lambda packed: packed.options.update(changes)


def data(**changes: torch.Tensor | None) -> Callable[[Packed], None]:
    """Change a class' tensors: other ones, or none."""

    def change(packed: Packed) -> None:
        for name, tensor in changes.items():
            if tensor is None:
                del packed.data[name]
            else:
                packed.data[name] = tensor

    return change


ZEROS: Final = torch.zeros
WRONG_WEIGHTS: Final[dict[str, tuple[Packed, Callable[[Packed], None], str]]] = {
    "dtype-none": (int8_tensor(), option(dtype=None), f"`dtype` of `{WEIGHT}` in the metadata is None, wanted one of"),
    "dtype-int": (int8_tensor(), option(dtype=said("int8")), "wanted one of float32, float16, bfloat16"),
    "dtype-list": (int8_tensor(), option(dtype={"_data": ["float16"]}), "wanted one of float32, float16, bfloat16"),
    "block-none": (int8_tensor(), option(block_size=None), "is None, wanted 2 positive integers"),
    "block-short": (int8_tensor(), option(block_size=[32]), "is [32], wanted 2 positive integers"),
    "block-zero": (int8_tensor(), option(block_size=[0, 32]), "is [0, 32], wanted 2 positive integers"),
    "block-bool": (int8_tensor(), option(block_size=[True, 32]), "is [True, 32], wanted 2 positive integers"),
    "block-huge": (int8_tensor(), option(block_size=[1 << 40, 32]), "wanted 2 positive integers"),
    "block-partial": (int8_tensor(), option(block_size=[1, 24]), "of shape (24, 32) has no whole blocks of [1, 24]"),
    "block-other": (
        int8_tensor(),
        option(block_size=[1, 8]),
        "has shape (24, 1), wanted (24, 4): one for each block of",
    ),
    "scale-type": (int8_tensor(), data(scale=ZEROS(24, 1).to(torch.int32)), "has type I32, wanted F16 or BF16 or F32"),
    "scale-shape": (int8_tensor(), data(scale=ZEROS(32, 1)), "has shape (32, 1), wanted (24, 1)"),
    "scale-empty": (int8_tensor(), data(scale=ZEROS(0, 1)), "that are not empty"),
    "zero-shape": (int8_tensor(), data(zero_point=ZEROS(1, 1).char()), "has shape (1, 1), wanted (24, 1)"),
    "zero-type": (int8_tensor(), data(zero_point=ZEROS(24, 1).byte()), "has type U8, wanted I8 or F16"),
    "codes-type": (int8_tensor(), data(qdata=ZEROS(24, 32).byte()), "has type U8, wanted I8"),
    "codes-flat": (int8_tensor(), data(qdata=ZEROS(24 * 32).char()), "wanted 2 dimensions that are not empty"),
    "codes-empty": (int8_tensor(), data(qdata=ZEROS(24, 0).char()), "wanted 2 dimensions that are not empty"),
    "no-codes": (
        int8_tensor(),
        data(qdata=None),
        f"packed module `{WEIGHT}` has no `qdata`, only `zero_point`, `scale`",
    ),
    "no-scale": (float8_tensor(), data(scale=None), f"packed module `{WEIGHT}` has no `scale`, only `qdata`"),
    "floats": (float8_tensor(), data(qdata=ZEROS(24, 32).half()), "has type F16, wanted F8_E4M3"),
    "float-scale": (float8_tensor(), data(scale=ZEROS(24, 1).half()), "has type F16, wanted F32"),
    "float-block": (float8_tensor(), option(block_size=None), "has shape (24, 1), wanted (1, 1)"),
    "nibble-shape": (int4_tensor(), option(shape=[24, 64]), "holds (24, 32) numbers, the metadata says shape [24, 64]"),
    "nibble-type": (int4_tensor(), option(shape="24"), "holds (24, 32) numbers, the metadata says shape '24'"),
    "nibble-rows": (int4_tensor(), option(block_size=[2, 16]), "in blocks of [2, 16]"),
    "nibble-block": (int4_tensor(), option(block_size=[1, 24]), "in blocks of [1, 24]"),
    "nibble-scale": (int4_tensor(), data(scale=ZEROS(24, 2)), "has shape (24, 2), wanted (2, 24)"),
    "nibble-zero": (int4_tensor(), data(zero_point=ZEROS(24)), "has shape (24,), wanted 2 dimensions"),
    "nibble-no-zero": (int4_tensor(), data(zero_point=None), "has no `zero_point`, only `qdata`, `scale`"),
    "nibble-stack": (int4_tensor(), data(qdata=ZEROS(2, 24, 16).char()), "has shape (2, 24, 16), wanted 2 dimensions"),
}


@pytest.mark.parametrize("row", WRONG_WEIGHTS)
def test_what_is_wrong_with_a_weight_is_an_error_that_names_it(tmp_path: Path, row: str) -> None:
    packed, change, message = WRONG_WEIGHTS[row]
    packed = Packed(packed.kind, {**packed.options}, {**packed.data})
    change(packed)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        unpacked(write(tmp_path, packed))


def test_blocks_of_some_matrices_of_a_stack_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=re.escape("has blocks of [2, 8, 32], which are not decoded")):
        unpacked(write(tmp_path, int8_tensor((4, 8, 32), (2, 8, 32))))


def entry(text: object) -> Callable[[dict[str, str], Tensors], None]:
    """Replace what the header says of the weight."""
    written = text if isinstance(text, str) else json.dumps(text)
    return lambda metadata, _: metadata.update({WEIGHT: written})


def names(text: object) -> Callable[[dict[str, str], Tensors], None]:
    """Replace what the header lists."""
    return lambda metadata, _: metadata.update({"tensor_names": text if isinstance(text, str) else json.dumps(text)})


def tensor(name: str, value: torch.Tensor | None) -> Callable[[dict[str, str], Tensors], None]:
    """Add or take away a stored tensor."""
    return lambda _, tensors: tensors.update({name: value}) if value is not None else tensors.__delitem__(name)


def listed_twice(metadata: dict[str, str], tensors: Tensors) -> None:
    """Describe another weight whose only tensor is one of the first's."""
    tensors[f"{NAME}._weight_act_quant_scale"] = torch.ones(24, 1)
    metadata[WEIGHT] = metadata[WEIGHT].replace('"zero_point", ', '"act_quant_scale", "zero_point", ')
    other = f"{NAME}.weight_act"
    metadata[other] = json.dumps({"_type": "Int8Tensor", "_data": {}, "_tensor_data_names": ["quant_scale"]})
    metadata["tensor_names"] = json.dumps([WEIGHT, other])


def without(key: str) -> Callable[[dict[str, str], Tensors], None]:
    """Take an entry out of the header."""
    return lambda metadata, _: metadata.__delitem__(key)


CODES: Final = f"{NAME}._weight_qdata"
WRONG_HEADERS: Final[dict[str, tuple[Callable[[dict[str, str], Tensors], None], str]]] = {
    "none": (lambda metadata, _: metadata.clear(), "declares `torchao`, but no header of"),
    "no-names": (without("tensor_names"), "declares `torchao`, but no header of"),
    "nothing-packed": (entry({"_type": "Tensor"}), "declares `torchao`, but no header of"),
    "names-json": (names("[,"), "`tensor_names` in the header of"),
    "names-object": (names({"a": 1}), "is not a list of names"),
    "names-numbers": (names([1]), "is not a list of names"),
    "names-unsaid": (names(["x.weight"]), "lists `x.weight`, but does not say what it is"),
    "names-fewer": (names([f"{NAME}.bias"]), "declares `torchao`, but no header of"),
    "entry-json": (entry("{"), f"the entry `{WEIGHT}` in the header of"),
    "entry-twice": (entry('{"_type": "Int8Tensor", "_type": "Tensor"}'), "has the key `_type` twice"),
    "entry-list": (entry([]), "does not name a class of torchao's"),
    "entry-number": (entry({"_type": 1}), "does not name a class of torchao's"),
    "entry-data": (entry({"_type": "Int8Tensor", "_tensor_data_names": ["qdata"]}), "has no object `_data`"),
    "entry-parts": (entry({"_type": "Int8Tensor", "_data": {}, "_tensor_data_names": []}), "has no object `_data`"),
    "entry-part": (entry({"_type": "Int8Tensor", "_data": {}, "_tensor_data_names": [1]}), "has no object `_data`"),
    "entry-same": (
        entry({"_type": "Int8Tensor", "_data": {}, "_tensor_data_names": ["scale", "scale"]}),
        "list of different names `_tensor_data_names`",
    ),
    "entry-long": (entry(" " * 70000 + "{}"), "has 70002 characters, at most 65536 are read"),
    "part-missing": (tensor(CODES, None), f"weight `{WEIGHT}` of torchao's `Int8Tensor` has no `{CODES}`"),
    "part-lost": (tensor("x._weight_zero", torch.ones(1)), "tensor `x._weight_zero` belongs to no weight"),
    "codes-lost": (tensor("x._weight_qdata", torch.ones(1)), "tensor `x._weight_qdata` belongs to no weight"),
    "plain-too": (tensor(WEIGHT, torch.ones(24, 32)), f"weight `{WEIGHT}` of torchao's is there twice"),
    "part-shared": (listed_twice, f"is there twice, as `{NAME}._weight_act_quant_scale` too"),
}


@pytest.mark.parametrize("row", WRONG_HEADERS)
def test_what_is_wrong_with_a_header_is_an_error_that_names_it(tmp_path: Path, row: str) -> None:
    change, message = WRONG_HEADERS[row]
    with pytest.raises(CheckpointError, match=re.escape(message)):
        unpacked(write(tmp_path, int8_tensor(), change=change))


def test_a_name_without_a_module(tmp_path: Path) -> None:
    packed = int8_tensor()

    def change(metadata: dict[str, str], _: Tensors) -> None:
        metadata |= {"weight": packed.entry(), "tensor_names": json.dumps(["weight"])}

    with pytest.raises(CheckpointError, match="does not name a class of torchao's and the parameter of a module"):
        unpacked(write(tmp_path, packed, change=change))


def test_files_saved_by_torch_have_no_header(tmp_path: Path) -> None:
    directory = write(tmp_path, int8_tensor())
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="declares `torchao`, but no header of"):
        unpacked(directory)


def test_nothing_is_written_for_a_broken_one(tmp_path: Path) -> None:
    directory = write(tmp_path, int8_tensor(), change=tensor(CODES, None))
    with pytest.raises(CheckpointError):
        convert.convert_all(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()
