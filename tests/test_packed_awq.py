"""AWQ checkpoints in AutoAWQ's two layouts, against an independent packer; hand-checked words stand as literals.

The formula is AutoAWQ's (0.2.7, utils/packing_utils.py, dequantize_gemm), in torch.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from group_packing import (
    NAME,
    Tensors,
    assert_decoded,
    awq_gemm_module,
    awq_gemv_module,
    make_codes,
    outputs_of,
    packed_and_plain,
    write_packed,
)
from packed_checkpoints import assert_same, read_tensor, tiny_config, unpacked, write_safetensors_checkpoint

from convert.errors import CheckpointError, ConvertError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def config(version: str = "gemm", group_size: int = 32, **more: object) -> dict[str, Any]:
    """Return a quantization section as AutoAWQ writes it."""
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "version": version,
        "zero_point": True,
        "modules_to_not_convert": None,
        **more,
    }


def test_gemm_by_hand(tmp_path: Path) -> None:
    """A word's digits from the lowest on are the output columns 0 2 4 6 1 3 5 7."""
    tensors = {
        f"{NAME}.qweight": torch.tensor([[0x75316420]], dtype=torch.int32),
        f"{NAME}.qzeros": torch.tensor([[0x11110000]], dtype=torch.int32),
        f"{NAME}.scales": torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0.25]], dtype=torch.float16),
    }
    expected = torch.tensor([[0.0], [0.0], [2.0], [2.0], [4.0], [4.0], [6.0], [1.5]], dtype=torch.float16)
    assert_decoded(tmp_path, tensors, config(group_size=1), expected)


