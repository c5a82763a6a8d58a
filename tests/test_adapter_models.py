"""Adapters of other models and of other tools' spellings, beside what peft merges them to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from adapter_merging import ALL, assert_as_peft, merged, saved_tensors
from packed_checkpoints import read_tensor
from peft_adapters import (
    change_config,
    copy_tokenizer,
    peft_merged,
    read_adapter_tensors,
    write_adapter,
    write_adapter_tensors,
    write_base,
)

from convert.adapter import MergedTensor, is_adapter
from convert.adapter.adapter_files import open_adapter
from convert.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch


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


@pytest.mark.parametrize("file", ["adapter_model.bin", "pytorch_model.bin"])
def test_what_old_peft_and_old_trainers_left_is_read(file: str, tmp_path: Path) -> None:
    import torch

    base = write_base(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", r=4, target_modules=ALL)
    expected = {name: read_tensor(tensor) for name, tensor in merged(base, adapter).tensors.items()}
    tensors = read_adapter_tensors(adapter)
    tensors["base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    tensors["base_model.model.model.layers.0.self_attn.masked_bias"] = torch.ones(1, dtype=torch.int64)
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(tensors, adapter / file)
    assert is_adapter(adapter)
    assert open_adapter(adapter).notes == ("left out of the adapter: 2 buffers",)
    for name, tensor in merged(base, adapter).tensors.items():
        np.testing.assert_array_equal(read_tensor(tensor), expected[name])
