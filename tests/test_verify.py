"""`verify`: sound files pass, and each kind of damage is found and named."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from damage import patched, problems, tensor_of, with_metadata
from gguf import GGMLQuantizationType

import convert
from convert.codec import CODECS
from convert.errors import CheckpointError, UnsupportedError
from convert.gguf_file import read_gguf
from convert.verify import verify_files
from convert.verify.bounds import explained_error, has_bound, relative_rmse_limit

if TYPE_CHECKING:
    from pathlib import Path

K_TYPES: Final = ("q2_k", "q3_k_s", "q4_k_s", "q5_k_s", "q6_k")
TYPES: Final = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", *K_TYPES)
_SUPER_BLOCK: Final = 256
BLOCKED: Final = [kind for kind, codec in CODECS.items() if codec.block_size > 1]
BOUNDED: Final = [kind for kind in BLOCKED if has_bound(kind, with_importance=False)]
_ENDS_IN_QUANTS: Final = ("q4_0", "q4_1", "q5_0", "q5_1", "q4_k_s", "q5_k_s")
NAN: Final = struct.pack("<e", float("nan"))
CHATML: Final = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def outputs(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return sound files of every type, made once; tests copy before they damage."""
    out = tmp_path_factory.mktemp("sound")
    report = convert.convert_all(tiny_llama, convert.OutputRequest(out, types=TYPES))
    return dict(zip(TYPES, (written.path for written in report.outputs), strict=True))


# --- Sound files


def test_sound_files_of_every_type_pass_and_agree_with_the_checkpoint(
    outputs: dict[str, Path], tiny_llama: Path
) -> None:
    verification = verify_files(list(outputs.values()), against=tiny_llama)
    verification.check()
    assert verification.is_sound
    for file in verification.files:
        assert len(file.errors) == len(read_gguf(file.path).tensors)
        assert all(error.worst_ratio <= 1 for error in file.errors)


def test_a_better_type_is_nearer_to_the_checkpoint(outputs: dict[str, Path], tiny_llama: Path) -> None:
    quantized = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "f32")
    verification = verify_files([outputs[kind] for kind in quantized], against=tiny_llama)
    name = "blk.0.attn_q.weight"
    errors = [next(error for error in file.errors if error.name == name).relative_rmse for file in verification.files]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_files_are_compared_with_a_float_gguf_too(outputs: dict[str, Path]) -> None:
    assert problems(outputs["q4_0"], against=outputs["f16"]) == []
    with pytest.raises(UnsupportedError, match="only a float file can be the measure"):
        verify_files([outputs["f16"]], against=outputs["q8_0"])


def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        verify_files([tmp_path / "nothing.gguf"])


# --- Damage to the structure


def test_a_truncated_file_is_found(outputs: dict[str, Path], tmp_path: Path) -> None:
    damaged = tmp_path / "short.gguf"
    damaged.write_bytes(outputs["q4_0"].read_bytes()[:-1000])
    (found,) = problems(damaged)
    assert found.startswith("header: ")
    assert "the file has" in found


def test_something_behind_the_last_tensor_is_found(outputs: dict[str, Path], tmp_path: Path) -> None:
    damaged = tmp_path / "long.gguf"
    damaged.write_bytes(outputs["q4_0"].read_bytes() + bytes(32))
    (found,) = problems(damaged)
    assert found.startswith("structure: the file has")


def test_padding_that_is_not_zero_is_found(outputs: dict[str, Path], tmp_path: Path) -> None:
    sound = with_metadata(outputs["q4_0"], tmp_path / "sound.gguf", alignment=4096, general__alignment=4096)
    assert problems(sound) == []
    header = read_gguf(sound)
    padded = next(tensor for tensor in header.tensors if tensor.nbytes % 4096)
    damaged = patched(sound, tmp_path / "padding.gguf", padded.offset + padded.nbytes, b"\1")
    (found,) = problems(damaged)
    assert found.startswith(f"structure: the padding after tensor `{padded.name}`, from byte")
    (found,) = problems(patched(sound, tmp_path / "header.gguf", header.data_offset - 1, b"\1"))
    assert found.startswith("structure: the padding after the header, from byte")


