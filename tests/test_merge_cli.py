"""`--merge` from the command line to the files: values, metadata, notes, errors; and what a merge costs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from peft_adapters import (
    as_plain,
    change_config,
    copy_tokenizer,
    load_base,
    peft_merged,
    quiet,
    write_adapter,
    write_base,
)

import convert
from convert.adapter import MergeRequest, merge_adapters
from convert.checkpoint import SourceFiles, StoredType, TensorSource, open_checkpoint
from convert.codec import CODECS
from convert.conversion import plan_all, plan_one
from convert.gguf_file import read_gguf
from convert.model import ModelRequest, model_request
from convert.verify import verify_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "little-llama")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(base, tmp_path_factory.mktemp("adapter") / "my-adapter", r=4, target_modules=ALL)


@pytest.fixture(scope="module")
def merged(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peft_merged([(adapter, 1)], base, tmp_path_factory.mktemp("merged") / "little-llama")


def values_of(path: Path) -> dict[str, tuple[GGMLQuantizationType, NDArray[np.float32]]]:
    data = path.read_bytes()
    decoded = {}
    for tensor in read_gguf(path).tensors:
        raw = np.frombuffer(data, np.uint8, tensor.nbytes, tensor.offset)
        rows = raw.reshape(int(np.prod(tensor.shape[:-1])) if len(tensor.shape) > 1 else 1, -1)
        decoded[tensor.name] = (tensor.type, CODECS[tensor.type].decode(rows))
    return decoded


def _steps(kind: GGMLQuantizationType, wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what one rounding of the type may differ by."""
    if kind is GGMLQuantizationType.F32:
        return np.full_like(wanted, 2 * np.spacing(np.abs(wanted).max()))
    if kind is GGMLQuantizationType.F16:
        return np.abs(np.spacing(wanted.astype(np.float16)).astype(np.float32))
    blocks = np.abs(wanted.reshape(-1, 32))  # q8_0: a step is the block's largest value / 127
    steps: NDArray[np.float32] = np.repeat(blocks.max(axis=1) / np.float32(126), 32).reshape(wanted.shape)
    return steps


def assert_as_converted(ours: Path, theirs: Path) -> None:
    """Compare two files: the metadata whole, the types, every value within one rounding of its type."""
    assert read_gguf(ours).metadata == read_gguf(theirs).metadata
    our_values, their_values = values_of(ours), values_of(theirs)
    assert list(our_values) == list(their_values)
    for name, (kind, values) in our_values.items():
        their_kind, wanted = their_values[name]
        assert kind is their_kind
        assert (np.abs(values - wanted) <= _steps(kind, wanted)).all(), name
        assert (values == wanted).mean() > (0.2 if kind is GGMLQuantizationType.F32 else 0.99), name


def test_a_merge_on_the_way_is_a_merge_before(base: Path, adapter: Path, merged: Path, tmp_path: Path) -> None:
    types = "f32,f16,q8_0"
    result = run("all", base, tmp_path / "ours", "--merge", adapter, "--types", types)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert f"merges `{adapter}`: LoRA on 14 modules, in float32" in result.stderr
    convert.convert_all(merged, convert.OutputRequest(tmp_path / "theirs", types=types))
    for kind in ("F32", "F16", "Q8_0"):
        assert_as_converted(tmp_path / f"ours/little-llama-{kind}.gguf", tmp_path / f"theirs/little-llama-{kind}.gguf")
    again = run("all", base, tmp_path / "ours", "--merge", adapter, "--types", types)
    assert again.stderr.count(": complete, and equal to the plan") == 3


def test_an_adapter_alone_is_merged_into_its_base(base: Path, adapter: Path, tmp_path: Path) -> None:
    result = run("all", adapter, tmp_path / "alone", "--types", "f16,q4_0")
    assert result.returncode == 0, result.stderr
    assert f"the base of `my-adapter` is `{base}`" in result.stderr
    run("all", base, tmp_path / "merged", "--merge", adapter, "--types", "f16,q4_0")
    for kind in ("F16", "Q4_0"):
        alone = tmp_path / "alone" / f"my-adapter-{kind}.gguf"
        assert alone.read_bytes() == (tmp_path / "merged" / f"little-llama-{kind}.gguf").read_bytes()


