"""Adapters merged slice by slice, beside what peft merges them to, in float32."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from packed_checkpoints import read_tensor, unpacked
from peft_adapters import (
    as_plain,
    change_config,
    copy_tokenizer,
    peft_merged,
    read_adapter_tensors,
    write_adapter,
    write_adapter_tensors,
    write_base,
)

from convert.adapter import MergedTensor, MergeRequest, find_base, is_adapter, merge_adapters, parse_merge
from convert.adapter.patterns import bounded_time, full_match, pattern_for
from convert.checkpoint import SourceFiles, open_checkpoint
from convert.checkpoint.statistics import measured
from convert.errors import CheckpointError, ConvertError, PlanError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from numpy.typing import NDArray

    from convert.adapter import MergedTensors

Q0: Final = "base_model.model.model.layers.0.self_attn.q_proj"
ATTENTION: Final = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL: Final = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]

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


def merged(base: Path, *adapters: Path | MergeRequest) -> MergedTensors:
    requests = [adapter if isinstance(adapter, MergeRequest) else MergeRequest(adapter) for adapter in adapters]
    return merge_adapters(open_checkpoint(base).tensors, requests)


def saved_tensors(directory: Path) -> dict[str, NDArray[np.float32]]:
    return {name: read_tensor(source) for name, source in open_checkpoint(directory).tensors.items()}


def assert_as_peft(ours: MergedTensors, peft: Mapping[str, NDArray[np.float32]], *, ulps: int = 2) -> None:
    """Compare all tensors by name; merged ones within some units of float32 of the tensor's largest value."""
    assert list(ours.tensors) == sorted(peft)
    for name, tensor in ours.tensors.items():
        assert tensor.shape == peft[name].shape, name
        for rows_at_a_time in (None, 7):
            values = read_tensor(tensor, rows_at_a_time=rows_at_a_time)
            unit = np.spacing(np.abs(peft[name]).max())
            bound = ulps * unit if isinstance(tensor, MergedTensor) else 0
            worst = np.abs(values.astype(np.float64) - peft[name]).max()
            assert worst <= bound, f"{name}: {worst / unit} units"


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


def _older_names(name: str) -> str:
    return name.replace(".weight", ".default.weight").replace("_vector", "_vector.default.weight")


@pytest.mark.parametrize(
    "rename",
    [
        _older_names,
        lambda name: name.replace("base_model.model.", "", 1),
        lambda name: name.replace("base_model.model.", "base_model.", 1),
        lambda name: f"module.{name}",
        lambda name: name.replace("layers.", "layers._orig_mod."),
        lambda name: name.replace("base_model.model.model.", "base_model.model.", 1),
    ],
    ids=["adapter-name", "no-prefix", "short-prefix", "data-parallel", "compiled", "bare-model"],
)
def test_older_and_other_spellings_of_names_are_read(rename: Callable[[str], str], tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", r=4, target_modules=ALL, use_dora=True)
    expected = {name: read_tensor(tensor) for name, tensor in merged(base, adapter).tensors.items()}
    write_adapter_tensors(adapter, {rename(name): tensor for name, tensor in read_adapter_tensors(adapter).items()})
    for name, tensor in merged(base, adapter).tensors.items():
        np.testing.assert_array_equal(read_tensor(tensor), expected[name])


def test_experts_of_transformers_4_are_merged_as_peft_does(tmp_path: Path) -> None:
    """An adapter from when Mixtral's experts were modules of their own; peft fuses its factors."""
    import torch

    base = write_base(tmp_path / "base", mixtral=True, num_local_experts=2)
    adapter = write_adapter(base, tmp_path / "adapter", r=3, target_modules=["q_proj"])
    change_config(adapter, target_modules=["w1", "w2", "w3"], target_parameters=None)
    torch.manual_seed(4)
    tensors: dict[str, torch.Tensor] = {}
    for name, source in open_checkpoint(base).tensors.items():
        if ".experts." in name:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(3, source.shape[1]) / 8
            tensors[f"{module}.lora_B.weight"] = torch.randn(source.shape[0], 3) / 8
    write_adapter_tensors(adapter, tensors)
    assert_as_peft(merged(base, adapter), saved_tensors(peft_merged([(adapter, 1)], base, tmp_path / "merged")))


def test_a_transposed_layer_is_merged_as_peft_does(tmp_path: Path) -> None:
    """GPT-2's Conv1D stores (in, out)."""
    import torch
    from peft import PeftModel
    from peft_adapters import quiet
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    with quiet():
        torch.manual_seed(5)
        config = GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=2)
        GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
        options: dict[str, Any] = {"r": 4, "target_modules": ["c_attn", "mlp.c_proj", "attn.c_proj"]}
        for use_dora in (False, True):
            adapter = write_adapter(tmp_path / "base", tmp_path / f"{use_dora}", use_dora=use_dora, **options)
            model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
            peft = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
            ours = merged(tmp_path / "base", adapter).tensors
            assert sum(isinstance(tensor, MergedTensor) for tensor in ours.values()) == 3
            for name, tensor in ours.items():
                np.testing.assert_allclose(read_tensor(tensor), peft[name].numpy(), rtol=0, atol=1e-6, err_msg=name)