def test_another_kind_of_file_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\3\4" + bytes(100))
    (found,) = problems(other)
    assert "is a PyTorch file, or an archive, wanted a GGUF file" in found


# --- Damage to the blocks


@pytest.mark.parametrize(
    ("kind", "name", "block", "offset"),
    [
        ("q4_0", "blk.1.ffn_up.weight", 3, 0),
        ("q4_1", "blk.1.ffn_up.weight", 3, 2),
        ("q5_0", "blk.0.attn_v.weight", 0, 0),
        ("q5_1", "blk.0.attn_v.weight", 1, 2),
        ("q8_0", "blk.0.ffn_down.weight", 2, 0),
        ("f16", "token_embd.weight", 5, 0),
        ("bf16", "token_embd.weight", 5, 0),
    ],
)
def test_a_nan_is_found_and_its_place_named(
    kind: str, name: str, block: int, offset: int, outputs: dict[str, Path], tmp_path: Path
) -> None:
    tensor = tensor_of(outputs[kind], name)
    codec = CODECS[tensor.type]
    assert tensor.type.name.lower() == kind
    at = tensor.offset + block * codec.type_size + offset
    raw = b"\xc0\x7f" if kind == "bf16" else NAN
    (found,) = problems(patched(outputs[kind], tmp_path / "nan.gguf", at, raw))
    row, column = divmod(block * codec.block_size, tensor.shape[1])
    assert found.startswith(f"blocks: tensor `{name}` ({tensor.type.name}): 1 ")
    assert f"the first at [{row}, {column}]" in found


def test_an_infinite_float32_value_is_found(outputs: dict[str, Path], tmp_path: Path) -> None:
    tensor = tensor_of(outputs["q4_0"], "output_norm.weight")
    damaged = patched(outputs["q4_0"], tmp_path / "inf.gguf", tensor.offset + 8, struct.pack("<f", float("-inf")))
    (found,) = problems(damaged)
    assert "`output_norm.weight` (F32): 1 values are NaN or infinite, the first at [2]" in found


def test_what_allow_nonfinite_writes_is_found(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_llama.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][2, 7] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    convert.convert_one(model, tmp_path / "m.gguf", convert.Writing(allow_nonfinite=True), type="q5_1")
    assert any("`blk.0.ffn_up.weight` (Q5_1): 1 blocks" in found for found in problems(tmp_path / "m.gguf"))


