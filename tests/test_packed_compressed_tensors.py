"""compressed-tensors checkpoints, made, compressed and decompressed by compressed-tensors itself; and hostile ones."""

from __future__ import annotations

import json
import time
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from compressed_checkpoints import (
    NAME,
    WEIGHT,
    Tensors,
    codes,
    compress,
    floats,
    linear,
    module,
    scales,
    weights,
    write,
    write_plain,
)
from packed_checkpoints import assert_same, read_bits, read_tensor, tiny_config, unpacked, write_safetensors_checkpoint
from reference import convert as convert_by_reference

import convert
from convert.checkpoint import SourceFiles, StoredType, open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.errors import CheckpointError, UnsupportedError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


BY_TOKEN: Final = {"input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}}
FLOAT_BY_TOKEN: Final = {"input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}}
STATIC: Final = {"input_activations": {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}}

# --- What the library makes

LAYOUTS: Final[Mapping[str, tuple[dict[str, Any], str]]] = {
    "pack-4-groups": (linear(weights()), "pack-quantized"),
    "pack-4-groups-zeros": (linear(weights(symmetric=False)), "pack-quantized"),
    "pack-8-groups": (linear(weights(8)), "pack-quantized"),
    "pack-8-groups-zeros": (linear(weights(8, symmetric=False)), "pack-quantized"),
    "pack-4-rows": (linear(weights(4, "channel")), "pack-quantized"),
    "pack-4-rows-zeros": (linear(weights(4, "channel", symmetric=False)), "pack-quantized"),
    "pack-8-rows-zeros": (linear(weights(8, "channel", symmetric=False)), "pack-quantized"),
    "pack-4-tensor": (linear(weights(4, "tensor")), "pack-quantized"),
    "pack-8-tensor-zeros": (linear(weights(8, "tensor", symmetric=False)), "pack-quantized"),
    "pack-4-actorder-weight": (linear(weights(actorder="weight")), "pack-quantized"),
    "int-rows": (linear(weights(8, "channel"), **BY_TOKEN), "int-quantized"),
    "int-rows-zeros": (linear(weights(8, "channel", symmetric=False), **BY_TOKEN), "int-quantized"),
    "int-tensor": (linear(weights(8, "tensor"), **BY_TOKEN), "int-quantized"),
    "int-tensor-zeros": (linear(weights(8, "tensor", symmetric=False), **BY_TOKEN), "int-quantized"),
    "int-groups-zeros": (linear(weights(8, symmetric=False), **BY_TOKEN), "int-quantized"),
    "int-4-rows": (linear(weights(4, "channel"), **BY_TOKEN), "int-quantized"),
    "int-blocks": (linear(weights(8, "block", block_structure=[32, 16]), **BY_TOKEN), "int-quantized"),
    "float-tensor": (linear(floats("tensor"), **STATIC), "float-quantized"),
    "float-rows": (linear(floats("channel"), **FLOAT_BY_TOKEN), "float-quantized"),
    "float-rows-zeros": (linear(floats("channel", symmetric=False), **FLOAT_BY_TOKEN), "float-quantized"),
    "float-blocks": (linear(floats("block", block_structure=[32, 32]), **FLOAT_BY_TOKEN), "float-quantized"),
    "float-weights-only": (linear(floats("channel")), "naive-quantized"),
    "nvfp4": (
        linear({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
        "nvfp4-pack-quantized",
    ),
    "mxfp4": (
        linear({"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}),
        "mxfp4-pack-quantized",
    ),
    "mxfp8": (linear(floats("group", group_size=32, scale_dtype="torch.uint8")), "mxfp8-quantized"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_model_is_what_the_library_decompresses(case: str, tmp_path: Path) -> None:
    groups, called = LAYOUTS[case]
    made = compress(tmp_path / "m", groups)
    assert json.loads((made.directory / "config.json").read_text())["quantization_config"]["format"] == called
    decoded = unpacked(made.directory)
    assert sorted(decoded) == sorted(made.expected)
    for name, tensor in decoded.items():
        assert_same(tensor, made.expected[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "case",
    ["pack-4-groups-zeros", "pack-8-rows-zeros", "int-rows-zeros", "float-rows", "float-rows-zeros", "float-blocks"],
)
def test_the_scales_type_is_the_weights(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    made = compress(tmp_path / "m", LAYOUTS[case][0], dtype=dtype)
    for name, tensor in unpacked(made.directory).items():
        assert_same(tensor, made.expected[name])
    assert made.expected[WEIGHT].dtype is dtype


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zeros"])
@pytest.mark.parametrize("bits", [1, 2, 3, 5, 6, 7])
def test_other_numbers_of_bits(bits: int, symmetric: bool, tmp_path: Path) -> None:
    """72 columns and 18 rows a head end in the middle of words."""
    shape = {"hidden_size": 72, "head_dim": 18, "intermediate_size": 90, "num_key_value_heads": 1}
    made = compress(tmp_path / "m", linear(weights(bits, "channel", symmetric=symmetric)), config=shape)
    for name, tensor in unpacked(made.directory).items():
        assert_same(tensor, made.expected[name])


@pytest.mark.parametrize("case", ["pack-4-rows-zeros", "pack-8-rows-zeros", "int-rows-zeros", "float-rows"])
def test_odd_shapes(case: str, tmp_path: Path) -> None:
    shape = {
        "hidden_size": 36,
        "head_dim": 6,
        "intermediate_size": 50,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
    }
    made = compress(tmp_path / "m", LAYOUTS[case][0], config=shape)
    for name, tensor in unpacked(made.directory).items():
        assert_same(tensor, made.expected[name])


@pytest.mark.parametrize("block", [[48, 32], [128, 128], [40, 32]], ids=str)
def test_last_blocks_are_partial(block: list[int], tmp_path: Path) -> None:
    made = compress(tmp_path / "m", linear(floats("block", block_structure=block), **FLOAT_BY_TOKEN))
    for name, tensor in unpacked(made.directory).items():
        assert_same(tensor, made.expected[name])


MIXED: Final = {
    "group_0": {"targets": ["re:.*self_attn.*"], "weights": floats("channel"), **FLOAT_BY_TOKEN},
    "group_1": {"targets": ["re:.*down_proj$"], "weights": weights(8, group_size=16)},
    "group_2": {"targets": ["re:.*mlp[.](gate|up)_proj$"], "weights": weights(4, symmetric=False)},
}


def test_several_groups(tmp_path: Path) -> None:
    made = compress(tmp_path / "m", MIXED)
    section = json.loads((made.directory / "config.json").read_text())["quantization_config"]
    assert (section["format"], len(section["config_groups"])) == ("mixed-precision", 3)
    for name, tensor in unpacked(made.directory).items():
        assert_same(tensor, made.expected[name])


@pytest.mark.parametrize("method", ["sparseml", "compressed_tensors", None])
def test_its_method_in_other_spellings(tmp_path: Path, method: str | None) -> None:
    """Its own until 0.3, a common one that vLLM takes, and none: only this library writes `config_groups`."""
    groups = linear(weights())
    opened = model_tensors(open_checkpoint(write(tmp_path, module(), groups, quant_method=method)))
    assert opened.packing == "compressed-tensors"


def test_the_section_of_a_part_of_the_model(tmp_path: Path) -> None:
    directory = write(tmp_path, module(), linear(weights()))
    config = json.loads((directory / "config.json").read_text())
    expected = unpacked(directory)
    part = {"quantization_config": config.pop("quantization_config"), "dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps({**config, "vision_config": {}, "text_config": part}))
    assert unpacked(directory) == expected
    part["quantization_config"]["config_groups"] = 1
    (directory / "config.json").write_text(json.dumps({**config, "text_config": part}))
    with pytest.raises(CheckpointError, match=r"`config_groups` in `text_config\.quantization_config` in"):
        unpacked(directory)


def test_embeddings_too(tmp_path: Path) -> None:
    groups = {"group_0": {"targets": ["Linear", "Embedding"], "weights": weights(8)}}
    made = compress(tmp_path / "m", groups, ignore=[])
    assert "lm_head.weight_packed" in made.stored
    assert "model.embed_tokens.weight_packed" in made.stored
    for name, tensor in unpacked(made.directory).items():
        assert_same(tensor, made.expected[name])


def test_scales_of_the_cache_and_of_activations_are_left_out_with_a_note(tmp_path: Path) -> None:
    cache = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}
    made = compress(tmp_path / "m", linear(floats("tensor"), **STATIC), kv_cache_scheme=cache)
    assert {"model.layers.0.self_attn.k_scale", f"{NAME}.input_scale"} <= set(made.stored)
    opened = model_tensors(open_checkpoint(made.directory))
    assert sorted(opened.tensors) == sorted(made.expected)
    assert opened.notes == (
        "packed by compressed-tensors: 7 tensors are decoded on the way",
        "9 tensors that only concern quantized activations are left out: `input_scale`, `k_scale`, `v_scale`",
    )


@pytest.mark.parametrize("arguments", [None, weights()], ids=["no-weights", "dense"])
def test_where_only_activations_are_quantized_weights_are_as_they_are(arguments: object, tmp_path: Path) -> None:
    groups = {"group_0": {"targets": ["re:.*self_attn$"], "weights": arguments, "input_activations": floats("tensor")}}
    tensors = {WEIGHT: torch.ones(4, 4), "model.layers.0.self_attn.k_scale": torch.ones(1)}
    decoded = unpacked(write(tmp_path, tensors, groups, format="dense"))
    assert list(decoded) == [WEIGHT]
    assert_same(decoded[WEIGHT], torch.ones(4, 4))


WHOLE: Final = {
    **{name: LAYOUTS[name][0] for name in ("pack-4-groups-zeros", "int-rows", "float-blocks", "nvfp4", "mxfp8")},
    "mixed": MIXED,
}


@pytest.mark.parametrize("case", WHOLE)
def test_the_files_are_those_of_the_decompressed_checkpoint(case: str, tmp_path: Path) -> None:
    made = compress(tmp_path / "packed" / "model", WHOLE[case])
    plain = write_plain(made, tmp_path / "plain" / "model")
    assert _hashes(made.directory, tmp_path / "a") == _hashes(plain, tmp_path / "b")


def _hashes(model: Path, outdir: Path) -> dict[str, str]:
    report = convert.convert_all(model, outdir)
    return {output.path.name: sha256(output.path.read_bytes()).hexdigest() for output in report.outputs}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_with_scales_in_float16_or_float32_the_file_is_the_references(
    dtype: torch.dtype, reference_source: Path, tmp_path: Path
) -> None:
    """The reference takes scales a row of 8 bits; it does not round to bfloat16 where the scales are that."""
    made = compress(tmp_path / "model", LAYOUTS["float-rows"][0], dtype=dtype)
    [reference] = convert_by_reference(reference_source, [(made.directory, tmp_path / "reference.gguf")])
    assert reference.error is None
    ours = convert.convert_one(made.directory, tmp_path / "ours.gguf").outputs[0].path
    assert ours.read_bytes() == reference.outfile.read_bytes()


# --- One module by hand, and what the library does not write any more


def test_four_bits_by_hand(tmp_path: Path) -> None:
    """0x76543210 is the codes 0 … 7 from the lowest bits on, each less 8; 0xf is the zero point 7 of the first row."""
    tensors = {
        f"{NAME}.weight_packed": torch.tensor([[0x76543210], [0x11111111]], dtype=torch.int32),
        f"{NAME}.weight_shape": torch.tensor([2, 7]),
        f"{NAME}.weight_scale": torch.tensor([[0.5], [2.0]]).half(),
        f"{NAME}.weight_zero_point": torch.tensor([[0x1F]], dtype=torch.int32),
    }
    weight = unpacked(write(tmp_path, tensors, linear(weights(4, "channel", symmetric=False))))[WEIGHT]
    assert read_tensor(weight).tolist() == [[-7.5, -7.0, -6.5, -6.0, -5.5, -5.0, -4.5], [0.0] * 7]


def test_a_section_as_the_first_versions_wrote_it(tmp_path: Path) -> None:
    """No format in the group, no strategy, `compression_config` for a name, sparsity said to be none."""
    arguments = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32}
    section = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "sparsity_config": {"format": "dense", "global_sparsity": 0.1},
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments, "input_activations": None}},
    }
    config = tiny_config(compression_config=section)
    weight = unpacked(write_safetensors_checkpoint(tmp_path / "m", config, module()))[WEIGHT]
    factors = scales((16, 2)).repeat_interleave(32, 1)
    assert_same(weight, codes((16, 64)).half() * factors)


def test_zero_points_of_older_versions_are_bytes(tmp_path: Path) -> None:
    zeros = codes((16, 2))
    tensors = module(weight_zero_point=zeros)
    weight = unpacked(write(tmp_path, tensors, linear(weights(symmetric=False))))[WEIGHT]
    differences = codes((16, 64)).half() - zeros.half().repeat_interleave(32, 1)
    assert_same(weight, differences * scales((16, 2)).repeat_interleave(32, 1))


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zeros"])
def test_columns_in_groups_by_activation(symmetric: bool, tmp_path: Path) -> None:
    """As older versions decompressed `actorder: group`: each column with the scale of the group it is listed in.

    0.12.2's `dequantize`, given the same `g_idx`, says the same; 0.20.0 has forgotten it.
    """
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    zeros = codes((16, 2))
    packed = None if symmetric else pack_to_int32(zeros, 4, packed_dim=0)
    groups = torch.randperm(64, generator=torch.Generator().manual_seed(0)) % 2
    tensors = module(weight_g_idx=groups.int(), weight_zero_point=packed)
    arguments = weights(actorder="group", symmetric=symmetric)
    weight = unpacked(write(tmp_path, tensors, linear(arguments)))[WEIGHT]
    differences = codes((16, 64)).half() - (0 if symmetric else zeros.half()[:, groups])
    assert_same(weight, differences * scales((16, 2))[:, groups])


def test_groups_by_activation_that_were_not_used(tmp_path: Path) -> None:
    tensors = module(weight_g_idx=torch.full((64,), -1, dtype=torch.int32))
    weight = unpacked(write(tmp_path, tensors, linear(weights(actorder="group"))))[WEIGHT]
    assert_same(weight, codes((16, 64)).half() * scales((16, 2)).repeat_interleave(32, 1))


def test_a_scale_of_nan_is_a_bad_weight(tmp_path: Path) -> None:
    made = compress(tmp_path / "m", linear(weights()))
    made.stored[f"{NAME}.weight_scale"][5, 1] = float("nan")
    config = json.loads((made.directory / "config.json").read_text())
    directory = write_safetensors_checkpoint(tmp_path / "n", config, made.stored)
    with pytest.raises(WeightsError, match=rf"`{WEIGHT}` has 32 values NaN or infinite, the first is nan at \[5, 32\]"):
        convert.convert_all(directory, tmp_path / "out")


# --- Which group a module belongs to

SIMILAR: Final = {
    "group_0": {"targets": ["re:.*"], "weights": floats("block", block_structure=[48, 48])},
    "group_1": {"targets": [NAME], "weights": floats("block", block_structure=[64, 64])},
}


def _float_module() -> Tensors:
    weight = codes((96, 96), 8).float().to(torch.float8_e4m3fn)
    return {WEIGHT: weight, f"{NAME}.weight_scale": scales((2, 2))}


def test_where_two_groups_fit_the_one_that_names_the_module_counts(tmp_path: Path) -> None:
    tensors = _float_module()
    weight = unpacked(write(tmp_path, tensors, SIMILAR, format="float-quantized"))[WEIGHT]
    factors = scales((2, 2)).repeat_interleave(64, 0)[:96].repeat_interleave(64, 1)[:, :96]
    assert_same(weight, tensors[WEIGHT].half() * factors)


def test_where_two_groups_fit_and_differ_it_is_an_error(tmp_path: Path) -> None:
    groups = {name: {**group, "targets": ["re:.*"]} for name, group in SIMILAR.items()}
    directory = write(tmp_path, _float_module(), groups, format="float-quantized")
    with pytest.raises(
        UnsupportedError, match=r"fits several groups that differ: `group_0` .* of 48x48.* and `group_1` "
    ):
        unpacked(directory)


def test_patterns_of_a_stranger_are_never_run(tmp_path: Path) -> None:
    name = "a" * 64 + "!"
    groups = {"group_0": {"targets": ["re:(a+)+$", "re:("], "weights": weights()}}
    tensors = {key.replace(NAME, name): tensor for key, tensor in module().items()}
    directory = write(tmp_path, tensors, groups, ignore=["re:(a+)+$", "re:(a|a)*$", "re:["])
    before = time.monotonic()
    assert list(unpacked(directory)) == [f"{name}.weight"]
    assert time.monotonic() - before < 5


# --- Bounds


class _Counting(SourceFiles):
    """Counts what is read."""

    nbytes = 0

    def read_into(self, path: Path, position: int, out: NDArray[np.uint8], *, name: str) -> None:
        self.nbytes += out.size
        super().read_into(path, position, out, name=name)


def test_a_window_reads_only_its_rows(tmp_path: Path) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    zeros = pack_to_int32(codes((512, 8)), 4, packed_dim=0)
    tensors = module((512, 256), weight_zero_point=zeros)
    weight = unpacked(write(tmp_path, tensors, linear(weights(symmetric=False))))[WEIGHT]
    row = np.empty((1, 512), np.uint8)
    with closing(_Counting()) as files:
        weight.read_rows(files, 301, row)
        assert files.nbytes == 128 + 8 * 2 + 8 * 4  # codes, scales, one row of words of zero points
    np.testing.assert_array_equal(row.view(np.uint16)[0], read_bits(weight)[301])


def test_bytes_of_a_module_are_counted(tmp_path: Path) -> None:
    weight = unpacked(write(tmp_path, module(), linear(weights())))[WEIGHT]
    assert (weight.dtype, weight.shape, weight.nbytes) == (StoredType.F16, (16, 64), 16 * 32 + 32 * 2)
