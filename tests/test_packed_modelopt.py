"""modelopt's checkpoints against formulas written from its qtensor/fp8_, mxfp8_ and nvfp4_tensor.py.

The package itself (0.47.0) is no dependency of the tests; it gave the same bits when these were written.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from checkpoint_weights import tensor_shapes
from packed_checkpoints import assert_same, read_tensor, tiny_config, unpacked, write_safetensors_checkpoint

import convert
from convert.checkpoint import open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.errors import CheckpointError, ConfigError, ConvertError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Tensors = dict[str, torch.Tensor]

NAME: Final = "model.layers.0.self_attn.q_proj"
WEIGHT: Final = f"{NAME}.weight"
E2M1: Final = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])  # modelopt: no -0


def section(algorithm: str | None, **more: object) -> dict[str, Any]:
    """Return a section of config.json as modelopt writes it since 0.29."""
    return {"quant_method": "modelopt", "quant_algo": algorithm, "producer": {"name": "modelopt"}, **more}


def write(tmp_path: Path, tensors: Tensors, quantization: object, dtype: str = "bfloat16") -> Path:
    """Write a checkpoint of these tensors alone."""
    return write_safetensors_checkpoint(
        tmp_path / "m", tiny_config(dtype=dtype, quantization_config=quantization), tensors
    )


def module(**parts: torch.Tensor) -> Tensors:
    """Name a module's parts."""
    return {f"{NAME}.{suffix}": tensor for suffix, tensor in parts.items()}


