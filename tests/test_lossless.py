"""`--lossless`: packed integers and scales become blocks that stand for the same numbers, or are told why not.

A file's blocks are decoded by the gguf package, and rounded to the type that the packer's library gives: every number
must then be that library's own, but for MLX's, which rounds twice on a CPU, and is held to its formula.
"""

from __future__ import annotations

import json
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
import numpy as np
import pytest
import reference as llama_cpp
import torch
from checkpoint_weights import tensor_shapes
from compressed_checkpoints import compress, linear, weights, write_plain
from gguf import GGMLQuantizationType, GGUFReader, quants
from gguf_models import SMALL_MODELS, write_small_model
from group_packing import (
    Tensors,
    awq_gemm_module,
    awq_gemv_module,
    gptq_config,
    gptq_module,
    make_codes,
    packed_and_plain,
)
from mlx_checkpoints import FLOATS, draw, named, quantized
from packed_checkpoints import tiny_config, unpacked, write_safetensors_checkpoint
from safetensors.torch import load_file

import convert
from convert import OutputRequest, plan_all
from convert.checkpoint import SourceFiles, StoredBlocks
from convert.checkpoint.exact import ExactBlocks, exact_blocks
from convert.checkpoint.views import Constant, concatenated, stacked
from convert.errors import PlanError, UsageError, WeightsError
from convert.model import Decoded
from convert.quant_mix import quantize_options
from convert.verify import verify_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from reference import Reference

KEPT: Final[dict[str, Any]] = {"token_embedding_type": "f16", "output_tensor_type": "f16"}
MIXTRAL: Final = {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 3, "num_experts_per_tok": 1,
}  # fmt: skip
MXFP4: Final = {
    "num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True,
    "scale_dtype": "torch.uint8",
}  # fmt: skip
Pair = tuple["Path", "Path"]