def test_adapters_are_merged_in_order_with_their_weights(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = write_adapter(base, tmp_path / "other:1", r=2, seed=9, target_modules=["q_proj"])
    arguments = ["--merge", f"{adapter}:0.7", "--merge", other]
    result = run("gguf", base, tmp_path / "ours.gguf", "--type", "f32", *arguments)
    assert result.returncode == 0, result.stderr
    assert "in float32, weight 0.7" in result.stderr
    theirs = peft_merged([(adapter, 0.7), (other, 1)], base, tmp_path / "little-llama")
    convert.convert_one(theirs, tmp_path / "theirs.gguf", type="f32")
    assert_as_converted(tmp_path / "ours.gguf", tmp_path / "theirs.gguf")


def test_functions_take_what_the_command_takes(base: Path, adapter: Path, tmp_path: Path) -> None:
    texts = [f"{adapter}:0.5", [f"{adapter}:0.5"], MergeRequest(adapter, 0.5), (MergeRequest(adapter, 0.5),)]
    for index, merge in enumerate(texts):
        convert.convert_one(convert.model_request(base, merge=merge), tmp_path / f"{index}.gguf")  # type: ignore[arg-type]
    assert len({(tmp_path / f"{index}.gguf").read_bytes() for index in range(len(texts))}) == 1
    assert (
        plan_one(model_request(base, merge=adapter), tmp_path / "x.gguf").nbytes
        == plan_one(base, tmp_path / "x.gguf").nbytes
    )


def test_verify_compares_with_the_merged_values(base: Path, adapter: Path, tmp_path: Path) -> None:
    result = run("all", base, tmp_path, "--merge", adapter, "--types", "q8_0", "--verify")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "sound" in result.stdout
    path = tmp_path / "little-llama-Q8_0.gguf"
    assert verify_files([path], against=adapter).is_sound
    assert not verify_files([path], against=base).is_sound
    again = run("verify", path, "--against", base, "--merge", adapter, "--no-llama-cpp")
    assert again.returncode == 0, again.stdout
    assert run("verify", path, "--against", path, "--merge", adapter, "--no-llama-cpp").returncode == 2


def test_verify_measures_columns_of_dora_first(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(base, tmp_path / "adapter", r=4, target_modules=["embed_tokens"], use_dora=True)
    convert.convert_one(convert.model_request(base, merge=adapter), tmp_path / "out.gguf", type="q8_0")
    assert verify_files([tmp_path / "out.gguf"], against=ModelRequest(base, (MergeRequest(adapter),))).is_sound


def test_a_dry_run_shows_the_merge_and_the_base(adapter: Path, tmp_path: Path) -> None:
    result = run("all", adapter, tmp_path / "out", "--dry-run", "--json")
    notes = json.loads(result.stdout)["notes"]
    assert any(note.startswith("the base of `my-adapter`") for note in notes)
    assert any(note.startswith(f"merges `{adapter}`") for note in notes)
    assert not (tmp_path / "out").exists()


def test_another_base_than_the_adapters_is_noted(base: Path, adapter: Path, tmp_path: Path) -> None:
    renamed = Path(shutil.copytree(base, tmp_path / "other-llama"))
    (note,) = (n for n in plan_all(model_request(renamed, merge=adapter), tmp_path).notes if "was trained on" in n)
    assert note == f"`my-adapter` was trained on `{base}`, and is merged into `other-llama`"
    assert not any("was trained on" in note for note in plan_all(model_request(base, merge=adapter), tmp_path).notes)


def test_a_resized_vocabulary_goes_into_the_file(base: Path, tmp_path: Path) -> None:
    resized = write_adapter(base, tmp_path / "adapter", resize=1026, r=4, target_modules=["q_proj"])
    copy_tokenizer(resized)
    tokenizer_config = json.loads((resized / "tokenizer_config.json").read_text())
    tokenizer_config["added_tokens_decoder"] = {
        str(1024 + index): {"content": f"<|new {index}|>", "special": True, "normalized": False} for index in range(2)
    } | tokenizer_config.get("added_tokens_decoder", {})
    (resized / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    convert.convert_one(convert.model_request(base, merge=resized), tmp_path / "ours.gguf", type="f32")
    theirs = peft_merged([(resized, 1)], base, tmp_path / "little-llama", resize=1026)
    shutil.copyfile(resized / "tokenizer_config.json", theirs / "tokenizer_config.json")
    convert.convert_one(theirs, tmp_path / "theirs.gguf", type="f32")
    metadata: dict[str, Any] = dict(read_gguf(tmp_path / "ours.gguf").metadata)
    assert metadata["llama.vocab_size"] == 1026
    assert metadata["tokenizer.ggml.tokens"][-2:] == (b"<|new 0|>", b"<|new 1|>")
    assert_as_converted(tmp_path / "ours.gguf", tmp_path / "theirs.gguf")


def test_a_tied_model_whose_embeddings_were_saved_gets_an_output_matrix(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", tie_word_embeddings=True)
    adapter = write_adapter(
        base, tmp_path / "adapter", r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    convert.convert_one(convert.model_request(base, merge=adapter), tmp_path / "ours.gguf", type="f32")
    convert.convert_one(peft_merged([(adapter, 1)], base, tmp_path / "peft" / "base"), tmp_path / "t.gguf", type="f32")
    assert_as_converted(tmp_path / "ours.gguf", tmp_path / "t.gguf")
    assert "output.weight" in values_of(tmp_path / "ours.gguf")


def test_experts_may_be_adapted_in_part(tmp_path: Path) -> None:
    """A stack of experts is of one type, though only some are merged."""
    base = write_base(tmp_path / "base", mixtral=True, num_local_experts=2)
    adapter = write_adapter(base, tmp_path / "adapter", r=2, target_modules=["q_proj"])
    tensors = _expert_factors(base, "model.layers.0.block_sparse_moe.experts.1.w1")
    _write(adapter, tensors, target_modules=["layers.0.block_sparse_moe.experts.1.w1"])
    convert.convert_one(convert.model_request(base, merge=adapter), tmp_path / "ours.gguf", type="f32")
    convert.convert_one(base, tmp_path / "plain.gguf", type="f32")
    ours, plain = values_of(tmp_path / "ours.gguf"), values_of(tmp_path / "plain.gguf")
    changed = [name for name, (_, values) in ours.items() if (values != plain[name][1]).any()]
    assert changed == ["blk.0.ffn_gate_exps.weight"]
    halves = [values.reshape(2, -1) for values in (ours[changed[0]][1], plain[changed[0]][1])]
    assert (halves[0][0] == halves[1][0]).all()


def test_fused_experts_are_merged_as_single_ones(tmp_path: Path) -> None:
    """A state dict of transformers 5 holds experts fused, files of `save_pretrained` one by one."""
    base = write_base(tmp_path / "base", mixtral=True, num_local_experts=2)
    parameters = ["experts.gate_up_proj", "experts.down_proj", "gate.weight"]
    adapter = write_adapter(base, tmp_path / "adapter", r=2, target_modules=["q_proj"], target_parameters=parameters)
    fused = Path(shutil.copytree(base, tmp_path / "fused" / "base"))
    with quiet():
        import torch

        (fused / "model.safetensors").unlink()
        state = load_base(base).half().state_dict()
        torch.save({name: tensor.contiguous() for name, tensor in state.items()}, fused / "pytorch_model.bin")
    for directory in (base, fused):
        convert.convert_one(convert.model_request(directory, merge=adapter), directory / "out.gguf", type="f32")
    ours, theirs = values_of(fused / "out.gguf"), values_of(base / "out.gguf")
    assert all((values == theirs[name][1]).all() for name, (_, values) in ours.items())
    assert ours.keys() == theirs.keys()


def _expert_factors(base: Path, module: str) -> dict[str, Any]:
    import torch

    rows, cols = open_checkpoint(base).tensors[f"{module}.weight"].shape
    prefix = f"base_model.model.{module}"
    return {f"{prefix}.lora_A.weight": torch.ones(2, cols), f"{prefix}.lora_B.weight": torch.ones(rows, 2)}


def _write(adapter: Path, tensors: dict[str, Any], **config: object) -> None:
    from peft_adapters import write_adapter_tensors

    write_adapter_tensors(adapter, tensors)
    change_config(adapter, **config)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"r": 5}, 5),
        ({"peft_type": "IA3"}, 4),
        ({"lora_alpha": None}, 3),
        ({"target_modules": "(a*)*"}, 3),
    ],
    ids=["does not fit", "another kind", "broken", "hostile"],
)
def test_an_adapter_that_cannot_be_merged_writes_nothing(
    changes: dict[str, object], code: int, base: Path, adapter: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    change_config(broken, **changes)
    result = run("all", base, tmp_path / "out", "--merge", broken)
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_an_adapter_whose_base_is_not_here_says_how_to_get_it(adapter: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    change_config(alone, base_model_name_or_path="no-such-org/no-such-model")
    result = run("all", alone, tmp_path / "out")
    assert result.returncode == 3
    assert "hf download no-such-org/no-such-model" in result.stderr
    assert f"--merge {alone}" in result.stderr


@pytest.mark.parametrize("weight", ["nan", "-inf"])
def test_a_weight_that_is_no_number_is_wrong_usage(weight: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    assert run("all", base, tmp_path / "out", "--merge", f"{adapter}:{weight}").returncode == 2


def test_a_merge_that_overflows_names_the_tensor(base: Path, adapter: Path, tmp_path: Path) -> None:
    result = run("gguf", base, tmp_path / "out.gguf", "--merge", f"{adapter}:1e10")
    assert result.returncode == 3
    assert "overflow" in result.stderr
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.shared
def test_an_nf4_base_gives_the_file_of_its_decoded_weights(shared_fixtures: Path, tmp_path: Path) -> None:
    """A QLoRA adapter is merged onto the weights that it was trained against, not onto the model they were made of."""
    packed = shared_fixtures / "stories260K-nf4"
    plain = as_plain(packed, tmp_path / "plain")
    shutil.copyfile(packed / "tokenizer.model", plain / "tokenizer.model")
    adapter = write_adapter(plain, tmp_path / "adapter", r=4, target_modules=ALL)
    for index, directory in enumerate((packed, plain)):
        result = run("gguf", directory, tmp_path / f"{index}.gguf", "--merge", adapter)
        assert result.returncode == 0, result.stderr
    ours, theirs = values_of(tmp_path / "0.gguf"), values_of(tmp_path / "1.gguf")
    assert list(ours) == list(theirs)
    assert all((values == theirs[name][1]).all() for name, (_, values) in ours.items())


@pytest.mark.shared
def test_an_adapter_for_another_family_is_refused_before_any_output(
    shared_fixtures: Path, base: Path, tmp_path: Path
) -> None:
    result = run("all", base, tmp_path / "out", "--merge", shared_fixtures / "lora-qwen2.5")
    assert result.returncode == 5
    assert "model.layers.0.self_attn.q_proj.lora_A.weight` has shape (8, 896)" in result.stderr
    assert "more" in result.stderr
    assert "Qwen/Qwen2.5-0.5B-Instruct" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_merge_imports_neither_torch_nor_peft(base: Path, adapter: Path, tmp_path: Path) -> None:
    program = (
        f"import convert, sys; convert.convert_one({str(adapter)!r}, {str(tmp_path / 'out.gguf')!r});"
        f" merged = convert.model_request({str(base)!r}, merge={str(adapter)!r});"
        f" convert.convert_one(merged, {str(tmp_path / 'out2.gguf')!r});"
        " print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert "convert" in loaded
    assert not loaded & {"torch", "transformers", "peft", "safetensors", "huggingface_hub", "bitsandbytes"}


@pytest.mark.parametrize("rank", [16, 4096])
def test_memory_stays_around_a_slice(rank: int, tmp_path: Path) -> None:
    """A weight of 128 MB and factors of up to 64 MB, read 256 rows at a time: a few slices of 4 MB."""
    width, rows = 4096, 16384
    name = "model.layers.0.self_attn.q_proj"
    shapes = {"model": (rows, width), "A": (rank, width), "B": (rows, rank)}
    sources = {}
    for part, shape in shapes.items():
        path = tmp_path / part
        with path.open("wb") as file:
            file.truncate(shape[0] * shape[1] * 2)
        sources[part] = TensorSource(f"{name}.weight", path, 0, StoredType.F16, shape)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    _write_sparse_adapter(adapter, name, rank, shapes)
    (tensor,) = merge_adapters({f"{name}.weight": sources["model"]}, [MergeRequest(adapter)]).tensors.values()
    out = np.zeros((256, width * 4), np.uint8)
    tracemalloc.start()
    try:
        with closing(SourceFiles()) as files:
            tensor.read_rows(files, 8192, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20


def _write_sparse_adapter(adapter: Path, module: str, rank: int, shapes: dict[str, tuple[int, int]]) -> None:
    header, end = {}, 0
    for part in ("A", "B"):
        nbytes = shapes[part][0] * shapes[part][1] * 2
        entry = {"dtype": "F16", "shape": shapes[part], "data_offsets": [end, end + nbytes]}
        header[f"base_model.model.{module}.lora_{part}.weight"] = entry
        end += nbytes
    text = json.dumps(header).encode()
    with (adapter / "adapter_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"]})
    )
