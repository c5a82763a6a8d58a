"""Adapters merged slice by slice, beside what peft merges them to, in float32."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from adapter_merging import ALL, ATTENTION, Q0, assert_as_peft, merged, saved_tensors
from packed_checkpoints import read_tensor, unpacked
from peft_adapters import (
    as_plain,
    copy_tokenizer,
    peft_merged,
    read_adapter_tensors,
    write_adapter,
    write_adapter_tensors,
    write_base,
)

from convert.adapter import MergeRequest, merge_adapters
from convert.checkpoint import SourceFiles, open_checkpoint
from convert.checkpoint.statistics import measured

if TYPE_CHECKING:
    from pathlib import Path

# name: (what LoraConfig is given, what the base is given)
KINDS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "lora": ({"r": 4, "target_modules": ALL}, {}),
    "all-linear": ({"r": 3, "lora_alpha": 7, "target_modules": "all-linear"}, {}),
    "regex": ({"r": 4, "target_modules": r"model\.layers\.[01]\.self_attn\.(q|v)_proj"}, {}),
    "excluded": ({"r": 4, "target_modules": ATTENTION, "exclude_modules": ["layers.1.self_attn.q_proj"]}, {}),
    "excluded-regex": ({"r": 4, "target_modules": ATTENTION, "exclude_modules": r".*\.1\..*k_proj"}, {}),
    "one-layer": ({"r": 4, "target_modules": ["q_proj"], "layers_to_transform": 1}, {}),
    "layers-pattern": (
        {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
        {},
    ),
    "rank-and-alpha-patterns": (
        {
            "r": 8,
            "lora_alpha": 16,
            "target_modules": ALL,
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 5, "^model.layers.0.self_attn.v_proj": 3},
            "alpha_pattern": {"k_proj": 32, r"model.layers.\d.mlp.down_proj": 3},
        },
        {},
    ),
    "rslora": ({"r": 9, "lora_alpha": 5, "target_modules": ALL, "use_rslora": True}, {}),
    "dora": ({"r": 4, "lora_alpha": 6, "target_modules": ALL, "use_dora": True}, {}),
    "dora-on-embeddings": (
        {"r": 4, "target_modules": ["embed_tokens", "lm_head", "q_proj"], "use_dora": True},
        {},
    ),
    "embeddings": ({"r": 4, "target_modules": ["embed_tokens", "lm_head"]}, {}),
    "bias-all": ({"r": 4, "target_modules": ["q_proj"], "bias": "all"}, {"attention_bias": True}),
    "bias-lora-only": ({"r": 4, "target_modules": ["q_proj"], "bias": "lora_only"}, {"attention_bias": True}),
    "lora-bias": ({"r": 4, "target_modules": ATTENTION, "lora_bias": True}, {"attention_bias": True}),
    "modules-to-save": (
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
        {},
    ),
    "fan-in-fan-out": ({"r": 4, "target_modules": ALL, "fan_in_fan_out": True}, {}),
    "trained-tokens": ({"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [5, 1, 1000]}, {}),
    "rank-above-width": ({"r": 100, "target_modules": ATTENTION}, {}),
    "orthogonal": ({"r": 4, "target_modules": ATTENTION, "init_lora_weights": "orthogonal"}, {}),
    "eva": ({"r": 4, "target_modules": ATTENTION, "init_lora_weights": "eva"}, {}),
    "mica": ({"r": 4, "target_modules": ATTENTION, "init_lora_weights": "mica"}, {}),
    "torch-file": ({"r": 4, "target_modules": ATTENTION, "safe_serialization": False}, {}),
    "tied-embeddings": ({"r": 4, "target_modules": ["embed_tokens"]}, {"tie_word_embeddings": True}),
    "tied-head": ({"r": 4, "target_modules": ["lm_head"]}, {"tie_word_embeddings": True}),
    "tied-head-dora": ({"r": 4, "target_modules": ["lm_head"], "use_dora": True}, {"tie_word_embeddings": True}),
    "tied-both": ({"r": 4, "target_modules": ["embed_tokens", "lm_head"]}, {"tie_word_embeddings": True}),
    "tied-and-kept-so": (
        {"r": 4, "target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
        {"tie_word_embeddings": True},
    ),
    "tied-saved-embeddings": (
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"tie_word_embeddings": True},
    ),
    "tied-saved-head": (
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"tie_word_embeddings": True},
    ),
    "tied-saved-both": (
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"tie_word_embeddings": True},
    ),
    "tied-trained-tokens": (
        {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [7, 2]},
        {"tie_word_embeddings": True},
    ),
    "mixtral": ({"r": 4, "target_modules": ["q_proj", "v_proj"]}, {"mixtral": True, "num_local_experts": 4}),
    "mixtral-fused": (
        {
            "r": 3,
            "lora_alpha": 5,
            "target_modules": ["q_proj"],
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj", "gate.weight"],
            "rank_pattern": {"experts.down_proj": 2},
        },
        {"mixtral": True, "num_local_experts": 4},
    ),
    "mixtral-one-fused": (
        {"r": 3, "target_modules": [], "target_parameters": ["mlp.experts.down_proj"]},
        {"mixtral": True, "num_local_experts": 3},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_merged_is_what_peft_merges(kind: str, tmp_path: Path) -> None:
    lora, base_options = KINDS[kind]
    base = write_base(tmp_path / "base", **base_options)
    adapter = write_adapter(base, tmp_path / "adapter", **lora)
    peft = saved_tensors(peft_merged([(adapter, 1)], base, tmp_path / "merged"))
    plain = saved_tensors(base)
    assert any(name not in plain or (values != plain[name]).any() for name, values in peft.items())
    # torch sums the thousand squares of an embedding's column in float32, we in float64.
    assert_as_peft(merged(base, adapter), peft, ulps=16 if kind == "dora-on-embeddings" else 2)


@pytest.mark.parametrize(
    "lora",
    [{"target_modules": ALL}, {"target_modules": ALL, "use_dora": True}, {"target_modules": ALL, "use_rslora": True}],
    ids=["lora", "dora", "rslora"],
)
def test_several_adapters_with_weights_are_merged_as_peft_does(lora: dict[str, Any], tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    first = write_adapter(base, tmp_path / "first", r=4, **lora)
    second = write_adapter(base, tmp_path / "second", r=6, seed=3, **lora)
    peft = saved_tensors(peft_merged([(first, 0.7), (second, -1.5)], base, tmp_path / "merged"))
    ours = merged(base, MergeRequest(first, 0.7), MergeRequest(second, -1.5))
    assert_as_peft(ours, peft, ulps=4)


def test_a_weight_of_nothing_leaves_the_base(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", r=4, target_modules=ALL)
    for name, values in saved_tensors(base).items():
        np.testing.assert_array_equal(read_tensor(merged(base, MergeRequest(adapter, 0.0)).tensors[name]), values)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("saved", [None, ["embed_tokens", "lm_head"]])
def test_a_resized_vocabulary_is_the_models(saved: list[str] | None, tied: bool, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", tie_word_embeddings=tied)
    lora: dict[str, Any] = {"r": 4, "target_modules": ["q_proj"], "modules_to_save": saved}
    adapter = write_adapter(base, tmp_path / "adapter", resize=1030, **lora)
    peft = saved_tensors(peft_merged([(adapter, 1)], base, tmp_path / "merged", resize=1030))
    ours = merged(base, adapter)
    assert (ours.vocab_size, ours.tokenizer) == (1030, None)
    assert any("from 1024 to 1030 tokens" in note for note in ours.notes)
    assert_as_peft(ours, peft)
    copy_tokenizer(adapter)
    assert merged(base, adapter).tokenizer == adapter


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_of_a_resized_vocabulary_the_embeddings_may_be_saved_twice(tied: bool, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", tie_word_embeddings=tied)
    adapter = write_adapter(
        base, tmp_path / "adapter", resize=1030, r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    ours = merged(base, adapter)
    peft = saved_tensors(peft_merged([(adapter, 1)], base, tmp_path / "merged", resize=1030))
    # peft itself draws the new rows of the untrained matrix anew; the file has those that the training saw.
    stored = read_adapter_tensors(adapter)
    untrained = "model.embed_tokens.weight" if tied else "lm_head.weight"
    peft["lm_head.weight"] = stored[f"base_model.model.{untrained}"].numpy()
    assert_as_peft(ours, peft)
    assert (ours.vocab_size, ours.unties) == (1030, tied)


@pytest.mark.parametrize(
    "kind", ["tied-embeddings", "tied-head", "tied-both", "tied-saved-embeddings", "tied-saved-head"]
)
def test_one_matrix_under_two_names_is_tied(kind: str, tmp_path: Path) -> None:
    """A torch file has both names of tied embeddings, and their bytes once."""
    import torch
    from safetensors.torch import load_file

    lora, config = KINDS[kind]
    base = write_base(tmp_path / "base", **config)
    adapter = write_adapter(base, tmp_path / "adapter", **lora)
    peft = saved_tensors(peft_merged([(adapter, 1)], base, tmp_path / "merged"))
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    (base / "model.safetensors").unlink()
    torch.save(tensors, base / "pytorch_model.bin")
    peft = {"lm_head.weight": peft["model.embed_tokens.weight"], **peft}  # which peft saves where it is another
    ours = merged(base, adapter)
    assert ours.unties == ("saved" in kind)
    assert [*ours.tensors] == [*open_checkpoint(base).tensors]
    for name, tensor in ours.tensors.items():
        np.testing.assert_allclose(read_tensor(tensor), peft[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", ["tied-embeddings", "tied-saved-embeddings", "tied-saved-head"])
def test_a_merge_tells_whether_it_unties(kind: str, tmp_path: Path) -> None:
    lora, base_options = KINDS[kind]
    base = write_base(tmp_path / "base", **base_options)
    ours = merged(base, write_adapter(base, tmp_path / "adapter", **lora))
    config = json.loads(
        (peft_merged([(tmp_path / "adapter", 1)], base, tmp_path / "merged") / "config.json").read_text()
    )
    assert ours.unties is not config["tie_word_embeddings"]


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_converted_pissa_or_olora_adapter_is_lora(start: str, tmp_path: Path) -> None:
    """Saved with the adapter it started from, peft writes the difference as an adapter of twice the rank."""
    from peft import LoraConfig, get_peft_model
    from peft_adapters import load_base, quiet

    base = write_base(tmp_path / "base", dtype="float32")
    with quiet():
        import torch

        config = LoraConfig(r=4, target_modules=ATTENTION, init_lora_weights=start, task_type="CAUSAL_LM")
        model = get_peft_model(load_base(base), config)
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(tmp_path / "start")
        model.peft_config["default"].init_lora_weights = start
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) / 8)
        model.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    adapter = tmp_path / "adapter"
    assert read_adapter_tensors(adapter)[f"{Q0}.lora_A.weight"].shape == (8, 64)
    assert_as_peft(merged(base, adapter), saved_tensors(peft_merged([(adapter, 1)], base, tmp_path / "merged")))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_adapter_of_half_precision_is_merged_in_float32(dtype: str, tmp_path: Path) -> None:
    import torch

    base = write_base(tmp_path / "base", dtype="bfloat16")
    adapter = write_adapter(base, tmp_path / "adapter", r=4, target_modules=ALL, use_dora=True)
    halved = {name: tensor.to(getattr(torch, dtype)) for name, tensor in read_adapter_tensors(adapter).items()}
    write_adapter_tensors(adapter, halved)
    assert_as_peft(merged(base, adapter), saved_tensors(peft_merged([(adapter, 1)], base, tmp_path / "merged")))


def test_a_small_merge_done_by_hand(tmp_path: Path) -> None:
    """The scaling is 3 / 2; B @ A = [[1*5, 1*6], [2*5, 2*6]] + [[3*7, 3*8], [4*7, 4*8]] = [[26, 30], [38, 44]]."""
    import torch
    from safetensors.torch import save_file

    (tmp_path / "adapter").mkdir()
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {"lora_A": [[5.0, 6.0], [7.0, 8.0]], "lora_B": [[1.0, 3.0], [2.0, 4.0]]}
    write_adapter_tensors(tmp_path / "adapter", {f"{prefix}.{k}.weight": torch.tensor(v) for k, v in factors.items()})
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q_proj"]}'
    )
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    (tensor,) = merged(tmp_path, MergeRequest(tmp_path / "adapter", 2)).tensors.values()
    assert read_tensor(tensor).tolist() == [[79.0, 91.0], [115.0, 133.0]]


@pytest.mark.shared
@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_an_nf4_base_is_merged_as_its_decoded_weights(use_dora: bool, shared_fixtures: Path, tmp_path: Path) -> None:
    packed = shared_fixtures / "stories260K-nf4"
    plain = as_plain(packed, tmp_path / "plain")
    adapter = write_adapter(plain, tmp_path / "adapter", r=4, target_modules=ALL, use_dora=use_dora)
    ours = merge_adapters(unpacked(packed), [MergeRequest(adapter)])
    assert_as_peft(ours, saved_tensors(peft_merged([(adapter, 1)], plain, tmp_path / "merged")))


def test_rows_are_read_from_several_threads(tmp_path: Path) -> None:
    """DoRA of embeddings, too, whose columns are measured before."""
    from concurrent.futures import ThreadPoolExecutor

    base = write_base(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", r=4, target_modules=["embed_tokens"], use_dora=True)
    tensor = merged(base, adapter).tensors["model.embed_tokens.weight"]
    out = np.zeros((1024, 64 * 4), np.uint8)
    with closing(SourceFiles()) as files, ThreadPoolExecutor(8) as pool:
        tensor = measured(tensor, files)
        list(pool.map(lambda first: tensor.read_rows(files, first, out[first : first + 32]), range(0, 1024, 32)))
    np.testing.assert_allclose(out.view("<f4"), read_tensor(tensor), rtol=0, atol=1e-6)
