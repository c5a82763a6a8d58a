"""GPTQ checkpoints: every number of bits, order, kind of zero point and shape, against an independent packer.

Hand-checked words stand as literals. The formula is GPTQModel's (7.7.0, PackableQuantLinear._dequantize_from_codes), in
torch; its and AutoGPTQ's ways with zero points of 0 are checked with words worked out on paper.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
import reference as llama_cpp
import torch
from group_packing import (
    NAME,
    Codes,
    Tensors,
    assert_decoded,
    gptq_config,
    gptq_module,
    make_codes,
    outputs_of,
    pack_words,
    packed_and_plain,
    write_packed,
)
from packed_checkpoints import assert_same, read_tensor, tiny_config, unpacked, write_safetensors_checkpoint

from convert import convert_one
from convert.checkpoint import open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

GPTQMODEL: Final = {"quantizer": ["optimum:1.24.0", "gptqmodel:4.0.0"]}


def test_four_bits_by_hand(tmp_path: Path) -> None:
    """One column of eight codes 0 … 7, zero point 3 + 1, scale 0.5; the lowest bits are the first row."""
    tensors = {
        f"{NAME}.qweight": torch.tensor([[0x76543210]], dtype=torch.int32),
        f"{NAME}.qzeros": torch.tensor([[0x3]], dtype=torch.int32),
        f"{NAME}.scales": torch.tensor([[0.5]], dtype=torch.float16),
        f"{NAME}.g_idx": torch.zeros(8, dtype=torch.int32),
    }
    expected = torch.tensor([[-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]], dtype=torch.float16)
    assert_decoded(tmp_path, tensors, gptq_config(4, 8), expected)


def test_three_bits_cross_words_by_hand(tmp_path: Path) -> None:
    """Codes 10 and 21 lie in two words: 5 = 101 is 01 at the top of the first and 1 at the bottom of the second."""
    codes = torch.zeros(32, 32, dtype=torch.int64)
    codes[9:12, 0] = torch.tensor([7, 5, 6])  # row 9: bits 27-29; row 10: bits 30, 31 and 32; row 11: bits 33-35
    codes[21, 0] = 3  # bits 63, 64 and 65
    words = [0b01_111_000 << 24, 0b110_1 | 1 << 31, 0b01]
    assert [word & 0xFFFFFFFF for word in pack_words(codes[:, 0].tolist(), 3)] == words
    packed = Codes(3, codes, torch.ones(1, 32, dtype=torch.int64), torch.ones(1, 32).half(), torch.zeros(32).long())
    tensors = gptq_module(NAME, packed)
    decoded = read_tensor(unpacked(write_packed(tmp_path, tensors, gptq_config(3, 32)))[f"{NAME}.weight"])
    assert decoded[0].tolist() == [-1.0] * 9 + [6.0, 4.0, 5.0] + [-1.0] * 9 + [2.0] + [-1.0] * 10


SHAPES: Final = [
    pytest.param((64, 64), 32, id="square"),
    pytest.param((96, 160), 32, id="wide"),
    pytest.param((32, 96), 96, id="one-group"),
    pytest.param((32, 128), -1, id="whole-row"),
    pytest.param((64, 96), 64, id="short-last-group"),
]


@pytest.mark.parametrize("act_order", [False, True], ids=["in-order", "act-order"])
@pytest.mark.parametrize(("shape", "group_size"), SHAPES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_bits_groups_and_orders(
    tmp_path: Path, bits: int, shape: tuple[int, int], group_size: int, *, act_order: bool
) -> None:
    packed = make_codes(shape, bits=bits, group_size=group_size, act_order=act_order)
    quantization = gptq_config(bits, group_size, desc_act=act_order)
    assert_decoded(tmp_path, gptq_module(NAME, packed), quantization, packed.dequantized())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_the_scales_type_is_the_weights(tmp_path: Path, bits: int, dtype: torch.dtype) -> None:
    packed = make_codes((64, 96), bits=bits, dtype=dtype)
    assert_decoded(tmp_path, gptq_module(NAME, packed), gptq_config(bits), packed.dequantized())


@pytest.mark.parametrize("shape", [(40, 40), (12, 36), (5, 100)], ids=str)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_shapes_that_do_not_fill_their_words(tmp_path: Path, bits: int, shape: tuple[int, int]) -> None:
    """GPTQModel pads the last word of a column and of a row of zero points with zeros."""
    packed = make_codes(shape, bits=bits, group_size=16)
    assert_decoded(tmp_path, gptq_module(NAME, packed), gptq_config(bits, 16), packed.dequantized())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_version_two_holds_zero_points_as_they_are(tmp_path: Path, bits: int) -> None:
    packed = make_codes((64, 64), bits=bits)
    packed.zeros[:, ::3] = 0
    quantization = gptq_config(bits, checkpoint_format="gptq_v2", sym=False)
    assert_decoded(tmp_path, gptq_module(NAME, packed, zero_offset=0), quantization, packed.dequantized())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_zero_point_of_zero_wraps_in_its_own_bits(tmp_path: Path, bits: int) -> None:
    """AutoGPTQ adds one to what it unpacked, and masks."""
    packed = make_codes((64, 64), bits=bits)
    packed.zeros[:, ::3] = 0
    assert_decoded(tmp_path, gptq_module(NAME, packed), gptq_config(bits, sym=False), packed.dequantized())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_zero_point_of_zero_borrows_from_its_neighbour_in_gptqmodel(tmp_path: Path, bits: int) -> None:
    """GPTQModel takes ones from a whole word, and adds them to it again."""
    packed = make_codes((64, 64), bits=bits)
    packed.zeros[:, ::3] = 0
    tensors = gptq_module(NAME, packed, zero_offset=0)
    ones = sum(1 << shift for shift in range(0, 32, bits))
    tensors[f"{NAME}.qzeros"] -= ones
    quantization = gptq_config(bits, sym=False, checkpoint_format="gptq", meta=GPTQMODEL)
    assert_decoded(tmp_path, tensors, quantization, packed.dequantized())


def test_three_bits_do_not_borrow_in_gptqmodel(tmp_path: Path) -> None:
    packed = make_codes((64, 64), bits=3)
    packed.zeros[:, ::3] = 0
    assert_decoded(tmp_path, gptq_module(NAME, packed), gptq_config(3, sym=False, meta=GPTQMODEL), packed.dequantized())


def test_a_group_size_beyond_the_columns_is_one_short_group(tmp_path: Path) -> None:
    packed = make_codes((32, 96), group_size=-1)
    assert_decoded(tmp_path, gptq_module(NAME, packed), gptq_config(4, 10**30), packed.dequantized())


def test_groups_in_order_need_no_list(tmp_path: Path) -> None:
    packed = make_codes((64, 96))
    assert_decoded(tmp_path, gptq_module(NAME, packed, with_g_idx=False), gptq_config(), packed.dequantized())


def test_int64_group_indices(tmp_path: Path) -> None:
    packed = make_codes((64, 96), act_order=True)
    tensors = gptq_module(NAME, packed)
    tensors[f"{NAME}.g_idx"] = packed.group_of
    assert_decoded(tmp_path, tensors, gptq_config(), packed.dequantized())


def test_a_config_beside_config_json_as_autogptq_wrote_it(tmp_path: Path) -> None:
    packed = make_codes((64, 64))
    directory = write_safetensors_checkpoint(tmp_path / "m", tiny_config(), gptq_module(NAME, packed))
    (directory / "quantize_config.json").write_text('{"bits": 4, "group_size": 32, "desc_act": false, "sym": true}')
    assert_same(unpacked(directory)[f"{NAME}.weight"], packed.dequantized())


@pytest.mark.parametrize(
    "name",
    [
        "gptq_model-4bit-32g.safetensors",
        "gptq_model-4bit-32g.bin",
        "Wizard-7B-GPTQ-4bit-32g.compat.no-act-order.safetensors",
    ],
)
def test_files_are_called_as_autogptq_or_its_user_likes(tmp_path: Path, name: str) -> None:
    packed = make_codes((64, 64))
    directory = write_safetensors_checkpoint(tmp_path / "m", tiny_config(), gptq_module(NAME, packed))
    (directory / "quantize_config.json").write_text('{"bits": 4, "group_size": 32, "model_file_base_name": null}')
    (directory / "model.safetensors").rename(directory / name)
    if name.endswith(".bin"):
        torch.save(gptq_module(NAME, packed), directory / name)
    assert_same(unpacked(directory)[f"{NAME}.weight"], packed.dequantized())


def test_shards_are_called_as_autogptq_likes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    packed = make_codes((64, 64))
    tensors = gptq_module(NAME, packed)
    directory = write_safetensors_checkpoint(tmp_path / "m", tiny_config(quantization_config=gptq_config()), {})
    (directory / "model.safetensors").unlink()
    (directory / "quantize_config.json").write_text("{}")
    names = [f"gptq_model-4bit-32g-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = dict(list(tensors.items())[:2]), dict(list(tensors.items())[2:])
    for name, half in zip(names, halves, strict=True):
        save_file(half, directory / name)
    weight_map = {tensor: name for name, half in zip(names, halves, strict=True) for tensor in half}
    (directory / "gptq_model-4bit-32g.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = open_checkpoint(directory)
    assert [file.path.name for file in checkpoint.files] == names
    assert_same(model_tensors(checkpoint).tensors[f"{NAME}.weight"], packed.dequantized())
    (directory / names[1]).unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of 2 files .*: `{names[1]}`"):
        open_checkpoint(directory).require_whole()


def test_zero_biases_of_experts_are_left_out_with_a_note(tmp_path: Path) -> None:
    """AutoGPTQ gives every module a bias. Attention keeps it, as in the reference; Mixtral's experts have no place."""
    packed = make_codes((64, 64))
    expert = "model.layers.0.block_sparse_moe.experts.0.w1"
    tensors = {**gptq_module(NAME, packed), **gptq_module(expert, packed)}
    tensors |= {f"{module}.bias": torch.zeros(64).half() for module in (NAME, expert)}
    opened = model_tensors(open_checkpoint(write_packed(tmp_path, tensors, gptq_config())))
    assert sorted(opened.tensors) == [f"{expert}.weight", f"{NAME}.bias", f"{NAME}.weight"]
    assert opened.notes[1:] == ("1 biases of experts, all zero, are left out",)