def _merged_by_peft(adapter: Path, base: Path, kind: str) -> Mapping[str, torch.Tensor]:
    """Let peft merge into a model that `load_base` does not load, and give the tensors by the names in files."""
    import torch
    import transformers
    from peft import PeftModel
    from peft_adapters import quiet
    from safetensors.torch import load_file

    with quiet():
        model = getattr(transformers, kind).from_pretrained(base, dtype=torch.float32)
        PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(adapter / "merged")
    saved: dict[str, torch.Tensor] = load_file(adapter / "merged" / "model.safetensors")
    return saved


def _save_with_adapter(base: Path, adapter: Path, kind: str, config: object, **lora: object) -> None:
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model
    from peft_adapters import quiet

    with quiet():
        torch.manual_seed(6)
        getattr(transformers, kind)(config).save_pretrained(base)
        model = getattr(transformers, kind).from_pretrained(base)
        options: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 4, "init_lora_weights": False, **lora}
        get_peft_model(model, LoraConfig(**options)).save_pretrained(adapter)


@pytest.mark.parametrize("kind", ["Gemma3", "Llava", "Qwen2_5_VL"])
def test_models_that_see_have_other_names_in_their_files(kind: str, tmp_path: Path) -> None:
    """Adapters call modules as transformers does since 4.52; files keep their names of before."""
    import transformers

    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 64, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, **size}
    image = {"image_size": 28, "patch_size": 14, **size}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    options: dict[str, dict[str, Any]] = {
        "Gemma3": {"text_config": text, "vision_config": image},
        "Llava": {
            "text_config": {"model_type": "llama", **text},
            "vision_config": {"model_type": "clip_vision_model", "projection_dim": 32, **image},
        },
        "Qwen2_5_VL": {
            "text_config": {**text, "rope_parameters": rope},
            "vision_config": {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 32},
        },
    }
    config = getattr(transformers, f"{kind}Config")(**options[kind])
    name = f"{kind}ForConditionalGeneration"
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    targets = r".*language_model.*(q_proj|down_proj)|lm_head"
    _save_with_adapter(base, adapter, name, config, target_modules=targets)
    expected = _merged_by_peft(adapter, base, name)
    ours = merged(base, adapter).tensors
    assert sum(isinstance(tensor, MergedTensor) for tensor in ours.values()) == 3
    for name, tensor in ours.items():
        np.testing.assert_allclose(read_tensor(tensor), expected[name].numpy(), rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("kind", "targets"), [("GPT2", "c_attn"), ("Bloom", "query_key_value")])
