"""auto-round checkpoints against an independent packer, BitNet packed by transformers, and the methods refused."""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from group_packing import (
    NAME,
    Tensors,
    assert_decoded,
    awq_gemm_module,
    gptq_module,
    int32,
    make_codes,
    outputs_of,
    packed_and_plain,
    replaced,
    write_packed,
)
from packed_checkpoints import assert_same, tiny_config, unpacked, write_safetensors_checkpoint

from convert.checkpoint import open_checkpoint
from convert.checkpoint.packed import as_floats, model_tensors
from convert.checkpoint.packed.refused import REFUSED_METHODS
from convert.errors import CheckpointError, ConfigError, ConvertError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path


WORDS = torch.zeros(8, 8, dtype=torch.int32)

# ---------------------------------------------------------------------------------------------------- auto-round


def auto_round(packing: str | None = None, **more: object) -> dict[str, Any]:
    """Return a quantization section as auto-round writes it."""
    section = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False, **more}
    return section if packing is None else {**section, "packing_format": packing}


@pytest.mark.parametrize(
    ("packing", "zero_offset"),
    [
        (None, 1),
        ("auto_round:gptq", 1),
        ("auto_round:auto_gptq", 1),
        ("auto_round:gptqmodel", 0),
        ("auto_round", 0),
    ],
)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_auto_round_in_gptqs_packing(tmp_path: Path, packing: str | None, zero_offset: int, bits: int) -> None:
    packed = make_codes((64, 96), bits=bits)
    tensors = gptq_module(NAME, packed, zero_offset=zero_offset, with_g_idx=False)
    assert_decoded(tmp_path, tensors, auto_round(packing, bits=bits), packed.dequantized())


def test_auto_round_in_awqs_packing(tmp_path: Path) -> None:
    packed = make_codes((64, 96))
    quantization = {**auto_round("auto_round:auto_awq"), "quant_method": "intel/auto-round"}
    assert_decoded(tmp_path, awq_gemm_module(NAME, packed), quantization, packed.dequantized())


def test_auto_round_with_modules_of_their_own_bits(tmp_path: Path) -> None:
    other = "model.layers.0.mlp.down_proj"
    first, second = make_codes((64, 64)), make_codes((64, 96), bits=8)
    tensors = {**gptq_module(NAME, first, with_g_idx=False), **gptq_module(other, second, with_g_idx=False)}
    extra = {other: {"bits": 8}, "lm_head": {"bits": 16, "data_type": "float"}}
    decoded = unpacked(write_packed(tmp_path, tensors, auto_round("auto_round:auto_gptq", extra_config=extra)))
    assert_same(decoded[f"{NAME}.weight"], first.dequantized())
    assert_same(decoded[f"{other}.weight"], second.dequantized())


@pytest.mark.parametrize("packing", ["auto_round:llm_compressor", "auto_round:fp8_static", "mlx"])
def test_auto_rounds_other_packings_are_refused(tmp_path: Path, packing: str) -> None:
    with pytest.raises(UnsupportedError, match=f"`packing_format` `{packing}`; decoded are auto_round:gptq,"):
        unpacked(write_packed(tmp_path, {f"{NAME}.weight": WORDS}, auto_round(packing)))


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "auto-round", "group_size": 32}, "has no `bits`"),
        ({"quant_method": "auto-round", "bits": 4}, "has no `group_size`"),
        (auto_round(packing_format=["auto_round"]), "wanted a name"),
        (auto_round(extra_config={NAME: 8}), "wanted an object"),
        (auto_round(bits=6), "wanted one of 2, 3, 4, 8"),
        (auto_round(group_size=16), "groups of 16, its tensors are"),
    ],
)
def test_an_auto_round_config_that_is_wrong(tmp_path: Path, quantization: dict[str, Any], message: str) -> None:
    tensors = gptq_module(NAME, make_codes((64, 64)), with_g_idx=False)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        unpacked(write_packed(tmp_path, tensors, quantization))


# -------------------------------------------------------------------------------------------------------- BitNet