def test_gemv_by_hand(tmp_path: Path) -> None:
    """A word's digits from the lowest on are the input columns in order; one group of 128 a row, padded to eight."""
    words = [0x76543210, 0xFEDCBA98 - (1 << 32)] * 8
    tensors = {
        f"{NAME}.qweight": torch.tensor([words], dtype=torch.int32),
        f"{NAME}.qzeros": torch.tensor([[0x00000008]], dtype=torch.int32),
        f"{NAME}.scales": torch.tensor([[0.5, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.float16),
    }
    expected = torch.tensor([[(code - 8) * 0.5 for code in range(16)] * 8], dtype=torch.float16)
    assert_decoded(tmp_path, tensors, config("gemv", 128), expected)


@pytest.mark.parametrize("version", ["gemm", "GEMM", "exllama"])
@pytest.mark.parametrize("group_size", [32, 64, -1])
@pytest.mark.parametrize("shape", [(64, 64), (96, 192), (8, 320)], ids=str)
def test_gemm_groups_and_shapes(tmp_path: Path, shape: tuple[int, int], group_size: int, version: str) -> None:
    packed = make_codes(shape, group_size=group_size)
    packed.zeros[:, ::3] = 0
    assert_decoded(tmp_path, awq_gemm_module(NAME, packed), config(version, group_size), packed.dequantized())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_scales_type_is_the_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    packed = make_codes((64, 64), dtype=dtype)
    assert_decoded(tmp_path, awq_gemm_module(NAME, packed), config(), packed.dequantized())


def test_autoawqs_own_names_and_defaults(tmp_path: Path) -> None:
    packed = make_codes((64, 128), group_size=128)
    directory = write_safetensors_checkpoint(tmp_path / "m", tiny_config(), awq_gemm_module(NAME, packed))
    (directory / "quant_config.json").write_text('{"zero_point": true, "w_bit": 4, "q_group_size": 128}')
    assert_same(unpacked(directory)[f"{NAME}.weight"], packed.dequantized())


# The words of a row of zero points: AutoAWQ 0.2.7, modules/linear/gemv.py, calculate_zeros_width, worked out by hand.
GEMV: Final = [
    pytest.param((64, 128), 128, 1, id="one-group"),
    pytest.param((16, 1152), 128, 2, id="nine-groups"),
    pytest.param((24, 256), 256, 1, id="groups-of-256"),
    pytest.param((40, 192), -1, 1, id="whole-row"),
    pytest.param((64, 64), 64, 2, id="small-groups-are-padded-more"),
    pytest.param((8, 1088), 64, 4, id="seventeen-groups-of-64"),
    pytest.param((64, 96), 32, 4, id="groups-of-32"),
]


@pytest.mark.parametrize(("shape", "group_size", "n_zero_words"), GEMV)
def test_gemv_groups_and_padding(tmp_path: Path, shape: tuple[int, int], group_size: int, n_zero_words: int) -> None:
    packed = make_codes(shape, group_size=group_size)
    packed.zeros[:, ::3] = 0
    tensors = awq_gemv_module(NAME, packed, n_zero_words=n_zero_words)
    assert_decoded(tmp_path, tensors, config("gemv", group_size), packed.dequantized())


def test_modules_that_were_not_converted_stay_as_they_are(tmp_path: Path) -> None:
    packed, plain = make_codes((64, 64)), torch.randn(64, 64).half()
    tensors = {**awq_gemm_module(NAME, packed), "lm_head.weight": plain, f"{NAME}.bias": plain[0]}
    decoded = unpacked(write_packed(tmp_path, tensors, config(modules_to_not_convert=["lm_head"])))
    assert list(decoded) == ["lm_head.weight", f"{NAME}.bias", f"{NAME}.weight"]
    assert_same(decoded["lm_head.weight"], plain)


@pytest.mark.parametrize("version", ["gemm", "gemv"])
def test_the_files_are_those_of_the_dequantized_checkpoint(tmp_path: Path, version: str) -> None:
    def packed(name: str, shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
        codes = make_codes(shape)
        tensors = awq_gemm_module(name, codes) if version == "gemm" else awq_gemv_module(name, codes, n_zero_words=4)
        return tensors, codes.dequantized()

    ours, plain = packed_and_plain(tmp_path, config(version), packed)
    assert outputs_of(ours, tmp_path / "a") == outputs_of(plain, tmp_path / "b")


def _without(suffix: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[f"{NAME}.{suffix}"]

    return change


def _with(suffix: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[f"{NAME}.{suffix}"] = make(tensors[f"{NAME}.{suffix}"])

    return change


def _same(_: Tensors) -> None:
    pass


HOSTILE: Final = {
    "no-qweight": (_without("qweight"), config(), "`model.layers.0.self_attn.q_proj.qweight` that it belongs to"),
    "no-qzeros": (_without("qzeros"), config(), "has no `qzeros`, only"),
    "no-scales": (_without("scales"), config(), "has no `scales`, only"),
    "qweight-cut": (_with("qweight", lambda t: t[:-1]), config(), "`qweight` (95, 8)"),
    "qweight-narrow": (_with("qweight", lambda t: t[:, :-1]), config(), "`qweight` (96, 7)"),
    "qweight-empty": (_with("qweight", lambda t: t[:, :0]), config(), "not empty"),
    "qweight-int16": (_with("qweight", lambda t: t.to(torch.int16)), config(), "type I16, wanted I32"),
    "qzeros-cut": (_with("qzeros", lambda t: t[:-1]), config(), "`qzeros` (2, 8)"),
    "qzeros-floats": (_with("qzeros", lambda t: t.half()), config(), "type F16, wanted I32"),
    "scales-cut": (_with("scales", lambda t: t[:, :-8]), config(), "`scales` (3, 56)"),
    "scales-double": (_with("scales", lambda t: t.double()), config(), "type F64, wanted"),
    "scales-cube": (_with("scales", lambda t: t[None]), config(), "wanted 2 dimensions"),
    "another-group-size": (
        _same,
        config(group_size=16),
        "layout `gemm`, says 4 bits and groups of 16, its tensors are",
    ),
    "group-size-not-a-divisor": (_same, config(group_size=40), "groups of 40, its tensors are"),
    "group-size-huge": (_same, config(group_size=10**30), "its tensors are"),
    "group-size-0": (_same, config(group_size=0), "wanted -1 or a positive number"),
    "group-size-text": (_same, {**config(), "group_size": [32]}, "wanted an integer"),
    "another-layout": (_same, config("gemv"), "layout `gemv`, says 4 bits and groups of 32, its tensors are"),
    "bits-8": (_same, {**config(), "bits": 8}, "wanted one of 4"),
    "no-bits": (_same, {"quant_method": "awq"}, "has no `bits`"),
    "version-number": (_same, {**config(), "version": 1}, "wanted a name"),
    "gemv-fast": (_same, config("gemv_fast"), "says AWQ's layout `gemv_fast`"),
    "marlin": (_same, config("marlin"), "says AWQ's layout `marlin`"),
    "llm-awq": (_same, config(backend="llm-awq"), "says AWQ's layout"),
}


@pytest.mark.parametrize("row", HOSTILE)
def test_what_is_wrong_is_an_error_that_names_it(tmp_path: Path, row: str) -> None:
    change, quantization, message = HOSTILE[row]
    tensors = awq_gemm_module(NAME, make_codes((64, 96)))
    change(tensors)
    wanted: type[ConvertError] = UnsupportedError if "says AWQ's layout" in message else CheckpointError
    with pytest.raises(wanted, match=re.escape(message)):
        unpacked(write_packed(tmp_path, tensors, quantization))


def test_a_layout_that_is_refused_says_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="gemv_fast") as caught:
        unpacked(write_packed(tmp_path, awq_gemm_module(NAME, make_codes((64, 64))), config("gemv_fast")))
    assert caught.value.hint == "get the 16-bit checkpoint, or the same model in AutoAWQ's `gemm` layout"


def test_gemv_with_a_group_size_that_its_kernels_do_not_have(tmp_path: Path) -> None:
    tensors = awq_gemv_module(NAME, make_codes((64, 96), group_size=48), n_zero_words=1)
    with pytest.raises(CheckpointError, match="groups of 48, its tensors are"):
        unpacked(write_packed(tmp_path, tensors, config("gemv", 48)))


def test_a_config_that_says_gptq(tmp_path: Path) -> None:
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    with pytest.raises(CheckpointError, match=r"groups of 32, its tensors are .*`qweight` \(96, 8\)"):
        unpacked(write_packed(tmp_path, awq_gemm_module(NAME, make_codes((64, 96))), quantization))


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    directory = write_packed(tmp_path, awq_gemm_module(NAME, make_codes((64, 64))), config())
    tensor = unpacked(directory)[f"{NAME}.weight"]
    with (directory / "model.safetensors").open("r+b") as file:
        file.truncate(600)
    with pytest.raises(CheckpointError, match="ended while"):
        read_tensor(tensor)