def codes(shape: tuple[int, ...]) -> torch.Tensor:
    """Return finite e4m3 numbers of all sizes."""
    raw = torch.randint(0, 127, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return raw.view(torch.float8_e4m3fn)


def scales(shape: tuple[int, ...]) -> torch.Tensor:
    """Return scales that bfloat16 does not hold exactly."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 0.03 + 0.001


FLOAT8: Final = {
    "one": ("FP8", ()),
    "one-of-one": ("FP8", (1,)),
    "rows": ("FP8_PER_CHANNEL_PER_TOKEN", (200,)),
    "blocks": ("FP8_PB_WO", (2, 3)),
    "blocks-interleaved": ("FP8_PB_WO", (2, 1, 3, 1)),
    "mixed-one": ("MIXED_PRECISION", ()),
    "mixed-rows": ("MIXED_PRECISION", (200,)),
    "not-said": (None, (2, 3)),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("case", FLOAT8)
def test_8_bit_floats_are_multiplied_in_the_models_type(case: str, dtype: str, tmp_path: Path) -> None:
    algorithm, shape = FLOAT8[case]
    weight, scale, wanted = codes((200, 300)), scales(shape), getattr(torch, dtype)
    factors = scale.reshape(-1, 1)
    if len(shape) > 1:
        factors = scale.reshape(2, 3).repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :300]
    tensors = module(weight=weight, weight_scale=scale, input_scale=torch.ones(()))
    decoded = unpacked(write(tmp_path, tensors, section(algorithm), dtype))
    assert list(decoded) == [WEIGHT]
    assert_same(decoded[WEIGHT], weight.to(wanted) * factors.to(wanted))


def test_a_section_without_a_method_is_known_by_its_algorithm(tmp_path: Path) -> None:
    tensors = module(weight=codes((8, 8)), weight_scale=scales(()))
    quantization: dict[str, Any] = {"quant_algo": "FP8", "producer": {"name": "modelopt"}, "config_groups": {}}
    opened = model_tensors(open_checkpoint(write(tmp_path, tensors, quantization)))
    assert opened.packing == "modelopt"


def test_where_only_the_cache_is_packed_weights_stay_as_they_are(tmp_path: Path) -> None:
    """`quant_algo` is null then, beside a `kv_cache_quant_algo`."""
    tensors = {WEIGHT: torch.ones(4, 4), "model.layers.0.self_attn.k_proj.k_scale": torch.ones(1)}
    directory = write_safetensors_checkpoint(tmp_path / "m", tiny_config(), tensors)
    quantization: dict[str, Any] = {"quant_algo": None, "kv_cache_quant_algo": "FP8", "exclude_modules": []}
    (directory / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
    decoded = unpacked(directory)
    assert list(decoded) == [WEIGHT]
    assert_same(decoded[WEIGHT], torch.ones(4, 4))


@pytest.mark.parametrize("algorithm", ["MXFP8", "MIXED_PRECISION"])
def test_mxfp8(algorithm: str, tmp_path: Path) -> None:
    weight = codes((40, 64))
    exponents = torch.randint(110, 130, (40, 2), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    descale = torch.exp2(exponents.float() - 127).repeat_interleave(32, 1)
    decoded = unpacked(write(tmp_path, module(weight=weight, weight_scale=exponents), section(algorithm)))
    assert_same(decoded[WEIGHT], (weight.float() * descale).to(torch.bfloat16))


def nvfp4(shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
    """Pack random e2m1 codes: the module, and its weight in float32."""
    generator = torch.Generator().manual_seed(5)
    indices = torch.randint(0, 16, shape, generator=generator)
    packed = (indices[:, 1::2] << 4 | indices[:, 0::2]).to(torch.uint8)
    scale, second = scales((shape[0], shape[1] // 16)).mul(9000).to(torch.float8_e4m3fn), torch.tensor(0.000173)
    grouped = E2M1[indices].reshape(shape[0], -1, 16) * (scale.float() * second).unsqueeze(-1)
    return module(weight=packed, weight_scale=scale, weight_scale_2=second), grouped.reshape(shape)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("algorithm", ["NVFP4", "W4A16_NVFP4", "MIXED_PRECISION"])
def test_nvfp4(algorithm: str, dtype: str, tmp_path: Path) -> None:
    tensors, expected = nvfp4((24, 96))
    decoded = unpacked(write(tmp_path, tensors, section(algorithm, group_size=16), dtype))
    assert_same(decoded[WEIGHT], expected.to(getattr(torch, dtype)))


def test_nvfp4_by_hand(tmp_path: Path) -> None:
    """0x21 is 0.5 and 1, 0xf8 is 0 and -6; the scale 4 times 0.25 is 1."""
    raw = torch.tensor([[0x21, 0xF8, *[0] * 6]], dtype=torch.uint8)
    scale = torch.full((1, 1), 4.0).to(torch.float8_e4m3fn)
    tensors = module(weight=raw, weight_scale=scale, weight_scale_2=torch.tensor(0.25))
    values = read_tensor(unpacked(write(tmp_path, tensors, section("NVFP4")))[WEIGHT])
    assert values.tolist() == [[0.5, 1.0, 0.0, -6.0, *[0.0] * 12]]


@pytest.mark.parametrize("algorithm", ["FP8", "NVFP4"])
def test_a_whole_model_beside_hf_quant_config(algorithm: str, tmp_path: Path) -> None:
    """The config of older versions is a file of its own; the outputs are those of the dequantized checkpoint."""
    config = tiny_config(dtype="bfloat16")
    packed: Tensors = {"model.layers.0.self_attn.k_proj.k_scale": torch.ones(())}
    plain: Tensors = {}
    for index, (name, shape) in enumerate(tensor_shapes(config).items()):
        if name.endswith("_proj.weight"):
            parts, plain[name] = _pack(algorithm, (shape[0], shape[1]))
            packed |= {part.replace(WEIGHT, name): tensor for part, tensor in parts.items()}
        else:
            random = torch.randn(shape, generator=torch.Generator().manual_seed(index))
            plain[name] = packed[name] = random.to(torch.bfloat16)
    directory = write_safetensors_checkpoint(tmp_path / "packed" / "model", config, packed)
    said = {"quant_algo": algorithm, "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    text = json.dumps({"producer": {"name": "modelopt", "version": "0.27.1"}, "quantization": said})
    (directory / "hf_quant_config.json").write_text(text)
    twin = write_safetensors_checkpoint(tmp_path / "plain" / "model", config, plain)
    assert "left out: `k_scale`" in model_tensors(open_checkpoint(directory)).notes[1]
    assert _hashes(directory, tmp_path / "a") == _hashes(twin, tmp_path / "b")


def _pack(algorithm: str, shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
    if algorithm == "NVFP4":
        tensors, expected = nvfp4(shape)
        return tensors, expected.to(torch.bfloat16)
    weight, scale = codes(shape), scales(())
    expected = weight.to(torch.bfloat16) * scale.to(torch.bfloat16)
    return module(weight=weight, weight_scale=scale), expected


def _hashes(model: Path, outdir: Path) -> dict[str, str]:
    report = convert.convert_all(model, outdir)
    return {output.path.name: sha256(output.path.read_bytes()).hexdigest() for output in report.outputs}


# --- Hostile


def _float8(**more: torch.Tensor) -> Callable[[], Tensors]:
    return lambda: module(**{"weight": codes((32, 64)), "weight_scale": scales(()), **more})


def _nvfp4_but(**changes: torch.Tensor | None) -> Callable[[], Tensors]:
    def changed() -> Tensors:
        tensors = {**nvfp4((16, 64))[0], **{f"{NAME}.{suffix}": tensor for suffix, tensor in changes.items()}}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    return changed


HOSTILE: Final[Mapping[str, tuple[Callable[[], Tensors], dict[str, Any], type[ConvertError], str]]] = {
    "rows-where-one-is-said": (
        _float8(weight_scale=scales((32,))),
        section("FP8"),
        CheckpointError,
        r"has shape \(32,\); .* says one a tensor, \(1, 1\)",
    ),
    "one-where-blocks-are-said": (
        _float8(weight=codes((200, 300))),
        section("FP8_PB_WO"),
        CheckpointError,
        r"has shape \(\); .* says blocks of 128x128, \(2, 3\)",
    ),
    "floats-where-nvfp4-is-said": (_float8(), section("NVFP4"), CheckpointError, "scales of F32: fp8; .* says `nvfp4`"),
    "nvfp4-where-floats-are-said": (_nvfp4_but(), section("FP8"), CheckpointError, "is U8 .*: nvfp4; .* says `fp8`"),
    "no-second-scale": (
        _nvfp4_but(weight_scale_2=None),
        section("NVFP4"),
        CheckpointError,
        "weight` is U8 without `.*weight_scale_2`",
    ),
    "second-scale-of-two": (
        _nvfp4_but(weight_scale_2=torch.ones(2)),
        section("NVFP4"),
        CheckpointError,
        r"weight_scale_2` is F32 of shape \(2,\), wanted one F32",
    ),
    "a-second-scale-for-floats": (
        _float8(weight_scale_2=torch.ones(())),
        section("FP8"),
        CheckpointError,
        "is F8_E4M3, but has `.*weight_scale_2`",
    ),
    "second-scale-alone": (
        lambda: {**_float8()(), "x.weight_scale_2": torch.ones(())},
        section("FP8"),
        CheckpointError,
        "scale `x.weight_scale_2` has no `x.weight_scale`",
    ),
    "nvfp4-scale-dtype": (
        _nvfp4_but(weight_scale=scales((16, 4))),
        section("NVFP4"),
        CheckpointError,
        "weight_scale` is F32, wanted F8_E4M3",
    ),
    "nvfp4-scale-shape": (
        _nvfp4_but(weight_scale=scales((16, 3)).to(torch.float8_e4m3fn)),
        section("NVFP4"),
        CheckpointError,
        r"has shape \(16, 3\); .* says blocks of 1x16, \(16, 4\)",
    ),
    "nvfp4-of-three-dimensions": (
        _nvfp4_but(weight=torch.zeros(2, 16, 32, dtype=torch.uint8)),
        section("NVFP4"),
        CheckpointError,
        r"has shape \(2, 16, 32\), wanted a matrix",
    ),
    "scale-without-a-weight": (
        lambda: module(weight_scale=scales(())),
        section("FP8"),
        CheckpointError,
        "weight_scale` has no weight `.*q_proj.weight`",
    ),
    "weight-without-a-scale": (
        lambda: {**_float8()(), "x.weight": codes((4, 4))},
        section("FP8"),
        CheckpointError,
        "`x.weight` is F8_E4M3 without a scale, wanted `x.weight_scale`",
    ),
    "left-out": (
        _float8(),
        section("FP8", ignore=[NAME]),
        CheckpointError,
        "says that `.*q_proj` is not quantized, but",
    ),
    "rescaled-activations": (
        _float8(pre_quant_scale=torch.ones(64)),
        section("FP8"),
        UnsupportedError,
        "pre_quant_scale` rescales activations",
    ),
    "another-algorithm": (_float8(), section("W4A8_AWQ"), UnsupportedError, "`quant_algo` in .* is `w4a8_awq`, which"),
    "algorithm-of-a-wrong-type": (_float8(), section("FP8", quant_algo=[1]), ConfigError, "`quant_algo` in .* a name"),
    "other-groups": (_nvfp4_but(), section("NVFP4", group_size=32), UnsupportedError, "`group_size` in .* is 32"),
    "groups-as-text": (_nvfp4_but(), section("NVFP4", group_size="16"), ConfigError, "wanted an integer"),
    "ignore-of-a-wrong-type": (_float8(), section("FP8", ignore="x"), ConfigError, "`ignore` in .* a list of strings"),
    "another-method": (
        _nvfp4_but(),
        {"quant_method": "fp8"},
        CheckpointError,
        "declares `fp8`, but .*weight_scale_2` is modelopt's",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_checkpoints_are_errors_when_opened(case: str, tmp_path: Path) -> None:
    tensors, quantization, error, message = HOSTILE[case]
    directory = write(tmp_path, tensors(), quantization)
    with pytest.raises(error, match=message) as raised:
        unpacked(directory)
    assert type(raised.value) is error