def test_files_may_lack_the_models_prefix(kind: str, targets: str, tmp_path: Path) -> None:
    """GPT-2 and BLOOM as they were published: `h.0.…`, not `transformer.h.0.…`."""
    import transformers
    from safetensors.torch import load_file, save_file

    config = getattr(transformers, f"{kind}Config")(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)
    name = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    _save_with_adapter(base, adapter, name, config, target_modules=[targets])
    expected = _merged_by_peft(adapter, base, name)
    stored = load_file(base / "model.safetensors")
    short = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    save_file(short, base / "model.safetensors", metadata={"format": "pt"})
    for name, tensor in merged(base, adapter).tensors.items():
        wanted = expected[f"transformer.{name}"].numpy()
        np.testing.assert_allclose(read_tensor(tensor), wanted, rtol=0, atol=1e-6, err_msg=name)


def test_fused_experts_of_other_families_are_merged_as_peft_does(tmp_path: Path) -> None:
    """From the names of experts' projections peft makes `target_parameters`; the file has one expert beside another."""
    from transformers import Qwen3MoeConfig

    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        head_dim=16,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=3,
        num_experts_per_tok=2,
    )
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    targets = ["q_proj", "gate_proj", "up_proj", "down_proj"]
    _save_with_adapter(base, adapter, "Qwen3MoeForCausalLM", config, target_modules=targets)
    expected = _merged_by_peft(adapter, base, "Qwen3MoeForCausalLM")
    ours = merged(base, adapter).tensors
    assert sum(isinstance(tensor, MergedTensor) for tensor in ours.values()) == 1 + 3 * 3
    for name, tensor in ours.items():
        np.testing.assert_allclose(read_tensor(tensor), expected[name].numpy(), rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.shared
def test_the_real_adapter_is_merged_as_peft_does(shared_fixtures: Path, tmp_path: Path) -> None:
    """For Qwen2.5-0.5B: its attention's shapes, a small vocabulary, three of its 24 layers."""
    with_layers = _qwen2(tmp_path / "base", n_layers=24)
    ours = merged(with_layers, shared_fixtures / "lora-qwen2.5").tensors
    assert sum(isinstance(tensor, MergedTensor) for tensor in ours.values()) == 48
    peft = saved_tensors(peft_merged([(shared_fixtures / "lora-qwen2.5", 1)], with_layers, tmp_path / "merged"))
    for layer in (0, 11, 23):
        for part in ("q_proj", "v_proj"):
            name = f"model.layers.{layer}.self_attn.{part}.weight"
            values = read_tensor(ours[name], rows_at_a_time=100)
            assert np.abs(values - peft[name]).max() <= 2 * np.spacing(np.abs(peft[name]).max())
            assert (values != read_tensor(open_checkpoint(with_layers).tensors[name])).any()


def _qwen2(directory: Path, *, n_layers: int) -> Path:
    from peft_adapters import quiet

    with quiet():
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        torch.manual_seed(6)
        config = Qwen2Config(
            vocab_size=128,
            hidden_size=896,
            intermediate_size=32,
            num_hidden_layers=n_layers,
            num_attention_heads=14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    copy_tokenizer(directory)
    return directory


# --- Packed bases


@pytest.mark.shared
@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_an_nf4_base_is_merged_as_its_decoded_weights(use_dora: bool, shared_fixtures: Path, tmp_path: Path) -> None:
    packed = shared_fixtures / "stories260K-nf4"
    plain = as_plain(packed, tmp_path / "plain")
    adapter = write_adapter(plain, tmp_path / "adapter", r=4, target_modules=ALL, use_dora=use_dora)
    ours = merge_adapters(unpacked(packed), [MergeRequest(adapter)])
    assert_as_peft(ours, saved_tensors(peft_merged([(adapter, 1)], plain, tmp_path / "merged")))


# --- What cannot be merged


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
    "rank pattern": ({"rank_pattern": {"q_proj": -1}}, CheckpointError, "`rank_pattern.q_proj`"),
    "alpha text": ({"lora_alpha": "16"}, CheckpointError, "`lora_alpha` in"),
    "alpha huge": ({"lora_alpha": 1e300}, CheckpointError, "wanted a number that float32 holds"),
    "alpha pattern": ({"alpha_pattern": [1]}, CheckpointError, "`alpha_pattern` in"),
    "targets of numbers": ({"target_modules": [1, 2]}, CheckpointError, "wanted a list of names"),
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


def test_weights_that_are_a_link_out_of_the_adapter_are_refused(
    plain_base: Path, adapter: Path, tmp_path: Path
) -> None:
    (adapter / "adapter_model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (adapter / "adapter_model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="link out of the checkpoint"):
        merged(plain_base, adapter)


def test_a_path_that_is_not_there_is_no_adapter(plain_base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        merged(plain_base, tmp_path / "nowhere")


# --- Requests, patterns, bases


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("adapter", "adapter", 1.0),
        ("adapter:0.7", "adapter", 0.7),
        ("./a/b:-1e-1", "a/b", -0.1),
        ("a:b", "a:b", 1.0),
        ("a:b:2", "a:b", 2.0),
        (":0.5", ":0.5", 1.0),
    ],
)
def test_a_number_after_the_last_colon_is_a_weight(text: str, path: str, weight: float) -> None:
    assert parse_merge(text) == MergeRequest(Path(path), weight)


def test_a_directory_of_that_very_name_is_meant(tmp_path: Path) -> None:
    (tmp_path / "run:7").mkdir()
    assert parse_merge(f"{tmp_path}/run:7") == MergeRequest(tmp_path / "run:7")
    assert parse_merge(f"{tmp_path}/run:7:0.5") == MergeRequest(tmp_path / "run:7", 0.5)


@pytest.mark.parametrize("weight", ["nan", "inf", "1e39"])
def test_a_weight_that_is_not_finite_is_wrong_usage(weight: str) -> None:
    with pytest.raises(UsageError, match="is not a finite number"):
        parse_merge(f"adapter:{weight}")


CATASTROPHIC: Final = (
    "(a+)+$",
    "(a|a)*b",
    "((a?){20})*b",
    "(.*)*x",
    "(?:a*){9}b",
    ".*.*.*.*.*.*.*.*x",
    "a?" * 30 + "a" * 30,
    "[ab]*[ab]*[ab]*[ab]*[ab]*[ab]*c",
    "(" * 3000,
    "a" * 5000,
)


@pytest.mark.parametrize("pattern", CATASTROPHIC, ids=lambda pattern: pattern[:20])
def test_a_pattern_that_could_take_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match=r"has (the|a) pattern"):
        full_match(pattern, "a" * 60, where="`target_modules`")