def bitnet_module(name: str, shape: tuple[int, int], *, multiplies: bool = False) -> tuple[Tensors, torch.Tensor]:
    """Pack ternary weights with transformers, and say what weight they stand for."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the module compiles its other functions as it is imported, torch warns of itself
        from transformers.integrations.bitnet import pack_weights

    ternary = torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([3.3], dtype=torch.bfloat16)
    packed = pack_weights(ternary.clone())
    assert packed.shape == (shape[0] // 4, shape[1])
    expected = ternary.float() * scale.float() if multiplies else ternary.float() / scale.float()
    return {f"{name}.weight": packed, f"{name}.weight_scale": scale}, expected


def bitnet(**more: object) -> dict[str, Any]:
    """Return a quantization section as transformers writes it."""
    return {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"], **more}


@pytest.mark.parametrize("linear_class", [None, "bitlinear", "autobitlinear"])
def test_bitnet(tmp_path: Path, linear_class: str | None) -> None:
    tensors, expected = bitnet_module(NAME, (64, 24), multiplies=linear_class == "autobitlinear")
    quantization = bitnet() if linear_class is None else bitnet(linear_class=linear_class, quantization_mode="offline")
    assert_decoded(tmp_path, tensors, quantization, expected)


def test_bitnet_by_hand(tmp_path: Path) -> None:
    """The example of transformers' `unpack_weights`: the lowest two bits of the bytes are the first rows."""
    tensors = {
        f"{NAME}.weight": torch.tensor([[0b10100001, 0b00011000], [0b10010000, 0b00001010]], dtype=torch.uint8),
        f"{NAME}.weight_scale": torch.tensor([0.5]),
    }
    expected = torch.tensor([[0, -1], [-1, 1], [-1, 1], [-1, 1], [1, 0], [0, -1], [1, -1], [1, -1]]).float()
    assert_decoded(tmp_path, tensors, bitnet(), expected * 2)


def test_the_files_are_those_of_bitnets_dequantized_checkpoint(tmp_path: Path) -> None:
    ours, plain = packed_and_plain(tmp_path, bitnet(), bitnet_module)
    assert outputs_of(ours, tmp_path / "a") == outputs_of(plain, tmp_path / "b")


BITNET_HOSTILE: Final = {
    "no-weight": (replaced("weight", None), bitnet(), CheckpointError, f"has no `{NAME}.weight` that it belongs to"),
    "no-scale": (replaced("weight_scale", None), bitnet(), CheckpointError, "has no `weight_scale`, only"),
    "scales": (replaced("weight_scale", torch.ones(16)), bitnet(), CheckpointError, "has shape (16,), wanted (1,)"),
    "scale-int": (replaced("weight_scale", int32(1).repeat(1)), bitnet(), CheckpointError, "has type I32, wanted F16"),
    "floats": (replaced("weight", torch.ones(16, 24)), bitnet(), CheckpointError, "has type F32, wanted U8"),
    "flat": (replaced("weight", torch.ones(16).byte()), bitnet(), CheckpointError, "wanted 2 dimensions"),
    "online": (replaced("weight", None), bitnet(quantization_mode="online"), UnsupportedError, "says BitNet's"),
    "norms": (replaced("weight", None), bitnet(use_rms_norm=True), UnsupportedError, "norms of its own True"),
    "class": (replaced("weight", None), bitnet(linear_class="linear"), UnsupportedError, "says BitNet's `linear`"),
    "class-type": (replaced("weight", None), bitnet(linear_class=1), ConfigError, "wanted a name"),
}


@pytest.mark.parametrize("row", BITNET_HOSTILE)
def test_what_is_wrong_with_bitnet_is_an_error_that_names_it(tmp_path: Path, row: str) -> None:
    change, quantization, error, message = BITNET_HOSTILE[row]
    tensors, _ = bitnet_module(NAME, (64, 24))
    change(tensors)
    with pytest.raises(error, match=re.escape(message)):
        unpacked(write_packed(tmp_path, tensors, quantization))


# ------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("method", [method for refused in REFUSED_METHODS for method in refused.methods])
def test_a_method_that_is_refused_is_named_with_a_way_out(tmp_path: Path, method: str) -> None:
    refused = next(row for row in REFUSED_METHODS if method in row.methods)
    directory = write_packed(tmp_path, {f"{NAME}.weight": WORDS}, {"quant_method": method.upper()})
    with pytest.raises(UnsupportedError) as caught:
        unpacked(directory)
    message, hint = caught.value.message, caught.value.hint or ""
    assert message.startswith(f"the checkpoint is quantized with {refused.label}, which this version does not decode: ")
    assert hint.startswith(f"{refused.remedy}; decoded are bitsandbytes, GPTQ, AWQ, ")


