"""gpt-oss' packed experts, against transformers' own function and by hand; no model of that family is converted yet."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from family_checkpoints import write_family_checkpoint
from gguf import GGMLQuantizationType
from packed_checkpoints import assert_same, read_bits, read_tensor, tiny_config, unpacked, write_safetensors_checkpoint

import convert
from convert.checkpoint import SourceFiles
from convert.errors import CheckpointError, ConfigError, ConvertError
from convert.gguf_file import read_gguf

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

Tensors = dict[str, torch.Tensor]

NAME: Final = "model.layers.0.mlp.experts.gate_up_proj"
SECTION: Final = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head", "model.layers.*.self_attn"]}


def packed(n_experts: int, n_outputs: int, n_groups: int, *, every_scale: bool = False) -> Tensors:
    """Return random blocks, with exponents of usual size, or all that there are."""
    generator = torch.Generator().manual_seed(n_experts + n_outputs + n_groups)
    low, high = (0, 256) if every_scale else (118, 130)
    shape = (n_experts, n_outputs, n_groups)
    return {
        f"{NAME}_blocks": torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8),
        f"{NAME}_scales": torch.randint(low, high, shape, generator=generator, dtype=torch.uint8),
    }


def write(tmp_path: Path, tensors: Tensors, section: object = SECTION, **changes: object) -> Path:
    """Write a checkpoint of these tensors alone, which computes in bfloat16."""
    config = tiny_config(**{"dtype": "bfloat16", "quantization_config": section, **changes})
    return write_safetensors_checkpoint(tmp_path / "m", config, tensors)


def test_a_block_by_hand(tmp_path: Path) -> None:
    """The low nibble is first: 0x21 is 0.5 and 1; 0xf7 is 6 and -6; 0x80 is 0 and -0. The exponent 128 doubles."""
    blocks = torch.tensor([0x21, 0xF7, 0x80, *[0] * 13], dtype=torch.uint8).reshape(1, 1, 1, 16)
    tensors = {f"{NAME}_blocks": blocks, f"{NAME}_scales": torch.full((1, 1, 1), 128, dtype=torch.uint8)}
    values = read_tensor(unpacked(write(tmp_path, tensors))[NAME])
    assert values.shape == (1, 32, 1)
    assert values.reshape(-1).tolist() == [1.0, 2.0, 12.0, -12.0] + [0.0] * 28
    assert np.signbit(values.reshape(-1)[:6]).tolist() == [False, False, False, True, False, True]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3), (3, 64, 2), (4, 7, 9)], ids=str)
def test_experts_are_what_transformers_makes_of_them(shape: tuple[int, int, int], dtype: str, tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    tensors = packed(*shape)
    expected = convert_moe_packed_tensors(*tensors.values(), dtype=getattr(torch, dtype))
    assert expected.shape == (shape[0], shape[2] * 32, shape[1])
    assert_same(unpacked(write(tmp_path, tensors, dtype=dtype))[NAME], expected)


def test_every_exponent_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    tensors = packed(2, 64, 8, every_scale=True)
    tensors[f"{NAME}_scales"].view(-1)[:256] = torch.arange(256, dtype=torch.uint8)
    assert_same(unpacked(write(tmp_path, tensors))[NAME], convert_moe_packed_tensors(*tensors.values()))


def test_without_a_dtype_it_is_bfloat16(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    tensors = packed(2, 5, 3)
    config = tiny_config(quantization_config=SECTION)
    for key in ("dtype", "torch_dtype"):
        config.pop(key, None)
    directory = write_safetensors_checkpoint(tmp_path / "m", config, tensors)
    assert_same(unpacked(directory)[NAME], convert_moe_packed_tensors(*tensors.values()))


def test_other_tensors_stay_as_they_are(tmp_path: Path) -> None:
    bias = torch.ones(2, 5, dtype=torch.bfloat16)
    decoded = unpacked(write(tmp_path, {**packed(2, 5, 3), f"{NAME}_bias": bias}))
    assert sorted(decoded) == [NAME, f"{NAME}_bias"]
    assert_same(decoded[f"{NAME}_bias"], bias)


class _Counting(SourceFiles):
    """Counts what is asked for at once."""

    most = 0

    def read_into(self, path: Path, position: int, out: NDArray[np.uint8], *, name: str) -> None:
        self.most = max(self.most, out.size)
        super().read_into(path, position, out, name=name)


def test_a_window_of_long_rows_reads_its_groups_only(tmp_path: Path) -> None:
    tensor = unpacked(write(tmp_path, packed(2, 4, 2048)))[NAME]
    rows = np.empty((3, 8), np.uint8)
    with closing(_Counting()) as files:
        tensor.read_rows(files, 2048 * 32 + 63, rows)
        assert files.most <= 4 * 2048  # the exponents of the expert's four rows; 3 groups of each row are 48 bytes
    expected = read_bits(tensor).reshape(-1, 4)[2048 * 32 + 63 :][:3]
    np.testing.assert_array_equal(rows.view(np.uint16), expected)


@pytest.mark.shared
def test_in_every_file_of_a_gpt_oss_the_packed_experts_stay_mxfp4(tmp_path: Path) -> None:
    model = write_family_checkpoint("gpt-oss-20b", tmp_path)
    report = convert.convert_all(model, convert.OutputRequest(tmp_path / "out", types=["bf16", "q8_0"]))
    for output, other in zip(report.outputs, (GGMLQuantizationType.BF16, GGMLQuantizationType.Q8_0), strict=True):
        types = {tensor.name: tensor.type for tensor in read_gguf(output.path).tensors}
        assert {types[f"blk.0.ffn_{part}_exps.weight"] for part in ("gate", "up", "down")} == {
            GGMLQuantizationType.MXFP4
        }
        assert types["blk.0.attn_q.weight"] is other


@pytest.mark.shared
def test_mxfp4_in_a_gguf_is_what_transformers_makes_of_the_checkpoint(tmp_path: Path) -> None:
    from gguf.quants import dequantize
    from safetensors.torch import load_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    model = write_family_checkpoint("gpt-oss-20b", tmp_path)
    stored, file = load_file(model / "model.safetensors"), tmp_path / "model.gguf"
    convert.convert_one(model, file, type="f16")
    gate_up = convert_moe_packed_tensors(stored[f"{NAME}_blocks"], stored[f"{NAME}_scales"], dtype=torch.float32)
    found = {}
    for tensor in read_gguf(file).tensors:
        if tensor.type is GGMLQuantizationType.MXFP4:
            rows = np.fromfile(file, np.uint8, tensor.nbytes, offset=tensor.offset).reshape(*tensor.shape[:-1], -1)
            found[tensor.name] = dequantize(rows, GGMLQuantizationType.MXFP4)
    np.testing.assert_array_equal(found["blk.0.ffn_gate_exps.weight"], gate_up[..., ::2].transpose(1, 2).numpy())
    np.testing.assert_array_equal(found["blk.0.ffn_up_exps.weight"], gate_up[..., 1::2].transpose(1, 2).numpy())


def _change(**changes: torch.Tensor | None) -> Callable[[], Tensors]:
    def changed() -> Tensors:
        tensors = {**packed(2, 5, 3), **{f"{NAME}{suffix}": tensor for suffix, tensor in changes.items()}}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    return changed


BYTES: Final = torch.zeros(2, 5, 3, 16, dtype=torch.uint8)
HOSTILE: Final[Mapping[str, tuple[Callable[[], Tensors], dict[str, Any], type[ConvertError], str]]] = {
    "no-scales": (_change(_scales=None), SECTION, CheckpointError, "_blocks` has no `.*_scales`"),
    "no-blocks": (_change(_blocks=None), SECTION, CheckpointError, "_scales` has no `.*_blocks` that it belongs to"),
    "scales-of-another-shape": (
        _change(_scales=BYTES[:, :, :2, 0]),
        SECTION,
        CheckpointError,
        r"_scales` has shape \(2, 5, 2\), `.*_blocks` \(2, 5, 3, 16\): wanted \(2, 5, 3\)",
    ),
    "scales-in-floats": (_change(_scales=torch.ones(2, 5, 3)), SECTION, CheckpointError, "_scales` is F32, wanted U8"),
    "blocks-of-words": (_change(_blocks=BYTES.int()), SECTION, CheckpointError, "_blocks` is I32, wanted U8"),
    "blocks-of-15-bytes": (
        _change(_blocks=BYTES[..., :15]),
        SECTION,
        CheckpointError,
        r"_blocks` has shape \(2, 5, 3, 15\), wanted \(experts, outputs, groups, 16\)",
    ),
    "three-dimensions": (
        _change(_blocks=BYTES[0]),
        SECTION,
        CheckpointError,
        r"_blocks` has shape \(5, 3, 16\), wanted",
    ),
    "empty": (_change(_blocks=BYTES[:0], _scales=BYTES[:0, :, :, 0]), SECTION, CheckpointError, r"has shape \(0, 5, 3"),
    "twice": (_change(**{"": torch.ones(2)}), SECTION, CheckpointError, "is there twice, plain and as `.*_blocks`"),
    "left-out": (
        _change(),
        {**SECTION, "modules_to_not_convert": ["model.layers.0.mlp.experts"]},
        CheckpointError,
        "says that `.*experts` is not quantized, but `.*_blocks` is",
    ),
    "names-of-a-wrong-type": (
        _change(),
        {**SECTION, "modules_to_not_convert": 7},
        ConfigError,
        "`modules_to_not_convert` in .* is 7, wanted a list of strings",
    ),
    "another-method": (_change(), {"quant_method": "fp8"}, CheckpointError, "declares `fp8`, but .* is mxfp4's"),
    "no-method": (_change(), {}, CheckpointError, "declares no quantization, but .* is mxfp4's"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_checkpoints_are_errors_when_opened(case: str, tmp_path: Path) -> None:
    tensors, section, error, message = HOSTILE[case]
    directory = write(tmp_path, tensors(), section)
    with pytest.raises(error, match=message) as raised:
        unpacked(directory)
    assert type(raised.value) is error


@pytest.mark.shared
def test_the_plan_says_that_blocks_stay_as_they_are(tmp_path: Path) -> None:
    plan = convert.plan_one(write_family_checkpoint("gpt-oss-20b", tmp_path), tmp_path / "m.gguf")
    assert plan.notes == ("packed by mxfp4: 6 tensors of the file stay as they are packed",)