# As unsloth writes it.
UNSLOTH: Final = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj)))"
)


def test_the_patterns_in_use_are_read() -> None:
    assert full_match(UNSLOTH, "model.layers.12.mlp.up_proj", where="here")
    assert not full_match(UNSLOTH, "model.layers.12.mlp.norm", where="here")
    assert pattern_for([r"layers\.(1|2)\.mlp\..*_proj", "up_proj"], "model.layers.3.mlp.up_proj", where="") == "up_proj"


def test_the_base_is_where_the_adapter_says(plain_base: Path, adapter: Path, tmp_path: Path) -> None:
    assert is_adapter(adapter)
    assert not is_adapter(plain_base)
    assert find_base(adapter)[0] == plain_base
    shutil.copytree(plain_base, tmp_path / "other")
    change_config(adapter, base_model_name_or_path="../other")
    path, notes = find_base(adapter)
    assert path == tmp_path / "other"
    assert notes == (f"the base of `adapter` is `{path}`",)


def test_a_link_on_the_way_to_the_base_is_followed(plain_base: Path, adapter: Path, tmp_path: Path) -> None:
    """`..` after a link is above where the link leads."""
    inner = tmp_path / "elsewhere" / "inner"
    inner.mkdir(parents=True)
    shutil.copytree(plain_base, tmp_path / "elsewhere" / "model")
    (adapter / "link").symlink_to(inner)
    change_config(adapter, base_model_name_or_path="link/../model")
    assert find_base(adapter)[0].samefile(tmp_path / "elsewhere" / "model")