def _gptq(**how: Any) -> Callable[[str, tuple[int, int]], tuple[Tensors, torch.Tensor]]:  # noqa: ANN401 - make_codes'
    def pack(name: str, shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
        packed = make_codes(shape, **how)
        return gptq_module(name, packed), packed.dequantized()

    return pack


def _awq(layout: str) -> Callable[[str, tuple[int, int]], tuple[Tensors, torch.Tensor]]:
    def pack(name: str, shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
        packed = make_codes(shape)
        gemv = awq_gemv_module(name, packed, n_zero_words=4) if layout == "gemv" else {}
        return gemv or awq_gemm_module(name, packed), packed.dequantized()

    return pack


def gptq(folder: Path, *, config: dict[str, Any] | None = None, **how: Any) -> Pair:  # noqa: ANN401
    section = gptq_config(how.get("bits", 4), how.get("group_size", 32))
    return packed_and_plain(folder, section, _gptq(**how), **(config or {}))


def awq(folder: Path, layout: str) -> Pair:
    section = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": layout}
    return packed_and_plain(folder, section, _awq(layout))


def compressed(folder: Path, arguments: dict[str, Any]) -> Pair:
    made = compress(folder / "packed" / "model", linear(arguments))
    return made.directory, write_plain(made, folder / "plain" / "model")


def mlx(folder: Path, mode: str, bits: int, group_size: int) -> Pair:
    """Write a model, and its twin in float32 by MLX's formula, for which MLX itself is asked to compute in float32."""
    config = tiny_config(dtype="bfloat16")
    packed: Tensors = {}
    plain: Tensors = {}
    for index, (name, shape) in enumerate(tensor_shapes(config).items()):
        packed[name] = plain[name] = draw(shape, seed=index)
        if ".layers." in name and len(shape) == 2:
            parts, decoded = quantized(packed.pop(name), mode=mode, bits=bits, group_size=group_size)
            plain[name] = decoded.float() if mode in FLOATS else _in_float32(parts, bits, group_size)
            packed |= named(name.removesuffix(".weight"), parts)
    section = {"group_size": group_size, "bits": bits, "mode": mode}
    ours = write_safetensors_checkpoint(folder / "packed" / "model", {**config, "quantization": section}, packed)
    return ours, write_safetensors_checkpoint(folder / "plain" / "model", config, plain)


def _in_float32(parts: Tensors, bits: int, group_size: int) -> torch.Tensor:
    words, scales, biases = (mx.array(parts[part].float().numpy()) for part in ("weight", "scales", "biases"))
    words = mx.array(parts["weight"].numpy())
    return torch.from_numpy(np.array(mx.dequantize(words, scales, biases, group_size=group_size, bits=bits)))


SOURCES: Final[dict[str, tuple[Callable[[Path], Pair], str]]] = {
    "gptq, symmetric": (lambda folder: gptq(folder, symmetric=True), "q4_0 q4_1 q5_0 q5_1 q8_0"),
    "gptq, groups of 64": (lambda folder: gptq(folder, symmetric=True, group_size=64), "q4_0 q8_0"),
    "gptq, bfloat16": (lambda folder: gptq(folder, symmetric=True, dtype=torch.bfloat16), "q4_0 q5_1"),
    "gptq, zero points": (gptq, "q5_0 q8_0"),
    "gptq, 8 bits": (lambda folder: gptq(folder, symmetric=True, bits=8), "q8_0"),
    "gptq, experts": (lambda folder: gptq(folder, symmetric=True, config=MIXTRAL), "q4_0"),
    "awq": (lambda folder: awq(folder, "gemm"), "q5_0"),
    "awq, gemv": (lambda folder: awq(folder, "gemv"), "q5_0"),
    "int4 as Kimi's": (lambda folder: compressed(folder, weights()), "q4_0 q4_1"),
    "int4 with zero points": (lambda folder: compressed(folder, weights(symmetric=False)), "q5_0"),
    "mxfp4": (lambda folder: compressed(folder, MXFP4), "mxfp4 q8_0"),
    "int8 by row": (lambda folder: compressed(folder, weights(8, "channel")), "q8_0"),
    "mlx, 4 bits": (lambda folder: mlx(folder, "affine", 4, 32), "q4_1 q5_1"),
    "mlx, 5 bits": (lambda folder: mlx(folder, "affine", 5, 32), "q5_1"),
    "mlx, mxfp4": (lambda folder: mlx(folder, "mxfp4", 4, 32), "mxfp4 q5_1 q8_0"),
}


def convert_lossless(model: Path, out: Path, kind: str, **words: Any) -> Path:  # noqa: ANN401 - quantize_options'
    """Make every matrix of the blocks one type, exactly, or fail."""
    options = quantize_options(**{**KEPT, "lossless": "strict", "tensor_type": [f"blk={kind}"], **words})
    file_type = "mxfp4_moe" if kind in ("mxfp4", "nvfp4") else kind
    return convert.convert_one(model, out, type=file_type, options=options).outputs[0].path


def values_of(path: Path) -> dict[str, NDArray[np.float32]]:
    """Decode all tensors with the gguf package."""
    return {tensor.name: quants.dequantize(tensor.data, tensor.tensor_type) for tensor in GGUFReader(path).tensors}


@pytest.mark.parametrize("source", SOURCES)
def test_every_number_is_the_packers_own(source: str, tmp_path: Path) -> None:
    make, kinds = SOURCES[source]
    packed, plain = make(tmp_path)
    wanted = values_of(convert.convert_one(plain, tmp_path / "plain.gguf", type="f32").outputs[0].path)
    dtype = getattr(torch, json.loads((plain / "config.json").read_text())["dtype"])
    rounds = None if source.startswith("mlx") else torch.bfloat16 if "bfloat16" in source else dtype
    for kind in kinds.split():
        path = convert_lossless(packed, tmp_path / f"{kind}.gguf", kind)
        types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
        for name, values in values_of(path).items():
            if not name.startswith("blk.") or types[name] in ("F32", "F16"):
                continue
            assert types[name] == kind.upper(), name
            numbers = values if rounds is None else torch.from_numpy(values).to(rounds).float().numpy()
            np.testing.assert_array_equal(numbers, wanted[name], err_msg=f"{name} {kind}")
        assert kind.upper() in types.values()


def test_nvfp4_without_a_factor(tmp_path: Path) -> None:
    packed, plain = mlx(tmp_path, "nvfp4", 4, 16)
    path = convert_lossless(packed, tmp_path / "m.gguf", "nvfp4", tensor_type=["down=f16", "blk=nvfp4"])
    wanted = values_of(convert.convert_one(plain, tmp_path / "plain.gguf", type="f32").outputs[0].path)
    found = [tensor for tensor in GGUFReader(path).tensors if tensor.tensor_type.name == "NVFP4"]
    assert len(found) == 6
    for tensor in found:
        np.testing.assert_array_equal(quants.dequantize(tensor.data, tensor.tensor_type), wanted[tensor.name])


NVFP4: Final = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}


@pytest.mark.llama_cpp
def test_live_nvfp4_has_its_factor_beside_it_as_the_reference_writes_it(tmp_path: Path, reference: Reference) -> None:
    """The reference's own NVFP4 tensors are the same but for -0, and Q and K, which it forgets to permute."""
    groups = linear(NVFP4)
    made = compress(tmp_path / "packed" / "model", groups, config={"intermediate_size": 128})
    plain = write_plain(made, tmp_path / "plain" / "model")
    path = convert_lossless(made.directory, tmp_path / "m.gguf", "nvfp4")
    (theirs,) = llama_cpp.convert(reference.source, [(made.directory, tmp_path / "theirs.gguf")])
    assert theirs.error is None
    f32 = convert.convert_one(plain, tmp_path / "f32.gguf", type="f32").outputs[0].path
    ours, wanted, others = values_of(path), values_of(f32), values_of(tmp_path / "theirs.gguf")
    scaled = [name for name in ours if name.endswith(".scale")]
    assert len(scaled) == 7
    for name in scaled:
        weight = name.replace(".scale", ".weight")
        numbers = torch.from_numpy(ours[weight] * ours[name]).bfloat16().float().numpy()
        np.testing.assert_array_equal(numbers, wanted[weight], err_msg=weight)
        np.testing.assert_array_equal(ours[name], others[name])
        if "attn_q" not in name and "attn_k" not in name:
            np.testing.assert_array_equal(ours[weight], others[weight])
    assert verify_files([path], against=made.directory).is_sound
    assert _said(reference, path) == _said(reference, f32)
    convert.dequantize(path, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == made.expected.keys()
    for name, tensor in made.expected.items():
        assert torch.equal(back[name].bfloat16(), tensor.bfloat16()), name


def test_a_stack_of_experts_goes_back_each_with_its_factor(tmp_path: Path) -> None:
    blocks = np.tile(np.frombuffer(bytes([0x38] * 4 + [0x21] * 32), np.uint8), (4, 1))  # scales of 1, in ue4m3
    (tmp_path / "x").write_bytes(blocks.tobytes())
    stack = StoredBlocks("x", tmp_path / "x", 0, blocks.nbytes, (2, 2, 64), GGMLQuantizationType.NVFP4)
    scale = Constant("s", np.array([2, 3], "<f4").tobytes())
    plain, out = np.empty((4, 256), np.uint8), np.empty((3, 256), np.uint8)
    with closing(SourceFiles()) as files:
        Decoded(stack).read_rows(files, 0, plain)
        Decoded(stack, scale).read_rows(files, 1, out)
    assert plain.view("<f4").any()
    np.testing.assert_array_equal(out.view("<f4"), plain.view("<f4")[1:] * np.array([[2], [3], [3]], np.float32))


def test_a_stack_has_a_factor_for_each_matrix_and_rows_of_one_have_one(tmp_path: Path) -> None:
    made = compress(tmp_path / "m", linear(NVFP4))
    tensors = unpacked(made.directory)
    gate, up = (tensors[f"model.layers.0.mlp.{part}.weight"] for part in ("gate_proj", "up_proj"))
    alone = [exact_blocks(tensor, GGMLQuantizationType.NVFP4) for tensor in (gate, up)]
    both = exact_blocks(stacked("experts", (gate, up)), GGMLQuantizationType.NVFP4)
    assert isinstance(both, ExactBlocks)
    assert [(scale,) for scale in both.scale] == [one.scale for one in alone if isinstance(one, ExactBlocks)]
    said = exact_blocks(concatenated("gate_up", (gate, up)), GGMLQuantizationType.NVFP4)
    assert said == "it is made of several, which have a factor each, and NVFP4 has one"
    same = exact_blocks(concatenated("twice", (gate, gate)), GGMLQuantizationType.NVFP4)
    assert isinstance(same, ExactBlocks)
    assert len(same.scale) == 1


def _said(reference: Reference, model: Path) -> str:
    """Let llama.cpp continue a text; where it ends before its output is written, again."""
    return next(filter(None, (llama_cpp.complete(reference, model, "Once", n_tokens=4) for _ in range(20))))


def test_other_files_and_tensors_of_the_run_are_as_ever(tmp_path: Path) -> None:
    """A file of floats is the same; one that is exact differs in the packed tensors and one key, which counts them."""
    packed, _ = gptq(tmp_path, symmetric=True)
    made = {}
    for lossless in (None, "possible"):
        request = OutputRequest(
            tmp_path / str(lossless), types="f16,q4_0", name="m", options=quantize_options(lossless=lossless)
        )
        made[lossless] = [output.path for output in convert.convert_all(packed, request).outputs]
    assert made[None][0].read_bytes() == made["possible"][0].read_bytes()
    before, after = GGUFReader(made[None][1]), GGUFReader(made["possible"][1])
    key = "quantize.lossless.entries_count"
    assert after.fields.keys() - before.fields.keys() == {key}
    assert after.fields[key].contents() == 7
    same = {
        theirs.name: theirs.data.tobytes() == ours.data.tobytes()
        for theirs, ours in zip(before.tensors, after.tensors, strict=True)
    }
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_gate", "ffn_down")
    assert {name for name, is_same in same.items() if not is_same} == {f"blk.0.{part}.weight" for part in parts}


def test_the_plan_names_what_is_exact_and_what_is_not_and_why(tmp_path: Path) -> None:
    packed, _ = gptq(tmp_path)
    request = OutputRequest(tmp_path / "out", types="q5_0,q4_0", options=quantize_options(lossless="possible"))
    plan = plan_all(packed, request)
    notes = "\n".join(plan.notes)
    assert "written exactly as packed, every value decoded again and compared" in notes
    assert "`token_embd.weight` (Q5_0), `token_embd.weight` (Q4_0)" in notes
    assert ": it is not packed" in notes
    assert "(Q4_0): its codes less zero points go from -15 to 14, Q4_0 holds -8 to 7" in notes
    exact, not_exact = (output.reasons["blk.0.attn_q.weight"] for output in plan.outputs)
    assert exact == "exactly as packed"
    assert not_exact.startswith("the type asked for; not exact: its codes less zero points")


REFUSED: Final[dict[str, tuple[Callable[[Path], Pair], str, str]]] = {
    "zero points": (gptq, "q4_0", "its codes less zero points go from -15 to 14, Q4_0 holds -8 to 7"),
    "minimums": (gptq, "q4_1", "scales and minimums are not exact in Q4_1"),
    "bits": (lambda folder: gptq(folder, bits=8, symmetric=True), "q5_1", "its codes go from 0 to 255, Q5_1 has 32"),
    "order": (lambda folder: gptq(folder, act_order=True), "q8_0", "its columns are not in the order of their groups"),
    "type": (gptq, "iq4_nl", "IQ4_NL takes no integers and scales as they are"),
    "no floats": (gptq, "mxfp4", "its codes are integers, MXFP4 holds floats of four bits"),
    "bias": (lambda folder: mlx(folder, "affine", 4, 32), "q8_0", "its groups have a bias, for which Q8_0 has no room"),
    "float8": (lambda folder: mlx(folder, "mxfp8", 8, 32), "q8_0", "its codes or zero points are floats"),
    "groups": (lambda folder: mlx(folder, "nvfp4", 4, 16), "q8_0", "its groups of 16 are not whole ones of 32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_strict_is_an_error_that_names_tensor_reason_and_what_would_do(case: str, tmp_path: Path) -> None:
    make, kind, why = REFUSED[case]
    with pytest.raises(PlanError, match=re.escape(why)) as caught:
        convert_lossless(make(tmp_path)[0], tmp_path / "m.gguf", kind)
    said = f"tensor `blk.0.attn_k.weight` cannot be {kind.upper()} and exactly what it is: "
    assert caught.value.message.startswith(said)
    assert "and 6 more cannot be exact" in caught.value.message
    assert ("exact it would be in q5_0, q8_0" in (caught.value.hint or "")) is (make is gptq)
    assert not (tmp_path / "m.gguf").exists()


def test_strict_refuses_floats_that_would_be_quantized(tmp_path: Path) -> None:
    packed, _ = gptq(tmp_path, symmetric=True)
    with pytest.raises(PlanError, match=r"tensor `output.weight` cannot be Q8_0 .*: it is not packed, and 1 more"):
        convert_lossless(packed, tmp_path / "m.gguf", "q4_0", **dict.fromkeys(KEPT, "q8_0"))


def test_scales_beyond_float16_are_counted(tmp_path: Path) -> None:
    packed, _ = gptq(tmp_path, symmetric=True, dtype=torch.bfloat16)
    _change(packed, "model.layers.0.self_attn.q_proj.scales", 0, 1e-30)
    with pytest.raises(PlanError, match="1 of its 128 scales are not exact in Q4_0"):
        convert_lossless(packed, tmp_path / "m.gguf", "q4_0")


def test_a_value_that_is_not_the_same_ends_the_run(tmp_path: Path) -> None:
    packed, _ = gptq(tmp_path, symmetric=True, dtype=torch.bfloat16)
    options = quantize_options(lossless="strict", **KEPT)
    plan = convert.plan_one(packed, tmp_path / "m.gguf", type="q4_0", options=options)
    _change(packed, "model.layers.0.self_attn.q_proj.scales", 0, 1e-30)
    with pytest.raises(WeightsError, match=r"q_proj.weight`: row 0 as Q4_0 is not what is packed"):
        convert.carry_out(plan)
    assert not (tmp_path / "m.gguf").exists()


def _change(model: Path, name: str, index: int, value: float) -> None:
    """Change one number of a bfloat16 tensor where it lies."""
    path = model / "model.safetensors"
    raw = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(raw[:8], "little")
    start = end + json.loads(raw[8:end])[name]["data_offsets"][0] + 2 * index
    raw[start : start + 2] = torch.tensor([value], dtype=torch.bfloat16).view(torch.int16).numpy().tobytes()
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("start", "kinds"),
    [("q4_0", "q4_1 q5_0 q5_1 q8_0"), ("q4_1", "q5_1"), ("q5_0", "q5_1 q8_0"), ("mxfp4", "q5_1 q8_0"), ("q8_0", "")],
)
def test_blocks_of_a_gguf_become_others_of_the_same_numbers(start: str, kinds: str, tmp_path: Path) -> None:
    model = write_small_model(SMALL_MODELS["gqa4"], tmp_path / "m.gguf")
    pure = quantize_options(tensor_type=[f".={start}"], **KEPT)
    (first,) = convert.quantize(model, OutputRequest(tmp_path, types="q8_0", name="first", options=pure)).outputs
    wanted = values_of(first.path)
    for kind in kinds.split():
        options = quantize_options(lossless="strict", tensor_type=[f".={kind}"], **KEPT)
        request = OutputRequest(tmp_path / kind, types="q8_0", name="second", options=options)
        (second,) = convert.quantize(first.path, request).outputs
        types = {tensor.tensor_type.name for tensor in GGUFReader(second.path).tensors}
        assert types == {kind.upper(), "F16", "F32"}
        for name, values in values_of(second.path).items():
            np.testing.assert_array_equal(values, wanted[name], err_msg=name)


def test_a_word_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="lossless is `yes`, wanted off, possible, strict"):
        quantize_options(lossless="yes")
