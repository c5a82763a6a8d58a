"""torchao checkpoints: every class that is decoded, against an independent packer; what configs may say beside it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from group_packing import NAME, Tensors, outputs_of, packed_and_plain
from packed_checkpoints import assert_same, read_tensor, unpacked
from safetensors.torch import load_file, save_file
from torchao_checkpoints import (
    WEIGHT,
    Packed,
    float8_tensor,
    int4_tensor,
    int8_tensor,
    intx_tensor,
    metadata_of,
    set_metadata,
    torchao,
    write,
)

from convert.checkpoint import open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
        ({**torchao(), "quant_type": 4}, "`quant_type` in `quantization_config`"),
        ({}, "declares no quantization, but"),
        ({"quant_method": "bitnet"}, "declares `bitnet`, but"),
    ],
)
def test_a_config_that_contradicts_the_headers(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        unpacked(write(tmp_path, intx_tensor(), config))


def test_inspect_counts_the_bytes_that_are_read(tmp_path: Path) -> None:
    packed = int4_tensor()
    decoded = unpacked(write(tmp_path, packed))[WEIGHT]
    assert decoded.nbytes == sum(tensor.nbytes for tensor in packed.data.values())
