"""torchao checkpoints that torchao itself made, through transformers and by itself, against its own `dequantize`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from checkpoint_weights import tensor_shapes
from group_packing import outputs_of
from packed_checkpoints import (
    assert_same,
    read_stored,
    tiny_config,
    unpacked,
    write_safetensors_checkpoint,
)
from safetensors.torch import load_file, save_file

from convert.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

# torchao 0.18.0 has such a docstring; Python says so where it compiles the file.
pytestmark = pytest.mark.filterwarnings("ignore:.*invalid escape sequence")

DTYPES: Final = [torch.float16, torch.bfloat16, torch.float32]


def integer(bits: int) -> torch.dtype:
    """Return the type of signed integers of so many bits."""
    dtype: torch.dtype = getattr(torch, f"int{bits}")
    return dtype


def config_of(kind: str) -> Any:  # noqa: ANN401 - torchao's own
    """Return one of torchao's configs."""
    from torchao import quantization as ao

    return {
        "int8": ao.Int8WeightOnlyConfig,
        "int8-tensor": lambda: ao.Int8WeightOnlyConfig(granularity=ao.PerTensor()),
        "int8-dynamic": ao.Int8DynamicActivationInt8WeightConfig,
        "intx": lambda: ao.IntxWeightOnlyConfig(weight_dtype=integer(3), granularity=ao.PerGroup(16)),
        "intx-dynamic": lambda: ao.Int8DynamicActivationIntxWeightConfig(
            weight_dtype=integer(4), weight_granularity=ao.PerGroup(32)
        ),
        "intx-asymmetric": lambda: ao.IntxWeightOnlyConfig(
            weight_dtype=integer(4), granularity=ao.PerAxis(0), mapping_type=ao.MappingType.ASYMMETRIC
        ),
        "float8": ao.Float8WeightOnlyConfig,
    }[kind]()


KINDS: Final = ("int8", "int8-tensor", "int8-dynamic", "intx", "intx-dynamic", "intx-asymmetric", "float8")


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_those_of_what_torchao_dequantizes_to(tmp_path: Path, kind: str) -> None:
    """Made by transformers' `save_pretrained`; every tensor, and then the files."""
    from transformers import AutoModelForCausalLM, TorchAoConfig

    random = torch.Generator().manual_seed(0)
    config = tiny_config(dtype="bfloat16", torch_dtype="bfloat16")
    weights = {
        name: torch.randn(shape, generator=random).bfloat16() * 0.1 for name, shape in tensor_shapes(config).items()
    }
    plain = write_safetensors_checkpoint(tmp_path / "plain" / "model", config, weights)
    model = AutoModelForCausalLM.from_pretrained(
        plain, dtype=torch.bfloat16, quantization_config=TorchAoConfig(config_of(kind))
    )
    packed = write_safetensors_checkpoint(tmp_path / "packed" / "model", config, {})
    model.save_pretrained(packed)
    section = json.loads((packed / "config.json").read_text())["quantization_config"]
    (packed / "config.json").write_text(json.dumps({**config, "quantization_config": section}))

    from torchao.utils import TorchAOBaseTensor

    state = model.state_dict()
    dequantized = {
        name: tensor.dequantize() if isinstance(tensor, TorchAOBaseTensor) else tensor for name, tensor in state.items()
    }
    decoded = unpacked(packed)
    assert sorted(decoded) == sorted(dequantized)
    assert sum(name not in read_stored(packed) for name in decoded) == 7
    for name, expected in dequantized.items():
        assert_same(decoded[name], expected)
    save_file(dequantized, plain / "model.safetensors", metadata={"format": "pt"})
    assert outputs_of(packed, tmp_path / "a") == outputs_of(plain, tmp_path / "b")


