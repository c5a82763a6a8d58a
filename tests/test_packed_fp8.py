"""fp8 checkpoints: every 8-bit float, scale, spelling and block, against transformers and compressed-tensors.

Whole models are quantized by transformers' Fp8Quantize and dequantized by its `from_pretrained`, which does so on a
CPU. Blocks that the shape is no multiple of are judged by compressed-tensors' FP8BlockDequantizer, since transformers
is wrong there, and by a formula.
"""

from __future__ import annotations

from hashlib import sha256
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from checkpoint_weights import tensor_shapes
from fp8_checkpoints import E4M3, NAME, WEIGHT, Tensors, expanded, good, random_codes, random_scales, section, write
from packed_checkpoints import assert_same, read_tensor, tiny_config, unpacked, write_safetensors_checkpoint
from reference import convert as convert_by_reference

import convert
from convert.checkpoint import StoredType, open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.checkpoint.packed.float8 import E2M1, decode_bytes
from convert.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# --- The numbers


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (StoredType.F8_E4M3, torch.float8_e4m3fn),
        (StoredType.F8_E5M2, torch.float8_e5m2),
        (StoredType.F8_E4M3FNUZ, torch.float8_e4m3fnuz),
        (StoredType.F8_E5M2FNUZ, torch.float8_e5m2fnuz),
        (StoredType.F8_E8M0, torch.float8_e8m0fnu),
        (StoredType.I8, torch.int8),
    ],
    ids=str,
)
def test_every_byte_is_what_torch_says(stored: StoredType, dtype: torch.dtype) -> None:
    raw = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(raw).view(dtype).float().numpy()
    values = decode_bytes(raw, stored)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(values[known].view(np.uint32), expected[known].view(np.uint32))


def test_e2m1_by_hand() -> None:
    magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert E2M1.tolist() == magnitudes + [-value for value in magnitudes]
    assert np.signbit(E2M1).tolist() == [False] * 8 + [True] * 8


def test_a_weight_by_hand(tmp_path: Path) -> None:
    """0x38 is 1, 0x3c is 1.5, 0xc0 is -2; blocks of 1x2, the last of one column."""
    raw = torch.tensor([[0x38, 0x3C, 0xC0], [0x01, 0x7E, 0x00]], dtype=torch.uint8)
    tensors = {WEIGHT: raw.view(E4M3), f"{WEIGHT}_scale_inv": torch.tensor([[2.0, 0.5], [512.0, 1.0]])}
    weight = unpacked(write(tmp_path, tensors, section(weight_block_size=[1, 2])))[WEIGHT]
    assert read_tensor(weight).tolist() == [[2.0, 3.0, -1.0], [1.0, 229376.0, 0.0]]


# --- Whole models, by transformers


def quantized_by_transformers(quantization: Mapping[str, Any], **changes: object) -> tuple[dict[str, Any], Tensors]:
    """Quantize a tiny Llama's linear layers with transformers: its config and tensors."""
    from transformers.integrations.finegrained_fp8 import Fp8Quantize

    config = tiny_config(**{"dtype": "bfloat16", "quantization_config": quantization, **changes})
    asked = SimpleNamespace(
        weight_block_size=quantization["weight_block_size"], scale_fmt=quantization.get("scale_fmt", "float")
    )
    quantizer = Fp8Quantize(SimpleNamespace(quantization_config=asked))
    tensors: Tensors = {}
    for index, (name, shape) in enumerate(tensor_shapes(config).items()):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(index)) * 0.05
        if name.endswith("_proj.weight"):
            tensors |= quantizer._quantize_one(name, values)
        else:
            tensors[name] = values.to(getattr(torch, config["dtype"]))
    return config, tensors