@pytest.mark.parametrize("change", ["not-zero", "not-packed"])
def test_other_biases_of_experts_stay(tmp_path: Path, change: str) -> None:
    expert = "model.layers.0.block_sparse_moe.experts.0.w1"
    tensors = gptq_module(expert if change == "not-zero" else NAME, make_codes((64, 64)))
    tensors[f"{expert}.bias"] = torch.zeros(64).half()
    tensors[f"{expert}.bias"][63] = change == "not-zero"
    opened = model_tensors(open_checkpoint(write_packed(tmp_path, tensors, gptq_config())))
    assert f"{expert}.bias" in opened.tensors
    assert len(opened.notes) == 1


def test_modules_of_their_own_bits_and_groups(tmp_path: Path) -> None:
    """GPTQModel's `dynamic`: patterns with changes, `-:` before what is not packed."""
    up, down = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
    first, second = make_codes((64, 64)), make_codes((64, 128), bits=8, group_size=64, act_order=True)
    plain = torch.randn(64, 64).half()
    tensors = {**gptq_module(NAME, first), **gptq_module(down, second), f"{up}.weight": plain}
    dynamic = {r"-:.*up_proj.*": {}, r"+:.*\.down_proj": {"bits": 8, "group_size": 64}}
    decoded = unpacked(write_packed(tmp_path, tensors, gptq_config(dynamic=dynamic)))
    assert_same(decoded[f"{NAME}.weight"], first.dequantized())
    assert_same(decoded[f"{down}.weight"], second.dequantized())
    assert_same(decoded[f"{up}.weight"], plain)