# --- Damage to the metadata


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"llama__block_count": 7}, "`llama.block_count` is 7, the file has blocks 0 to"),
        ({"llama__block_count": 0}, "`llama.block_count` is 0, not a positive integer"),
        ({"llama__context_length": None}, "`llama.context_length` is missing"),
        ({"llama__embedding_length": 65}, "`llama.embedding_length` is 65, `token_embd.weight` has"),
        ({"llama__attention__head_count": 3}, "head_count` is 3, not a multiple of head_count_kv"),
        ({"llama__attention__layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon` is missing"),
        ({"tokenizer__ggml__eos_token_id": 70000}, "`tokenizer.ggml.eos_token_id` is 70000, the vocabulary has ids"),
        ({"general__architecture": None}, "`general.architecture` is missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_metadata_that_cannot_be_loaded_is_named(
    changes: dict[str, Any], wanted: str, outputs: dict[str, Path], tmp_path: Path
) -> None:
    damaged = with_metadata(outputs["f16"], tmp_path / "damaged.gguf", **changes)
    assert any(wanted in found for found in problems(damaged)), problems(damaged)


def test_a_vocabulary_of_another_size_than_the_embedding_is_found(outputs: dict[str, Path], tmp_path: Path) -> None:
    tokens = read_gguf(outputs["f16"]).metadata["tokenizer.ggml.tokens"]
    damaged = with_metadata(outputs["f16"], tmp_path / "tokens.gguf", tokenizer__ggml__tokens=tokens[:-1])
    n_tokens = len(tokens) - 1
    assert problems(damaged) == [
        f"metadata: `tokenizer.ggml.tokens` has {n_tokens} tokens, `token_embd.weight` has {n_tokens + 1} rows",
        f"metadata: `tokenizer.ggml.scores` has {n_tokens + 1} entries, there are {n_tokens} tokens",
        f"metadata: `tokenizer.ggml.token_type` has {n_tokens + 1} entries, there are {n_tokens} tokens",
    ]


# --- Against the checkpoint


def test_two_swapped_tensors_are_found(outputs: dict[str, Path], tiny_llama: Path, tmp_path: Path) -> None:
    for kind in ("f16", "q4_0", "q8_0"):
        first, second = (tensor_of(outputs[kind], f"blk.{block}.ffn_up.weight") for block in (0, 1))
        raw = outputs[kind].read_bytes()
        damaged = patched(
            outputs[kind], tmp_path / "half.gguf", first.offset, raw[second.offset : second.offset + second.nbytes]
        )
        damaged = patched(
            damaged, tmp_path / "swapped.gguf", second.offset, raw[first.offset : first.offset + first.nbytes]
        )
        assert problems(damaged) == []
        found = problems(damaged, against=tiny_llama)
        assert [problem.split("`")[1] for problem in found] == [first.name, second.name]


@pytest.mark.parametrize("kind", TYPES)
def test_one_perturbed_weight_is_found_and_its_place_named(
    kind: str, outputs: dict[str, Path], tiny_llama: Path, tmp_path: Path
) -> None:
    tensor = tensor_of(outputs[kind], "blk.0.ffn_gate.weight")
    codec = CODECS[tensor.type]
    block = outputs[kind].read_bytes()[tensor.offset :][: codec.type_size]
    last = block[-1] ^ (0x88 if kind in _ENDS_IN_QUANTS else 0x40)
    damaged = patched(outputs[kind], tmp_path / "m.gguf", tensor.offset + codec.type_size - 1, bytes([last]))
    (found,) = problems(damaged, against=tiny_llama)
    assert f"`blk.0.ffn_gate.weight` ({tensor.type.name}): " in found
    place = int(found.split("the worst at [0, ")[1].split("]")[0])
    if codec.block_size == _SUPER_BLOCK:
        assert place < _SUPER_BLOCK
    else:
        assert place in {0, codec.block_size - 1, codec.block_size // 2 - 1}


def test_heads_that_were_not_permuted_are_found(outputs: dict[str, Path], tiny_llama: Path, tmp_path: Path) -> None:
    tensor = tensor_of(outputs["f16"], "blk.0.attn_q.weight")
    raw = np.frombuffer(outputs["f16"].read_bytes(), np.uint8)[tensor.offset :][: tensor.nbytes]
    rows = raw.reshape(tensor.shape[0], -1)[::-1]
    damaged = patched(outputs["f16"], tmp_path / "m.gguf", tensor.offset, rows.tobytes())
    (found,) = problems(damaged, against=tiny_llama)
    assert "`blk.0.attn_q.weight`" in found


def test_a_tensor_of_another_name_is_found_on_both_sides(
    outputs: dict[str, Path], tiny_llama: Path, tmp_path: Path
) -> None:
    content = outputs["f16"].read_bytes().replace(b"blk.1.ffn_down.weight", b"blk.1.ffn_uupp.weight")
    (tmp_path / "m.gguf").write_bytes(content)
    assert problems(tmp_path / "m.gguf", against=tiny_llama) == [
        "against: tensor `blk.1.ffn_down.weight` of the checkpoint is not in the file",
        "against: tensor `blk.1.ffn_uupp.weight` of the file is not in the checkpoint",
    ]


@pytest.mark.parametrize("tensor_type", BOUNDED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1000.0])
def test_no_encoded_block_is_further_off_than_its_bound(tensor_type: GGMLQuantizationType, scale: float) -> None:
    codec = CODECS[tensor_type]
    generator, shape = np.random.default_rng(7), (96000 // codec.block_size, codec.block_size)
    normal = generator.standard_normal(shape)
    heavy = generator.standard_t(2, shape)
    one_sided = np.abs(normal)
    values = (np.concatenate([normal, heavy, one_sided, -one_sided]) * scale).astype(np.float32).clip(-60000, 60000)
    blocks = codec.encode(values.astype(np.float16).astype(np.float32))
    decoded = codec.decode(blocks)
    bound = explained_error(tensor_type, blocks, values, decoded)
    assert bound is not None
    assert (np.abs(decoded.astype(np.float64) - values) <= bound).all()


@pytest.mark.parametrize("tensor_type", sorted(set(BLOCKED) - set(BOUNDED)), ids=lambda kind: kind.name)
def test_a_type_without_a_bound_keeps_the_rmse_that_its_bits_allow(tensor_type: GGMLQuantizationType) -> None:
    rows, codec = np.random.default_rng(7).standard_normal((4, 1024)).astype(np.float32), CODECS[tensor_type]
    decoded = codec.decode(codec.encode(rows, np.ones(1024, np.float32)))
    assert np.sqrt(np.square(decoded - rows).mean()) <= relative_rmse_limit(tensor_type)


def test_importance_may_give_a_weight_up_for_others() -> None:
    codec, values = CODECS[GGMLQuantizationType.Q4_0], np.random.default_rng(3).standard_normal((1, 32))
    values[0, 7] = 30
    weights, counts = values.astype(np.float32), np.ones(32, np.float32)
    counts[7] = 0
    blocks = codec.encode(weights, counts)
    decoded = codec.decode(blocks)
    bound = explained_error(codec.type, blocks, weights, decoded)
    assert bound is not None
    assert abs(decoded[0, 7] - 30) > bound[0, 7]
    assert has_bound(codec.type, with_importance=False)
    assert not has_bound(codec.type, with_importance=True)
    assert has_bound(GGMLQuantizationType.Q8_0, with_importance=True)


# --- The command line

_PROGRAM: Final = """
from convert.cli import cli, main
from convert.cli.verify_commands import verify
if "verify" not in cli.commands:
    cli.add_command(verify)
main()
"""


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _PROGRAM, "verify", "--no-llama-cpp", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_ends_with_0_for_sound_files(outputs: dict[str, Path], tiny_llama: Path) -> None:
    result = _run(outputs["f16"], outputs["q4_0"], "--against", tiny_llama)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"B +sound +", result.stdout)) == 2
    assert "RMSE in standard deviations by type" not in result.stdout
    asked = _run(outputs["f16"], outputs["q4_0"], "--against", tiny_llama, "--tensors").stdout
    assert asked.count("RMSE in standard deviations by type") == 2
    assert asked.count(" worst at ") == 6