def test_quanto_says_it_in_a_file_of_its_own(tmp_path: Path) -> None:
    tensors = {f"{NAME}.weight._data": torch.zeros(8, 8, dtype=torch.int8), f"{NAME}.weight._scale": torch.ones(8, 1)}
    directory = write_safetensors_checkpoint(tmp_path / "m", tiny_config(), tensors)
    (directory / "quanto_qmap.json").write_text(json.dumps({NAME: {"weights": "qint8", "activations": "none"}}))
    with pytest.raises(UnsupportedError, match="is quantized with quanto, which"):
        unpacked(directory)


COMPRESSED = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}
KEPT: list[dict[str, Any]] = [
    {"quant_method": "fp8"},
    {"quant_method": "fp8", "weight_block_size": [128, 128]},
    {"quant_method": "modelopt", "quant_algo": "FP8"},
    {"quant_method": "mxfp4"},
    COMPRESSED,
    {"quant_method": "bitsandbytes", "load_in_4bit": True},
    {"quant_method": "gptq", "bits": 4, "group_size": 128},
    {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    {"quant_method": "hqq"},
    {"quant_method": "torchao"},
    {"quant_method": "quark"},
    {"quant_method": "one of tomorrow's"},
    {"group_size": 64, "bits": 4},
]


@pytest.mark.parametrize("section", KEPT, ids=str)
def test_a_section_that_dequantized_weights_have_kept_is_a_note(tmp_path: Path, section: dict[str, Any]) -> None:
    tensors = {f"{NAME}.weight": torch.ones(8, 8), f"{NAME}.bias": torch.ones(8), "ids": torch.arange(3)}
    found = model_tensors(open_checkpoint(write_packed(tmp_path, tensors, section)))
    assert found.packing is None
    assert_same(found.tensors[f"{NAME}.weight"], torch.ones(8, 8))
    (note,) = found.notes
    assert note.endswith("but the weights are plain: read as they are")


def test_mlxs_sections_left_by_its_fuse_are_a_note(tmp_path: Path) -> None:
    words = {"group_size": 64, "bits": 4}
    config = tiny_config(quantization=words, quantization_config=words)
    directory = write_safetensors_checkpoint(tmp_path / "m", config, {f"{NAME}.weight": torch.ones(8, 8)})
    assert_same(unpacked(directory)[f"{NAME}.weight"], torch.ones(8, 8))


@pytest.mark.parametrize("companion", ["weight_scale", "scales", "weight.absmax", "g_idx"])
def test_a_section_is_not_passed_over_where_something_of_the_packing_is_there(companion: str, tmp_path: Path) -> None:
    tensors = {f"{NAME}.weight": torch.zeros(8, 8), f"{NAME}.{companion}": torch.ones(8, 1)}
    with pytest.raises(ConvertError):
        unpacked(write_packed(tmp_path, tensors, {"quant_method": "quark"}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_that_were_only_cast_are_the_numbers_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.randn(16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).to(dtype)
    directory = write_safetensors_checkpoint(tmp_path / "m", tiny_config(), {f"{NAME}.weight": values})
    tensors, notes = as_floats(unpacked(directory))
    assert_same(tensors[f"{NAME}.weight"], values.float())
    assert len(notes) == 1
    assert "without scales, read as the numbers they are" in notes[0]


def test_a_section_called_quantization_that_is_something_else(tmp_path: Path) -> None:
    config = tiny_config(quantization={"bits": 16})
    directory = write_safetensors_checkpoint(tmp_path / "m", config, {f"{NAME}.weight": torch.zeros(8, 8)})
    assert_same(unpacked(directory)[f"{NAME}.weight"], torch.zeros(8, 8))


def test_8_bit_floats_of_whom_nobody_says(tmp_path: Path) -> None:
    codes = torch.zeros(8, 8).to(torch.float8_e4m3fn)
    directory = write_packed(tmp_path, {f"{NAME}.weight": codes, f"{NAME}.weight_scale": torch.ones(1)}, None)
    with pytest.raises(CheckpointError, match=f"declares no quantization, but `{NAME}.weight` is F8_E4M3") as caught:
        unpacked(directory)
    assert "`quantization_config` says how they are packed" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("section", "said"), [({"quant_method": "mine"}, "`mine`"), ({"bits": 4}, "`an unnamed method`")]
)
def test_a_method_that_nobody_knows_is_shown(tmp_path: Path, section: dict[str, Any], said: str) -> None:
    directory = write_packed(tmp_path, {f"{NAME}.weight": torch.zeros(8, 8, dtype=torch.int8)}, section)
    with pytest.raises(UnsupportedError, match=f"is quantized with {said}, which this version does not decode"):
        unpacked(directory)