def test_scales_that_are_not_finite_decode_silently(tmp_path: Path) -> None:
    packed = make_codes((32, 32))
    packed.scales[0, :3] = torch.tensor([torch.inf, torch.nan, 65504.0])
    decoded = unpacked(write_packed(tmp_path, gptq_module(NAME, packed), gptq_config()))
    got = torch.from_numpy(read_tensor(decoded[f"{NAME}.weight"]))
    assert torch.equal(got.nan_to_num(0.125), packed.dequantized().float().nan_to_num(0.125))


@pytest.mark.parametrize(
    ("quantization", "pack"),
    [
        pytest.param(gptq_config(desc_act=True), {"act_order": True}, id="4-bits-act-order"),
        pytest.param(gptq_config(3), {"bits": 3}, id="3-bits"),
        pytest.param(gptq_config(8, -1), {"bits": 8, "group_size": -1, "symmetric": True}, id="8-bits-whole-rows"),
        pytest.param(gptq_config(dtype="bf16"), {"dtype": torch.bfloat16}, id="bf16-scales"),
    ],
)
def test_the_files_are_those_of_the_dequantized_checkpoint(
    tmp_path: Path, quantization: dict[str, Any], pack: dict[str, Any]
) -> None:
    def packed(name: str, shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
        codes = make_codes(shape, **pack)
        return gptq_module(name, codes), codes.dequantized()

    ours, plain = packed_and_plain(tmp_path, quantization, packed)
    assert outputs_of(ours, tmp_path / "a") == outputs_of(plain, tmp_path / "b")


def test_live_the_references_tensors_are_the_same_where_it_is_right(tmp_path: Path, reference_source: Path) -> None:
    """Its dequant_gptq (conversion/base.py) writes the weights last, so that tensors are compared, not files.

    It multiplies in float32, so that bfloat16 scales give it values that GPTQModel rounds; adds one to a stored zero
    point of all ones without a mask; and refuses 3 bits and modules without g_idx.
    """
    rows: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "symmetric": (gptq_config(), {"symmetric": True}),
        "act-order": (gptq_config(desc_act=True), {"act_order": True}),
        "2-bits": (gptq_config(2), {"bits": 2}),
        "8-bits": (gptq_config(8), {"bits": 8}),
    }
    jobs = {name: _packed_model(tmp_path / name, *row) for name, row in rows.items()}
    converted = llama_cpp.convert(
        reference_source, [(model, tmp_path / f"{name}.gguf") for name, model in jobs.items()]
    )
    for (name, model), theirs in zip(jobs.items(), converted, strict=True):
        assert theirs.error is None, name
        ours = convert_one(model, tmp_path / f"ours-{name}.gguf", type="f16").outputs[0].path
        assert _tensors(ours) == _tensors(theirs.outfile), name


def _packed_model(directory: Path, quantization: dict[str, Any], pack: dict[str, Any]) -> Path:
    def packed(name: str, shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
        codes = make_codes(shape, **pack)
        return gptq_module(name, codes), codes.dequantized()

    return packed_and_plain(directory, quantization, packed)[0]


def _tensors(path: Path) -> dict[str, bytes]:
    from gguf import GGUFReader

    return {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(path).tensors}