WHOLE: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "blocks": (section(), {}),
    "oblong-blocks": (section(weight_block_size=[16, 32]), {}),
    "ue8m0": (section(scale_fmt="ue8m0"), {}),
    "per-tensor": (section(weight_block_size=None, activation_scheme="static"), {}),
    "float16": (section(), {"dtype": "float16"}),
    "float32": (section(), {"dtype": "float32"}),
    "larger": (
        section(weight_block_size=[128, 128]),
        {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_key_value_heads": 4},
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_model_is_what_transformers_loads(case: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    quantization, changes = WHOLE[case]
    config, tensors = quantized_by_transformers(quantization, **changes)
    directory = write_safetensors_checkpoint(tmp_path / "m", config, tensors)
    loaded = AutoModelForCausalLM.from_pretrained(directory).state_dict()
    decoded = unpacked(directory)
    assert sorted(decoded) == sorted(loaded)
    for name, tensor in decoded.items():
        assert_same(tensor, loaded[name])


@pytest.mark.parametrize("case", ["blocks", "ue8m0", "per-tensor"])
def test_the_files_are_those_of_the_dequantized_checkpoint(case: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config, tensors = quantized_by_transformers(WHOLE[case][0])
    packed = write_safetensors_checkpoint(tmp_path / "packed" / "model", config, tensors)
    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    loaded = AutoModelForCausalLM.from_pretrained(packed).state_dict()
    twin = write_safetensors_checkpoint(tmp_path / "plain" / "model", plain, loaded)
    assert hashes(packed, tmp_path / "a") == hashes(twin, tmp_path / "b")


def hashes(model: Path, outdir: Path) -> dict[str, str]:
    """Convert to all types: each file's sha256."""
    report = convert.convert_all(model, outdir)
    return {output.path.name: sha256(output.path.read_bytes()).hexdigest() for output in report.outputs}


def test_where_a_model_computes_in_float16_the_file_is_the_references(reference_source: Path, tmp_path: Path) -> None:
    """The reference does not round to bfloat16 where the model computes in that; see the README."""
    config, tensors = quantized_by_transformers(section(), dtype="float16")
    directory = write_safetensors_checkpoint(tmp_path / "model", config, tensors)
    [reference] = convert_by_reference(reference_source, [(directory, tmp_path / "reference.gguf")])
    assert reference.error is None
    ours = convert.convert_one(directory, tmp_path / "ours.gguf").outputs[0].path
    assert ours.read_bytes() == reference.outfile.read_bytes()


# --- Scales


SCALE_TYPES: Final = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e8m0fnu, torch.uint8]


@pytest.mark.parametrize("output", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("scale_type", SCALE_TYPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz], ids=str)
def test_scale_types_as_transformers_reads_them(
    dtype: torch.dtype, scale_type: torch.dtype, output: str, tmp_path: Path
) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes = random_codes((96, 64), dtype)
    if scale_type in {torch.uint8, torch.float8_e8m0fnu}:
        scales = torch.tensor([[118, 120], [121, 127], [119, 125]], dtype=torch.uint8).view(scale_type)
    else:
        scales = random_scales((3, 2), scale_type)
    tensors = {WEIGHT: codes, f"{WEIGHT}_scale_inv": scales}
    expected = Fp8Dequantize(None)._dequantize_one(codes, scales, output_dtype=getattr(torch, output))
    assert_same(unpacked(write(tmp_path, tensors, section(), dtype=output))[WEIGHT], expected)


def test_without_a_dtype_it_is_bfloat16(tmp_path: Path) -> None:
    tensors = {WEIGHT: random_codes((32, 32)), f"{WEIGHT}_scale_inv": random_scales((1, 1))}
    config = tiny_config(quantization_config=section())
    for key in ("dtype", "torch_dtype"):
        config.pop(key, None)
    weight = unpacked(write_safetensors_checkpoint(tmp_path / "m", config, tensors))[WEIGHT]
    assert weight.dtype is StoredType.BF16


PARTIAL: Final = [((96, 80), (64, 64)), ((65, 31), (32, 32)), ((5, 300), (128, 128)), ((192, 192), (128, 128))]


@pytest.mark.parametrize(("shape", "block"), PARTIAL, ids=str)
def test_last_blocks_are_partial(shape: tuple[int, int], block: tuple[int, int], tmp_path: Path) -> None:
    from compressed_tensors.entrypoints.convert.converters.fp8block_dequantizer import FP8BlockDequantizer

    codes = random_codes(shape)
    scales = random_scales((-(-shape[0] // block[0]), -(-shape[1] // block[1])))
    tensors = {WEIGHT: codes, f"{WEIGHT}_scale_inv": scales}
    decoded = unpacked(write(tmp_path, tensors, section(weight_block_size=list(block))))
    expected = FP8BlockDequantizer(weight_block_size=block).process(dict(tensors))[WEIGHT]
    torch.testing.assert_close(expected, (codes.float() * expanded(scales, shape, block)).to(torch.bfloat16))
    assert_same(decoded[WEIGHT], expected)


@pytest.mark.parametrize("suffix", ["input_scale", "act_scale", "in_scale", "out_scale", "output_scale"])
def test_scales_of_activations_are_left_out_however_they_are_called(suffix: str, tmp_path: Path) -> None:
    """Each was AutoFP8's or vLLM's name for one, at some time."""
    tensors = {WEIGHT: random_codes((8, 8)), f"{WEIGHT}_scale": random_scales(()), f"{NAME}.{suffix}": torch.ones(1)}
    quantization = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
    assert list(unpacked(write(tmp_path, tensors, quantization))) == [WEIGHT]


SPELLINGS: Final = {
    "deepseek": ("weight_scale_inv", (2, 3), section()),
    "deepseek-native": ("scale", (2, 3), section()),
    "no-block-size-said": ("weight_scale_inv", (1, 1), {"quant_method": "fp8"}),
    "autofp8": ("weight_scale", (), {"quant_method": "fp8", "activation_scheme": "static"}),
    "autofp8-of-one": ("weight_scale", (1,), {"quant_method": "fp8", "activation_scheme": "static"}),
    "rows": ("weight_scale", (64,), section(weight_block_size=None)),
    "mistral": ("qscale_weight", (), section(weight_block_size=None)),
    "mistral-in-transformers": ("weight_scale_inv", (), section(weight_block_size=None)),
    "fbgemm": ("weight_scale", (64, 1), {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_spellings_of_scales(case: str, tmp_path: Path) -> None:
    suffix, shape, quantization = SPELLINGS[case]
    codes, scales = random_codes((64, 96)), random_scales(shape)
    factors = expanded(scales, (64, 96), (32, 32)) if shape == (2, 3) else scales.reshape(-1, 1)
    decoded = unpacked(write(tmp_path, {WEIGHT: codes, f"{NAME}.{suffix}": scales}, quantization))
    assert list(decoded) == [WEIGHT]
    assert_same(decoded[WEIGHT], (codes.float() * factors).to(torch.bfloat16))


def test_the_default_block_is_128(tmp_path: Path) -> None:
    codes, scales = random_codes((200, 130)), random_scales((2, 2))
    decoded = unpacked(write(tmp_path, {WEIGHT: codes, f"{WEIGHT}_scale_inv": scales}, {"quant_method": "fp8"}))
    expected = (codes.float() * expanded(scales, (200, 130), (128, 128))).to(torch.bfloat16)
    assert_same(decoded[WEIGHT], expected)


@pytest.mark.parametrize("said", [{}, {"weight_block_size": [1, 32], "scale_fmt": "ue8m0"}], ids=["unsaid", "said"])
def test_mxfp8_has_an_exponent_for_each_32_of_a_row(said: dict[str, Any], tmp_path: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes = random_codes((10, 96))
    scales = torch.randint(0, 255, (10, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    tensors = {WEIGHT: codes, f"{WEIGHT}_scale_inv": scales}
    decoded = unpacked(write(tmp_path, tensors, {"quant_method": "mxfp8", **said}))
    assert_same(decoded[WEIGHT], Fp8Dequantize(None)._dequantize_one(codes, scales, output_dtype=torch.bfloat16))


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (3, 2, 3)], ids=str)
def test_stacks_of_experts(shape: tuple[int, ...], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    codes, scales = random_codes((3, 40, 70)), random_scales(shape)
    in_blocks = shape[-1:] == (3,) and len(shape) == 3
    factors = expanded(scales, (3, 40, 70), (32, 32)) if in_blocks else scales.reshape(3, 1, 1)
    quantization = section() if in_blocks else section(weight_block_size=None)
    tensors = {name: codes, f"{name}_scale_inv": scales, f"{name}_activation_scale": torch.ones(3)}
    decoded = unpacked(write(tmp_path, tensors, quantization))
    assert list(decoded) == [name]
    assert_same(decoded[name], (codes.float() * factors).to(torch.bfloat16))


def test_what_only_concerns_activations_is_left_out_with_a_note(tmp_path: Path) -> None:
    tensors = {WEIGHT: random_codes((32, 32)), f"{WEIGHT}_scale_inv": random_scales((1, 1))}
    left_out = ("input_scale", "activation_scale", "qscale_act", "input_scale_ub", "k_scale", "v_scale", "kv_scale")
    more = {f"{NAME}.{suffix}": torch.ones(1) for suffix in left_out}
    unpacked_tensors = model_tensors(open_checkpoint(write(tmp_path, {**tensors, **more}, section())))
    assert list(unpacked_tensors.tensors) == [WEIGHT]
    assert unpacked_tensors.notes[0] == "packed by fp8: 1 tensors are decoded on the way"
    assert unpacked_tensors.notes[1].startswith("7 tensors that only concern quantized activations are left out: ")


def test_a_tensor_called_scale_stays_where_no_weight_is_an_8_bit_float(tmp_path: Path) -> None:
    tensors = {
        WEIGHT: random_codes((32, 32)),
        f"{WEIGHT}_scale_inv": random_scales((1, 1)),
        "norm.scale": torch.ones(4),
    }
    assert list(unpacked(write(tmp_path, tensors, section()))) == [WEIGHT, "norm.scale"]


def test_modules_that_were_left_out_are_as_they_are(tmp_path: Path) -> None:
    tensors = {
        WEIGHT: random_codes((32, 32)),
        f"{WEIGHT}_scale_inv": random_scales((1, 1)),
        "lm_head.weight": torch.ones(4, 4),
    }
    quantization = section(modules_to_not_convert=["lm_head"], ignored_layers=["re:(a+)+$", "("])
    decoded = unpacked(write(tmp_path, tensors, quantization))
    assert_same(decoded["lm_head.weight"], torch.ones(4, 4))


def test_scales_need_not_be_powers_of_two_though_the_config_says_so(tmp_path: Path) -> None:
    """DeepSeek V3.1 says `ue8m0` and stores float32."""
    codes, scales = random_codes((32, 32)), random_scales((1, 1))
    decoded = unpacked(write(tmp_path, {WEIGHT: codes, f"{WEIGHT}_scale_inv": scales}, section(scale_fmt="ue8m0")))
    assert_same(decoded[WEIGHT], (codes.float() * scales).to(torch.bfloat16))


def test_from_a_torch_file(tmp_path: Path) -> None:
    codes, scales = random_codes((64, 96)), random_scales((2, 3))
    directory = write(tmp_path, {WEIGHT: codes}, section())
    (directory / "model.safetensors").unlink()
    torch.save({WEIGHT: codes, f"{WEIGHT}_scale_inv": scales.T.contiguous().T}, directory / "pytorch_model.bin")
    expected = (codes.float() * expanded(scales, (64, 96), (32, 32))).to(torch.bfloat16)
    assert_same(unpacked(directory)[WEIGHT], expected)


def test_torch_dtype_says_the_type_too(tmp_path: Path) -> None:
    tensors = good()
    config = tiny_config(quantization_config=section(), torch_dtype="float16")
    config.pop("dtype", None)
    directory = write_safetensors_checkpoint(tmp_path / "m", config, tensors)
    expected = (tensors[WEIGHT].float() * expanded(tensors[f"{WEIGHT}_scale_inv"], (64, 96), (32, 32))).half()
    assert_same(unpacked(directory)[WEIGHT], expected)


# --- Values that are not numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_a_bad_scale_is_a_bad_weight(value: float, tmp_path: Path) -> None:
    config, tensors = quantized_by_transformers(section())
    tensors[f"{WEIGHT}_scale_inv"][1, 0] = value
    directory = write_safetensors_checkpoint(tmp_path / "m", config, tensors)
    with pytest.raises(WeightsError, match=f"`{WEIGHT}` has 1024 values NaN or infinite, the first is .* at .32, 0."):
        convert.convert_all(directory, tmp_path / "out")


def test_a_scale_of_zero_gives_zeros(tmp_path: Path) -> None:
    codes = random_codes((32, 32))
    decoded = unpacked(write(tmp_path, {WEIGHT: codes, f"{WEIGHT}_scale_inv": torch.zeros(1, 1)}, section()))
    np.testing.assert_array_equal(read_tensor(decoded[WEIGHT]), np.zeros((32, 32)))


def test_a_code_that_is_nan_is_found(tmp_path: Path) -> None:
    codes = torch.full((32, 32), 0x7F, dtype=torch.uint8).view(E4M3)
    decoded = unpacked(write(tmp_path, {WEIGHT: codes, f"{WEIGHT}_scale_inv": torch.ones(1, 1)}, section()))
    assert np.isnan(read_tensor(decoded[WEIGHT])).all()