def test_an_adapter_beside_a_config_is_one_and_so_is_its_file(plain_base: Path, adapter: Path) -> None:
    """Some trainers leave the base's config.json there."""
    shutil.copyfile(plain_base / "config.json", adapter / "config.json")
    assert is_adapter(adapter)
    file = adapter / "adapter_model.safetensors"
    assert is_adapter(file)
    assert find_base(file)[0] == plain_base
    assert merged(plain_base, file).notes == merged(plain_base, adapter).notes


def test_an_adapter_of_an_adapter_is_told_to_give_both(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "second")
    change_config(adapter, base_model_name_or_path="../second")
    with pytest.raises(CheckpointError, match="is an adapter itself"):
        find_base(adapter)


def test_the_base_is_looked_for_from_here(
    plain_base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "org").mkdir(parents=True)
    shutil.copytree(plain_base, tmp_path / "here" / "org" / "name")
    change_config(adapter, base_model_name_or_path="org/name")
    monkeypatch.chdir(tmp_path / "here")
    assert find_base(adapter)[0].samefile(tmp_path / "here" / "org" / "name")


def test_the_base_is_found_in_the_hubs_cache(
    plain_base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    for revision in ("0" * 40, "1" * 40):
        shutil.copytree(plain_base, repository / "snapshots" / revision)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "refs" / "v2").write_text("1" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    change_config(adapter, base_model_name_or_path="org/name")
    assert find_base(adapter)[0] == repository / "snapshots" / ("0" * 40)
    change_config(adapter, revision="v2")
    path, notes = find_base(adapter)
    assert path == repository / "snapshots" / ("1" * 40)
    assert "`org/name` at `v2`, from the Hub's cache" in notes[0]


@pytest.mark.parametrize(
    ("base", "message", "hint"),
    [
        ("org/name", "is not on this machine", "hf download org/name"),
        (None, "names no base model", "--merge"),
        ("", "names no base model", "--merge"),
        ("/nowhere/at/all", "is not on this machine", "--merge"),
        ("../..", "is not on this machine", "--merge"),
        ("a\0b", "is not on this machine", "--merge"),
        ("x" * 5000, "is not on this machine", "--merge"),
    ],
)
def test_a_base_that_is_not_there_is_told_how_to_get(
    base: str | None, message: str, hint: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    change_config(adapter, base_model_name_or_path=base)
    with pytest.raises(CheckpointError, match=message) as caught:
        find_base(adapter)
    assert hint in (caught.value.hint or "")


def test_all_matching_together_has_a_limit(plain_base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.adapter.fit.bounded_time", lambda: bounded_time(-1.0))
    change_config(adapter, rank_pattern={"nothing": 4})
    with pytest.raises(CheckpointError, match="takes too long"):
        merged(plain_base, adapter)


def test_factors_saved_as_transposes_are_read(tmp_path: Path) -> None:
    import torch

    base = write_base(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", r=4, target_modules=[*ALL, "embed_tokens"])
    expected = {name: read_tensor(tensor) for name, tensor in merged(base, adapter).tensors.items()}
    tensors = read_adapter_tensors(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    strided = {name: tensor.t().contiguous().t() if "lora" in name else tensor for name, tensor in tensors.items()}
    torch.save(strided, adapter / "adapter_model.bin")
    for name, tensor in merged(base, adapter).tensors.items():
        np.testing.assert_allclose(read_tensor(tensor), expected[name], rtol=0, atol=1e-7)


def test_a_base_that_is_not_of_floats_is_told(plain_base: Path, adapter: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(plain_base / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(64, 64, dtype=torch.int8)
    (tmp_path / "base").mkdir()
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    with pytest.raises(PlanError, match="is stored as I8"):
        merged(tmp_path / "base", adapter)


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