def test_the_command_ends_with_9_and_names_the_damage(outputs: dict[str, Path], tmp_path: Path) -> None:
    tensor = tensor_of(outputs["q4_0"], "blk.0.attn_q.weight")
    damaged = patched(outputs["q4_0"], tmp_path / "nan.gguf", tensor.offset, NAN)
    result = _run(outputs["f16"], damaged)
    assert result.returncode == 9
    assert result.stderr.startswith("error: 1 of 2 files are not sound")
    assert "problem: nan.gguf: blocks: tensor `blk.0.attn_q.weight`" in result.stdout


def test_the_command_writes_json(outputs: dict[str, Path], tiny_llama: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(outputs["f16"].read_bytes()[:5000])
    result = _run(outputs["q8_0"], short, "--against", tiny_llama, "--json")
    assert result.returncode == 9
    document = json.loads(result.stdout)
    sound, broken = document["files"]
    assert (document["sound"], sound["sound"], broken["sound"]) == (False, True, False)
    assert 0 < sound["relative_rmse_by_type"]["Q8_0"] < 0.01
    assert broken["problems"][0]["check"] == "header"


@pytest.mark.parametrize(("arguments", "code"), [(["nothing.gguf"], 3), ([], 2), (["F16", "--text", "README.md"], 2)])
def test_wrong_usage_has_its_exit_code(arguments: list[str], code: int, outputs: dict[str, Path]) -> None:
    result = _run(*(outputs["f16"] if word == "F16" else word for word in arguments))
    assert result.returncode == code, result.stderr


def test_an_importance_matrix_among_the_files_is_no_model_and_no_fault(calibrated_llama: Path) -> None:
    (file,) = verify_files([calibrated_llama / "imatrix.gguf"]).files
    assert [(finding.severity.value, finding.message) for finding in file.findings] == [
        ("note", "it is an importance matrix, and no model")
    ]
