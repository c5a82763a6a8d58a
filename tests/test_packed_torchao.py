"""torchao checkpoints: every class that is decoded, against an independent packer; what is wrong with headers.

What torchao would write is put together here by hand: the entries of the header word for word as torchao 0.18.0 wrote
them for these shapes, the tensors from random codes, the formulas in torch from its quant_primitives.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from group_packing import NAME, Tensors, outputs_of, packed_and_plain
from packed_checkpoints import assert_same, read_tensor, tiny_config, unpacked, write_safetensors_checkpoint
from safetensors.torch import load_file, save_file

import convert
from convert.checkpoint import open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WEIGHT: Final = f"{NAME}.weight"


@dataclass
class Packed:
    """A weight as torchao takes it apart: its class, what that needs, its tensors; and what it dequantizes to."""

    kind: str
    options: dict[str, Any]
    data: Tensors
    expected: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def entry(self) -> str:
        """Return what the header says of it."""
        return json.dumps({"_type": self.kind, "_data": self.options, "_tensor_data_names": list(self.data)})

    def stored(self, name: str) -> Tensors:
        """Return its tensors by their names in the file."""
        module, _, parameter = name.rpartition(".")
        return {f"{module}._{parameter}_{data_name}": tensor for data_name, tensor in self.data.items()}


def said(dtype: torch.dtype | str) -> dict[str, str]:
    """Return how the header says a torch dtype."""
    return {"_type": "torch.dtype", "_data": str(dtype).removeprefix("torch.")}


def spread(factors: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Repeat each block's number over the block."""
    for axis, (n_blocks, size) in enumerate(zip(factors.shape, shape, strict=True)):
        factors = factors.repeat_interleave(size // n_blocks, axis)
    return factors


def int8_tensor(
    shape: tuple[int, ...] = (24, 32),
    block: tuple[int, ...] = (1, 32),
    dtype: torch.dtype = torch.bfloat16,
    *,
    zeros: bool = True,
) -> Packed:
    """Make an Int8Tensor: scales are float32, whatever the weight's type."""
    random = torch.Generator().manual_seed(1)
    grid = tuple(size // step for size, step in zip(shape, block, strict=True))
    codes = torch.randint(-128, 128, shape, generator=random).to(torch.int8)
    zero = torch.randint(-128, 128, grid, generator=random).to(torch.int8)
    scale = torch.rand(grid, generator=random) * 0.01
    options = {"act_quant_kwargs": None, "reduce_range": False, "block_size": [*block], "dtype": said(dtype)}
    difference = codes.to(dtype) - (spread(zero, shape).to(dtype) if zeros else 0)
    data = {"zero_point": zero, "qdata": codes, "scale": scale} if zeros else {"qdata": codes, "scale": scale}
    return Packed("Int8Tensor", options, data, (difference * spread(scale, shape)).to(dtype))


def intx_tensor(
    shape: tuple[int, int] = (24, 32), group: int = 16, dtype: torch.dtype = torch.bfloat16, *, floats: bool = False
) -> Packed:
    """Make an IntxUnpackedToInt8Tensor of 4 bits; scales have the weight's type, zero points too or are integers."""
    random = torch.Generator().manual_seed(2)
    grid = (shape[0], shape[1] // group)
    codes = torch.randint(-8, 8, shape, generator=random).to(torch.int8)
    zero = torch.randint(-8, 8, grid, generator=random).to(torch.int8)
    zero = torch.randn(grid, generator=random).to(dtype) if floats else zero
    scale = (torch.rand(grid, generator=random) * 0.1).to(dtype)
    options = {
        "target_dtype": said("int4"),
        "block_size": [1, group],
        "dtype": said(dtype),
        "activation_quantization": "int8_asym_per_token",
    }
    expected = (codes.to(dtype) - spread(zero, shape).to(dtype)) * spread(scale, shape)
    return Packed("IntxUnpackedToInt8Tensor", options, {"qdata": codes, "scale": scale, "zero_point": zero}, expected)


def float8_tensor(
    shape: tuple[int, ...] = (24, 32),
    block: tuple[int, ...] = (1, 32),
    dtype: torch.dtype = torch.bfloat16,
    stored: torch.dtype = torch.float8_e4m3fn,
) -> Packed:
    """Make a Float8Tensor."""
    random = torch.Generator().manual_seed(3)
    grid = tuple(size // step for size, step in zip(shape, block, strict=True))
    codes = (torch.randn(shape, generator=random) * 50).to(stored)
    scale = torch.rand(grid, generator=random) * 0.01
    options = {
        "block_size": [*block],
        "mm_config": None,
        "act_quant_kwargs": None,
        "kernel_preference": {"_type": "KernelPreference", "_data": "AUTO"},
        "dtype": said(dtype),
    }
    expected = (codes.float() * spread(scale, shape)).to(dtype)
    return Packed("Float8Tensor", options, {"qdata": codes, "scale": scale}, expected)


def int4_tensor(shape: tuple[int, int] = (24, 32), group: int = 16, dtype: torch.dtype = torch.bfloat16) -> Packed:
    """Make an Int4Tensor: two codes in a byte, the first low; a row of scales for each group."""
    random = torch.Generator().manual_seed(4)
    grid = (shape[1] // group, shape[0])
    codes = torch.randint(-8, 8, shape, generator=random)
    zero = (torch.randn(grid, generator=random) * 0.1).to(dtype)
    scale = (torch.rand(grid, generator=random) * 0.01).to(dtype)
    packed = torch.tensor(
        [
            [(row[col] & 15) + 16 * (row[col + 1] & 15) for col in range(0, len(row), 2)]  # two's complement
            for row in codes.tolist()
        ],
        dtype=torch.uint8,
    ).view(torch.int8)
    expected = codes * spread(scale.T, shape).float() + spread(zero.T, shape).float()
    options = {"activation_dtype": said("bfloat16"), "block_size": [1, group], "shape": [*shape]}
    return Packed("Int4Tensor", options, {"qdata": packed, "scale": scale, "zero_point": zero}, expected.to(dtype))


def torchao(config: str | None = None, **data: object) -> dict[str, Any]:
    """Return a quantization section as transformers writes it."""
    kind = {"default": {"_type": config, "_data": data, "_version": 2}} if config else {}
    return {"quant_method": "torchao", "quant_type": kind, "modules_to_not_convert": None}


def metadata_of(names: list[str], packed: dict[str, Packed]) -> dict[str, str]:
    """Return the header's `__metadata__`."""
    plain = json.dumps({"_type": "Tensor"})
    entries = {name: packed[name].entry() if name in packed else plain for name in names}
    return {**entries, "tensor_names": json.dumps(names), "format": "pt"}


def set_metadata(directory: Path, metadata: dict[str, str]) -> Path:
    """Save the weights of a directory again with other metadata."""
    path = directory / "model.safetensors"
    save_file(load_file(path), path, metadata=metadata)
    return directory


def write(
    tmp_path: Path,
    packed: Packed,
    quantization: dict[str, Any] | None = None,
    change: Callable[[dict[str, str], Tensors], None] = lambda _metadata, _tensors: None,
) -> Path:
    """Write a checkpoint of one packed weight, and a bias that has its own name."""
    tensors = {**packed.stored(WEIGHT), f"{NAME}.bias": torch.ones(24)}
    metadata = metadata_of([WEIGHT, f"{NAME}.bias"], {WEIGHT: packed})
    change(metadata, tensors)
    config = tiny_config(quantization_config=torchao() if quantization is None else quantization)
    return set_metadata(write_safetensors_checkpoint(tmp_path / "m", config, tensors), metadata)


def assert_decoded(tmp_path: Path, packed: Packed, quantization: dict[str, Any] | None = None) -> None:
    """Write and open a checkpoint of one weight, and compare it whole and in windows."""
    decoded = unpacked(write(tmp_path, packed, quantization))
    assert list(decoded) == [f"{NAME}.bias", WEIGHT]  # where the names of the model have them
    assert_same(decoded[WEIGHT], packed.expected)


DTYPES: Final = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("block", [(1, 32), (24, 32), (1, 8), (24, 1), (4, 16)], ids=str)
def test_int8_tensor(tmp_path: Path, block: tuple[int, int], zeros: bool, dtype: torch.dtype) -> None:
    assert_decoded(tmp_path, int8_tensor(block=block, dtype=dtype, zeros=zeros))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("floats", [True, False])
def test_intx_tensor(tmp_path: Path, floats: bool, dtype: torch.dtype) -> None:
    assert_decoded(tmp_path, intx_tensor(dtype=dtype, floats=floats))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("block", [(1, 32), (24, 32), (8, 16)], ids=str)
def test_float8_tensor(tmp_path: Path, block: tuple[int, int], stored: torch.dtype, dtype: torch.dtype) -> None:
    assert_decoded(tmp_path, float8_tensor(block=block, stored=stored, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", [32, 16, 2])
def test_int4_tensor(tmp_path: Path, group: int, dtype: torch.dtype) -> None:
    assert_decoded(tmp_path, int4_tensor(group=group, dtype=dtype))


def test_int4_tensor_by_hand(tmp_path: Path) -> None:
    """Bytes 0xF8 and 0x71 are -8, -1 and 1, 7; groups of two; a row of scales and of zero points for each group."""
    packed = int4_tensor((2, 4), 2, torch.float32)
    packed.data["qdata"] = torch.tensor([[0xF8, 0x71], [0x10, 0x32]], dtype=torch.uint8).view(torch.int8)
    packed.data["scale"] = torch.tensor([[0.5, 1], [2, 10]])
    packed.data["zero_point"] = torch.tensor([[0, 0.25], [100, -1]])
    packed.expected = torch.tensor([[-4, -0.5, 102, 114], [0.25, 1.25, 19, 29]])
    assert_decoded(tmp_path, packed)


@pytest.mark.parametrize("block", [(1, 1, 32), (1, 8, 32), (1, 8, 16), (3, 8, 32), (3, 8, 4)], ids=str)
@pytest.mark.parametrize("make", [int8_tensor, float8_tensor])
def test_a_stack_of_experts(tmp_path: Path, make: Callable[..., Packed], block: tuple[int, ...]) -> None:
    assert_decoded(tmp_path, make((3, 8, 32), block))


def test_a_float8_tensor_of_one_scale_without_a_block_size(tmp_path: Path) -> None:
    packed = float8_tensor(block=(24, 32))
    packed.options["block_size"] = []
    packed.data["scale"] = packed.data["scale"].reshape(())
    assert_decoded(tmp_path, packed)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e38])
def test_scales_that_are_no_numbers_are_decoded_as_torch_does(tmp_path: Path, value: float) -> None:
    packed = int8_tensor(zeros=False)
    packed.data["scale"][3] = value
    packed.data["qdata"][3, :3] = torch.tensor([0, 1, -1])
    codes, scale = packed.data["qdata"].bfloat16(), packed.data["scale"]
    decoded = unpacked(write(tmp_path, packed))[WEIGHT]
    np.testing.assert_array_equal(read_tensor(decoded), (codes * scale).bfloat16().float().numpy())


def test_scales_of_activations_are_left_out_and_said(tmp_path: Path) -> None:
    packed = int8_tensor()
    packed.data["act_quant_scale"] = torch.ones(1, 1)
    tensors = model_tensors(open_checkpoint(write(tmp_path, packed)))
    assert list(tensors.tensors) == [f"{NAME}.bias", WEIGHT]
    assert tensors.packing == "torchao"
    assert tensors.notes == (
        "packed by torchao: 1 tensors are decoded on the way",
        "1 tensors that only concern quantized activations are left out",
    )


def test_shards_whose_headers_agree(tmp_path: Path) -> None:
    """Each shard's header describes all tensors; a weight may lie in two, and stands where its first part is."""
    packed = int8_tensor()
    tensors = packed.stored(WEIGHT)
    directory = write(tmp_path, packed)
    (directory / "model.safetensors").unlink()
    metadata = metadata_of([WEIGHT, f"{NAME}.bias"], {WEIGHT: packed})
    first = {name: tensors.pop(name) for name in [f"{NAME}._weight_scale"]}
    shards = [first, {**tensors, f"{NAME}.bias": torch.ones(24)}]
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file(shard, directory / file, metadata=metadata)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    decoded = unpacked(directory)
    assert list(decoded) == [WEIGHT, f"{NAME}.bias"]
    assert_same(decoded[WEIGHT], packed.expected)

    save_file(shards[1], directory / "model-00002-of-00002.safetensors", metadata={**metadata, WEIGHT: "{}"})
    with pytest.raises(CheckpointError, match=f"say different things of `{re.escape(WEIGHT)}`"):
        unpacked(directory)


KINDS: Final = {"int8": int8_tensor, "intx": intx_tensor, "float8": float8_tensor, "int4": int4_tensor}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_those_of_the_dequantized_checkpoint(tmp_path: Path, kind: str) -> None:
    made: dict[str, Packed] = {}

    def pack(name: str, shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
        block = {"block": (1, shape[1])} if kind in {"int8", "float8"} else {"group": 16}
        packed = KINDS[kind](shape, **block)  # type: ignore[operator]
        made[f"{name}.weight"] = packed
        return packed.stored(f"{name}.weight"), packed.expected

    ours, plain = packed_and_plain(tmp_path, torchao(), pack)
    names = sorted(load_file(plain / "model.safetensors"))
    set_metadata(ours, metadata_of(names, made))
    assert outputs_of(ours, tmp_path / "a") == outputs_of(plain, tmp_path / "b")


@pytest.mark.parametrize(
    ("config", "packed"),
    [
        (torchao("Int8WeightOnlyConfig", group_size=None), int8_tensor()),
        (torchao("Int8DynamicActivationInt8WeightConfig"), int8_tensor()),
        (
            torchao("IntxWeightOnlyConfig", granularity={"_type": "PerGroup", "_data": {"group_size": 16}}),
            intx_tensor(),
        ),
        (torchao("Float8WeightOnlyConfig"), float8_tensor()),
        (torchao("Int4WeightOnlyConfig", group_size=16), int4_tensor()),
        (
            torchao(
                "FqnToConfig",
                fqn_to_config={
                    "_default": {"_type": "Int8WeightOnlyConfig", "_data": {}},
                    "model.embed_tokens": {"_type": "IntxWeightOnlyConfig", "_data": {"group_size": 8}},
                    "lm_head": None,
                },
            ),
            intx_tensor(),
        ),
        (torchao("SomeLaterConfig", group_size=8), intx_tensor()),
        (
            torchao(
                "FqnToConfig", fqn_to_config={"a": {"_type": "LaterConfig"}, "b": {"_type": "Int4WeightOnlyConfig"}}
            ),
            intx_tensor(),
        ),
        (torchao("Float8DynamicActivationFloat8WeightConfig", mm={"_type": "Float8MMConfig"}), float8_tensor()),
        ({**torchao(), "quant_type": "int8_weight_only"}, int8_tensor()),
    ],
)
def test_configs_that_say_what_the_headers_say(tmp_path: Path, config: dict[str, Any], packed: Packed) -> None:
    assert_decoded(tmp_path, packed, config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (torchao("Float8WeightOnlyConfig"), f"says `Float8WeightOnlyConfig`, but `{WEIGHT}` is a `IntxUnpackedToInt8T"),
        (
            torchao("IntxWeightOnlyConfig", granularity={"_data": {"group_size": 8}}),
            f"says groups of 8, but `{WEIGHT}` has blocks of [1, 16]",
        ),
        ({**torchao(), "quant_type": 4}, "`quant_type` of `quantization_config`"),
        ({}, "declares no quantization, but"),
        ({"quant_method": "bitnet"}, "declares `bitnet`, but"),
    ],
)
def test_a_config_that_contradicts_the_headers(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        unpacked(write(tmp_path, intx_tensor(), config))


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


def test_inspect_counts_the_bytes_that_are_read(tmp_path: Path) -> None:
    packed = int4_tensor()
    decoded = unpacked(write(tmp_path, packed))[WEIGHT]
    assert decoded.nbytes == sum(tensor.nbytes for tensor in packed.data.values())


def test_nothing_is_written_for_a_broken_one(tmp_path: Path) -> None:
    directory = write(tmp_path, int8_tensor(), change=tensor(CODES, None))
    with pytest.raises(CheckpointError):
        convert.convert_all(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()
