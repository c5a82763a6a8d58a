"""Adapters that cannot be merged: a clear error for each config, tensor and directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from adapter_merging import Q0, merged
from packed_checkpoints import read_tensor
from peft_adapters import change_config, read_adapter_tensors, write_adapter, write_adapter_tensors, write_base

from convert.adapter import MergeRequest, is_adapter
from convert.adapter.adapter_files import open_adapter
from convert.adapter.patterns import bounded_time
from convert.checkpoint import open_checkpoint
from convert.errors import CheckpointError, ConvertError, PlanError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


@pytest.fixture(scope="module")
def plain_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def plain_adapter(plain_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lora: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    return write_adapter(plain_base, tmp_path_factory.mktemp("adapter") / "adapter", **lora)


@pytest.fixture
def adapter(plain_adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))


CONFIGS: Final[dict[str, tuple[dict[str, object], type[ConvertError], str]]] = {
    "ia3": ({"peft_type": "IA3"}, UnsupportedError, "kind `IA3`"),
    "loha": ({"peft_type": "LOHA"}, UnsupportedError, "kind `LOHA`"),
    "lokr": ({"peft_type": "LOKR"}, UnsupportedError, "kind `LOKR`"),
    "vera": ({"peft_type": "VERA"}, UnsupportedError, "kind `VERA`"),
    "oft": ({"peft_type": "OFT"}, UnsupportedError, "kind `OFT`"),
    "x-lora": ({"peft_type": "XLORA"}, UnsupportedError, "kind `XLORA`"),
    "adalora": ({"peft_type": "ADALORA"}, UnsupportedError, "kind `ADALORA`"),
    "prompt tuning": ({"peft_type": "PROMPT_TUNING"}, UnsupportedError, "kind `PROMPT_TUNING`"),
    "no kind": ({"peft_type": ...}, CheckpointError, "lacks `peft_type`"),
    "kind of a number": ({"peft_type": 3}, CheckpointError, "wanted a string"),
    "mlx": ({"fine_tune_type": "lora", "num_layers": 16}, UnsupportedError, "MLX"),
    "classification": ({"task_type": "SEQ_CLS"}, UnsupportedError, "`SEQ_CLS`, whose head"),
    "token classification": ({"task_type": "TOKEN_CLS"}, UnsupportedError, "`TOKEN_CLS`, whose head"),
    "sequence to sequence": ({"task_type": "SEQ_2_SEQ_LM"}, UnsupportedError, "SEQ_2_SEQ_LM"),
    "qa-lora": ({"use_qalora": True}, UnsupportedError, "QA-LoRA"),
    "bd-lora": ({"use_bdlora": {"nblocks": 2}}, UnsupportedError, "BD-LoRA"),
    "kasa": ({"kasa_config": {"beta": 1}}, UnsupportedError, "KaSA"),
    "alora": ({"alora_invocation_tokens": [1]}, UnsupportedError, "aLoRA"),
    "replicated layers": ({"layer_replication": [[0, 2], [1, 2]]}, UnsupportedError, "replicated layers"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, UnsupportedError, "what PiSSA left of the base"),
    "olora": ({"init_lora_weights": "olora"}, UnsupportedError, "what OLoRA left"),
    "loftq": ({"init_lora_weights": "loftq"}, UnsupportedError, "what LoftQ left"),
    "rank 0": ({"r": 0}, CheckpointError, "`r` in"),
    "rank absurd": ({"r": 10**9}, CheckpointError, "wanted a whole number from 1 to 65536"),
    "rank of text": ({"r": "8"}, CheckpointError, "`r` in"),
    "rank pattern": ({"rank_pattern": {"q_proj": -1}}, CheckpointError, "`q_proj` in `rank_pattern`"),
    "alpha text": ({"lora_alpha": "16"}, CheckpointError, "`lora_alpha` in"),
    "alpha huge": ({"lora_alpha": 1e300}, CheckpointError, "wanted a finite number"),
    "alpha pattern": ({"alpha_pattern": [1]}, CheckpointError, "`alpha_pattern` in"),
    "targets of numbers": ({"target_modules": [1, 2]}, CheckpointError, "wanted a list of strings"),
    "layers of text": ({"layers_to_transform": ["0"]}, CheckpointError, "wanted a list of whole numbers"),
    "flag of text": ({"use_dora": "yes"}, CheckpointError, "wanted true or false"),
    "tokens twice": ({"trainable_token_indices": [1, 1]}, CheckpointError, "each token id once"),
    "pattern invalid": ({"target_modules": "(q_proj"}, CheckpointError, "which is not one"),
    "pattern closes ours": ({"rank_pattern": {"q)|(v": 4}}, CheckpointError, "which is not one"),
    "pattern catastrophic": ({"target_modules": "(.*a)*b"}, CheckpointError, "repeats what itself repeats"),
    "rank of config": ({"r": 8}, PlanError, "has shape (4, 64), rank 8 and `model.layers.0.self_attn.q_proj.weight`"),
    "other targets": ({"target_modules": ["k_proj"]}, PlanError, "`target_modules` does not name it"),
    "missing factors": (
        {"target_modules": ["q_proj", "v_proj", "o_proj"]},
        PlanError,
        "`model.layers.0.self_attn.o_proj` is targeted, but the adapter has no factors for it",
    ),
    "magnitudes missing": ({"use_dora": True}, PlanError, "lacks its lora_magnitude_vector"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_cannot_be_merged_is_a_clear_error(case: str, plain_base: Path, adapter: Path) -> None:
    changes, kind, message = CONFIGS[case]
    change_config(adapter, **changes)
    with pytest.raises(kind) as caught:
        merged(plain_base, adapter)
    assert message in caught.value.message


def _renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[new] = tensors.pop(old)

    return change


def _copied(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[new] = tensors[old].clone()

    return change


def _shaped(name: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        import torch

        tensors[name] = torch.zeros(shape)

    return change


def _typed(tensors: dict[str, torch.Tensor]) -> None:
    import torch

    tensors[f"{Q0}.lora_A.weight"] = tensors[f"{Q0}.lora_A.weight"].to(torch.int8)


TENSORS: Final[dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], type[ConvertError], str]]] = {
    "A missing": (lambda tensors: tensors.pop(f"{Q0}.lora_A.weight"), PlanError, "q_proj` lacks its lora_A"),
    "B missing": (lambda tensors: tensors.pop(f"{Q0}.lora_B.weight"), PlanError, "q_proj` lacks its lora_B"),
    "B of other rows": (_shaped(f"{Q0}.lora_B.weight", 65, 4), PlanError, "has shape (65, 4)"),
    "A of other columns": (_shaped(f"{Q0}.lora_A.weight", 4, 63), PlanError, "has shape (4, 63)"),
    "A a vector": (_shaped(f"{Q0}.lora_A.weight", 4), PlanError, "has shape (4,)"),
    "A empty, as ZeRO-3 saves it": (_shaped(f"{Q0}.lora_A.weight", 0), PlanError, "has shape (0,)"),
    "A of integers": (_typed, CheckpointError, "is I8, wanted F32, F16 or BF16"),
    "same part twice": (
        _copied(f"{Q0}.lora_A.weight", f"{Q0}.lora_A.default.weight"),
        CheckpointError,
        "are the same part",
    ),
    "several adapters": (
        lambda tensors: [
            _renamed(f"{Q0}.lora_{x}.weight", f"{Q0}.lora_{x}.{name}.weight")(tensors)
            for x, name in (("A", "first"), ("B", "second"))
        ],
        CheckpointError,
        "several adapters: `first`, `second`",
    ),
    "module not in the base": (
        lambda tensors: [
            _renamed(f"{Q0}.lora_{x}.weight", f"{Q0.replace('.0.', '.7.')}.lora_{x}.weight")(tensors) for x in "AB"
        ],
        PlanError,
        "`base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight` has no",
    ),
    "whole tensor not in the base": (_shaped("base_model.model.score.weight", 2, 64), PlanError, "`score.weight`"),
    "whole tensor of other shape": (
        _shaped("base_model.model.model.norm.weight", 65),
        PlanError,
        "has shape (65,), the base's `model.norm.weight` has (64,)",
    ),
    "vocabulary in one place": (
        _shaped("base_model.model.model.embed_tokens.weight", 1030, 64),
        PlanError,
        "resized in one place only",
    ),
    "magnitude without DoRA": (
        _shaped(f"{Q0}.lora_magnitude_vector", 64),
        PlanError,
        "lora_magnitude_vector is not expected",
    ),
    "bias without lora_bias": (_shaped(f"{Q0}.lora_B.bias", 64), PlanError, "lora_B's bias is not expected"),
    "factors of another kind": (_shaped(f"{Q0}.lora_E.weight", 4), UnsupportedError, "is a `lora_E`"),
    "name escaping": (_shaped("../../etc/passwd", 2), PlanError, "`../../etc/passwd` has no"),
    "name with a terminal escape": (_shaped("\x1b[2Jx", 2), PlanError, r"`\x1b[2Jx`"),
    "trained tokens that are not listed": (
        _shaped("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", 2, 64),
        PlanError,
        "`trainable_token_indices` does not list",
    ),
    "endless name": (
        lambda tensors: [
            _renamed(f"{Q0}.lora_{x}.weight", f"base_model.model.{'a.' * 5000}q_proj.lora_{x}.weight")(tensors)
            for x in "AB"
        ],
        PlanError,
        "has no",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_are_a_clear_error(case: str, plain_base: Path, adapter: Path) -> None:
    change, kind, message = TENSORS[case]
    tensors = read_adapter_tensors(adapter)
    change(tensors)
    write_adapter_tensors(adapter, tensors)
    with pytest.raises(kind) as caught:
        merged(plain_base, adapter)
    assert message in caught.value.message


def test_everything_that_does_not_match_is_listed_at_once(plain_base: Path, adapter: Path) -> None:
    write_adapter_tensors(
        adapter, {name.replace("q_proj", "qkv"): t for name, t in read_adapter_tensors(adapter).items()}
    )
    with pytest.raises(PlanError) as caught:
        merged(plain_base, adapter)
    for layer in (0, 1):
        assert f"`model.layers.{layer}.self_attn.qkv.weight` in the base" in caught.value.message
        assert f"`model.layers.{layer}.self_attn.q_proj` is targeted" in caught.value.message
    assert str(plain_base) in (caught.value.hint or "")


def test_two_adapters_cannot_replace_one_tensor(plain_base: Path, adapter: Path, tmp_path: Path) -> None:
    _shaped_in(adapter, "base_model.model.model.norm.weight", 64)
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    with pytest.raises(PlanError, match=r"`model\.norm\.weight` is also replaced whole by"):
        merged(plain_base, adapter, other)


def test_one_adapter_cannot_change_what_another_replaces(plain_base: Path, adapter: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    _shaped_in(other, "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight", 64, 64)
    with pytest.raises(PlanError, match="is also replaced whole by"):
        merged(plain_base, adapter, other)


def _shaped_in(adapter: Path, name: str, *shape: int) -> None:
    tensors = read_adapter_tensors(adapter)
    _shaped(name, *shape)(tensors)
    write_adapter_tensors(adapter, tensors)


def test_whole_tensors_have_no_weight_and_the_plan_says_so(plain_base: Path, adapter: Path) -> None:
    _shaped_in(adapter, "base_model.model.model.norm.weight", 64)
    ours = merged(plain_base, MergeRequest(adapter, 0.5))
    assert not read_tensor(ours.tensors["model.norm.weight"]).any()
    assert any("whole tensors are taken as they are" in note for note in ours.notes)


def test_a_directory_without_weights_or_config_says_what_it_has(plain_base: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"neither adapter_model\.safetensors nor adapter_model\.bin"):
        merged(plain_base, adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="without its rank and alpha"):
        merged(plain_base, adapter)


def test_empty_tensors_are_told_to_come_from_zero3(plain_base: Path, adapter: Path) -> None:
    import torch

    write_adapter_tensors(adapter, dict.fromkeys(read_adapter_tensors(adapter), torch.zeros(0)))
    with pytest.raises(CheckpointError, match=r"every tensor of the adapter .* is empty") as caught:
        merged(plain_base, adapter)
    assert "DeepSpeed ZeRO-3" in (caught.value.hint or "")


def test_adapters_in_a_directory_are_listed(plain_base: Path, adapter: Path, tmp_path: Path) -> None:
    for name in ("train", "reference"):  # as peft saves several adapters of one model
        shutil.copytree(adapter, tmp_path / "run" / name)
    says = r"has adapters in it: `reference`, `train`"
    with pytest.raises(CheckpointError, match=says) as caught:
        merged(plain_base, tmp_path / "run")
    assert caught.value.hint == "name one of them"
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(tmp_path / "run")


def test_what_a_trainer_saves_beside_an_adapter_is_no_model(adapter: Path) -> None:
    for name in ("optimizer.pt", "rng_state.pth", "training_args.bin", "pytorch_model_fsdp.bin"):
        (adapter / name).write_bytes(b"")
    assert is_adapter(adapter)
    (adapter / "pytorch_model.bin").write_bytes(b"")
    assert not is_adapter(adapter)


def test_an_adapter_of_mlx_is_named(plain_base: Path, tmp_path: Path) -> None:
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    (tmp_path / "adapter_config.json").write_text('{"fine_tune_type": "lora", "num_layers": 16}')
    assert is_adapter(tmp_path)
    with pytest.raises(UnsupportedError, match="MLX"):
        merged(plain_base, tmp_path)


def test_weights_that_are_a_link_out_of_the_adapter_are_its_owners(
    plain_base: Path, adapter: Path, tmp_path: Path
) -> None:
    (adapter / "adapter_model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (adapter / "adapter_model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    assert merged(plain_base, adapter).tensors
    assert "follows links out of the directory" in open_adapter(adapter).notes[0]


def test_a_path_that_is_not_there_is_no_adapter(plain_base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        merged(plain_base, tmp_path / "nowhere")


def test_all_matching_together_has_a_limit(plain_base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.adapter.fit.bounded_time", lambda: bounded_time(-1.0))
    change_config(adapter, rank_pattern={"nothing": 4})
    with pytest.raises(CheckpointError, match="takes too long"):
        merged(plain_base, adapter)


def test_a_base_that_is_not_of_floats_is_told(plain_base: Path, adapter: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(plain_base / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(64, 64, dtype=torch.int8)
    (tmp_path / "base").mkdir()
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    with pytest.raises(PlanError, match="is stored as I8"):
        merged(tmp_path / "base", adapter)