def write_flattened(directory: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Write tensors as torchao gives them to safetensors."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    config = tiny_config(quantization_config={"quant_method": "torchao"})
    flat, metadata = flatten_tensor_state_dict(tensors)
    write_safetensors_checkpoint(directory, config, {})
    save_file(flat, directory / "model.safetensors", metadata=metadata)
    return directory


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_granularity_and_type(tmp_path: Path, dtype: torch.dtype) -> None:
    from torchao import quantization as ao

    weight = torch.randn((24, 64), generator=torch.Generator().manual_seed(1)).to(dtype)
    stack = torch.randn((3, 16, 64), generator=torch.Generator().manual_seed(2)).to(dtype)
    blocks = (ao.PerRow(), ao.PerTensor(), ao.PerGroup(16))
    asymmetric = ao.MappingType.ASYMMETRIC
    made = {
        **{f"a.int8_{n}": ao.Int8Tensor.from_hp(weight, block) for n, block in enumerate(blocks)},
        **{f"a.zeros_{n}": ao.Int8Tensor.from_hp(weight, block, asymmetric) for n, block in enumerate(blocks)},
        **{f"a.stack_{n}": ao.Int8Tensor.from_hp(stack, block, asymmetric) for n, block in enumerate(blocks)},
        **{
            f"a.{stored}_{n}": ao.Float8Tensor.from_hp(weight, stored, block)
            for n, block in enumerate((*blocks, ao.PerBlock([8, 32]), ao.PerRow(dim=0)))
            for stored in (torch.float8_e4m3fn, torch.float8_e5m2)
        },
        **{f"a.float_stack_{n}": ao.Float8Tensor.from_hp(stack, granularity=b) for n, b in enumerate(blocks)},
        **{
            f"a.intx_{bits}": ao.IntxUnpackedToInt8Tensor.from_hp(
                weight, (1, 32), integer(bits), mapping_type=asymmetric
            )
            for bits in range(1, 9)
        },
    }
    named = {name.replace("torch.", ""): tensor for name, tensor in made.items()}
    decoded = unpacked(write_flattened(tmp_path / "m", named))
    assert sorted(decoded) == sorted(named)
    for name, tensor in named.items():
        assert_same(decoded[name], tensor.dequantize())


def test_tensors_of_a_class_in_a_torch_file(tmp_path: Path) -> None:
    """As torchao's checkpoints were saved before safetensors could hold them."""
    from torchao.quantization import Int8Tensor, PerRow

    directory = write_safetensors_checkpoint(tmp_path / "m", tiny_config(), {})
    (directory / "model.safetensors").unlink()
    torch.save({"a.weight": Int8Tensor.from_hp(torch.ones(8, 8), PerRow())}, directory / "pytorch_model.bin")
    with pytest.raises(UnsupportedError, match="holds tensors of a subclass, such as torchao's packed weights"):
        unpacked(directory)


def test_int4_tensor_holds_what_torchao_trains_for(tmp_path: Path) -> None:
    """Its only other account of the formula, a float32 weight fake-quantized, packed here as its kernel's library does.

    That library, mslk, has no build for CPUs: its quantizer is written out from torchao's fake quantizer.
    """
    from torchao.quantization import Int4Tensor
    from torchao.quantization.qat.fake_quantize_config import Int4WeightFakeQuantizeConfig
    from torchao.quantization.qat.fake_quantizer import Int4WeightFakeQuantizer

    weight = torch.randn((24, 64), generator=torch.Generator().manual_seed(1))
    groups = weight.reshape(24, 2, 32)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = (high - low).clamp(min=1e-6) / 15
    codes = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).reshape(24, 64).to(torch.int8) - 8
    packed = (codes[:, ::2] & 15) | (codes[:, 1::2] << 4)
    zero = low + scale * 8
    tensor = Int4Tensor(packed, scale.T.contiguous(), zero.T.contiguous(), [1, 32], torch.Size((24, 64)))
    quantizer = Int4WeightFakeQuantizer(Int4WeightFakeQuantizeConfig(group_size=32, activation_dtype=torch.bfloat16))
    decoded = unpacked(write_flattened(tmp_path / "m", {"a.weight": tensor}))["a.weight"]
    assert_same(decoded, quantizer(weight))
    assert load_file(tmp_path / "m" / "model.safetensors")["a._weight_qdata"].shape == (24, 32)
