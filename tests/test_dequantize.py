"""`convert dequantize`: a directory that transformers loads, bit for bit what the producer's library dequantizes to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dequantize_checkpoints import PACKED, SMALL, assert_same_tensors, hashes, llama_config, load_all, write_packed
from packed_checkpoints import tiny_config, write_safetensors_checkpoint

import convert
from convert.errors import CheckpointError, Remedy, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PretrainedConfig


def _neox() -> PretrainedConfig:
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(**SMALL)


def _mixtral() -> PretrainedConfig:
    from transformers import MixtralConfig

    return MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4)


@pytest.fixture
def packed(packed_llama: Path, tmp_path: Path) -> Path:
    """Return a copy of the packed Llama that a test may change."""
    return Path(shutil.copytree(packed_llama, tmp_path / "llama-nf4"))


@pytest.mark.parametrize("kind", PACKED)
def test_transformers_loads_what_bitsandbytes_dequantizes_to(kind: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    expected = write_packed(tmp_path / "packed", kind, llama_config())
    convert.dequantize(tmp_path / "packed", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float16
    assert not hasattr(model.config, "quantization_config")
    assert_same_tensors(model.state_dict(), expected)
    assert torch.isfinite(model.float()(torch.tensor([[1, 2, 3]])).logits).all()


@pytest.mark.parametrize("make_config", [_neox, _mixtral])
def test_an_architecture_needs_no_table(make_config: Callable[[], PretrainedConfig], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    expected = write_packed(tmp_path / "packed", "nf4-dq", make_config())
    convert.dequantize(tmp_path / "packed", tmp_path / "out")
    assert_same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict(), expected)


def test_the_dequantized_directory_converts_to_the_same_gguf(packed: Path, tmp_path: Path) -> None:
    convert.dequantize(packed, tmp_path / "llama-nf4-out" / "llama-nf4")
    for name in ("README.md", "LICENSE.txt"):  # they go into the metadata
        shutil.copyfile(packed / name, tmp_path / "llama-nf4-out" / "llama-nf4" / name)
    convert.convert_all(packed, convert.OutputRequest(tmp_path / "one", types="f16,q4_0"))
    convert.convert_all(
        tmp_path / "llama-nf4-out" / "llama-nf4", convert.OutputRequest(tmp_path / "two", types="f16,q4_0")
    )
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


@pytest.mark.parametrize(("dtype", "name"), [("f16", "float16"), ("bf16", "bfloat16"), ("f32", "float32")])
def test_every_floating_tensor_has_the_dtype_asked_for(dtype: str, name: str, packed: Path, tmp_path: Path) -> None:
    import torch

    convert.dequantize(packed, convert.DequantizeRequest(tmp_path / "out", dtype=dtype))
    assert {value.dtype for value in load_all(tmp_path / "out").values()} == {getattr(torch, name)}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == name


def _state_dict() -> dict[str, torch.Tensor]:
    import torch

    torch.manual_seed(1)
    return {
        "a.weight": torch.randn(300, 70).to(torch.float16),
        "b.long_name.weight": torch.randn(64, 64).to(torch.float16),
        "position_ids": torch.arange(77)[None],
        "mask": torch.ones(3, 5, dtype=torch.bool),
        "small": torch.arange(7, dtype=torch.uint8),
        "scalar": torch.tensor(3.5, dtype=torch.float16),
        "count": torch.tensor(12, dtype=torch.int32),
        "empty": torch.empty(0, 8, dtype=torch.float16),
        "conv.weight": torch.randn(4, 3, 5, 5).to(torch.float16),
        "größe": torch.randn(5).to(torch.float16),
    }


@pytest.mark.parametrize("max_shard_size", ["5GB", "10KB", "1KB"])
def test_shards_and_index_are_byte_for_byte_huggingface_hubs(max_shard_size: str, tmp_path: Path) -> None:
    from huggingface_hub import save_torch_state_dict

    state_dict = dict(sorted(_state_dict().items()))
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), state_dict)
    convert.dequantize(tmp_path / "model", convert.DequantizeRequest(tmp_path / "out", max_shard_size=max_shard_size))
    (tmp_path / "theirs").mkdir()
    save_torch_state_dict(state_dict, tmp_path / "theirs", max_shard_size=max_shard_size)
    theirs = hashes(tmp_path / "theirs")
    index = theirs.pop("model.safetensors.index.json", None)
    assert {name: value for name, value in hashes(tmp_path / "out").items() if name in theirs} == theirs
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == sorted(theirs)
    assert (index is None) == (not (tmp_path / "out" / "model.safetensors.index.json").exists())
    if index is not None:
        ours, wanted = (
            json.loads((tmp_path / folder / "model.safetensors.index.json").read_text()) for folder in ("out", "theirs")
        )
        assert ours["weight_map"] == wanted["weight_map"]
        assert ours["metadata"]["total_size"] == wanted["metadata"]["total_size"]
        assert ours["metadata"]["total_parameters"] == sum(value.numel() for value in state_dict.values())


def test_integers_stay_and_doubles_are_narrowed(tmp_path: Path) -> None:
    import torch

    doubles = torch.tensor([[1 + 2**-11 + 2**-40, 1e-9, 3.0]], dtype=torch.float64)
    tensors = {"wide": doubles, "ids": torch.arange(3), "half": torch.ones(4, dtype=torch.float16)}
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), tensors)
    convert.dequantize(tmp_path / "model", convert.DequantizeRequest(tmp_path / "out", dtype="f16"))
    ours = load_all(tmp_path / "out")
    assert ours["ids"].dtype == torch.int64
    assert torch.equal(ours["wide"], doubles.to(torch.float16))


def test_float32_norms_follow_the_model(tmp_path: Path) -> None:
    import torch

    tensors = {"a.weight": torch.randn(64, 64).to(torch.bfloat16), "norm.weight": torch.randn(64)}
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), tensors)
    plan = convert.plan_dequantize(tmp_path / "model", tmp_path / "out")
    assert plan.dtype_name == "bfloat16"
    convert.dequantize(tmp_path / "model", tmp_path / "out")
    assert_same_tensors(load_all(tmp_path / "out"), {name: value.to(torch.bfloat16) for name, value in tensors.items()})


def test_a_name_that_safetensors_cannot_hold_is_an_error(tmp_path: Path) -> None:
    import torch

    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), {"a": torch.ones(4)})
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"a": torch.ones(4), "__metadata__": torch.ones(4)}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a tensor is called `__metadata__`, which safetensors cannot hold"):
        convert.dequantize(tmp_path / "model", tmp_path / "out")


def test_a_torch_checkpoint_with_tied_names_keeps_both(tmp_path: Path) -> None:
    import torch

    shared = torch.randn(8, 4).to(torch.bfloat16)
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), {"a": torch.ones(4)})
    (tmp_path / "model" / "model.safetensors").unlink()
    tensors = {"embed.weight": shared, "lm_head.weight": shared, "turned": torch.randn(5, 3).to(torch.bfloat16).T}
    torch.save(tensors, tmp_path / "model" / "pytorch_model.bin")
    convert.dequantize(tmp_path / "model", tmp_path / "out")
    assert_same_tensors(load_all(tmp_path / "out"), {name: value.contiguous() for name, value in tensors.items()})


def test_float8_that_was_only_cast_is_the_numbers_it_is(tmp_path: Path) -> None:
    import torch

    tensors = {"a.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "b.weight": torch.ones(4, 4)}
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), tensors)
    convert.dequantize(tmp_path / "model", tmp_path / "out")
    assert_same_tensors(load_all(tmp_path / "out"), {name: tensor.float() for name, tensor in tensors.items()})


def test_float8_with_scales_and_without_a_quantization_config_is_an_error(tmp_path: Path) -> None:
    import torch

    codes = torch.ones(4, 4).to(torch.float8_e4m3fn)
    tensors = {"a.weight": codes, "a.weight_scale": torch.ones(1), "b.weight": torch.ones(4, 4)}
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), tensors)
    with pytest.raises(convert.ConvertError, match=r"`a\.weight`|F8_E4M3|fp8") as error:
        convert.dequantize(tmp_path / "model", tmp_path / "out")
    assert error.value.exit_code in (3, 4)


def test_float16_overflow_names_the_place_and_the_dtype_that_keeps_it(tmp_path: Path) -> None:
    import torch

    value = torch.zeros(8, 8)
    value[3, 7] = 70000.0
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), {"a.weight": value})
    with pytest.raises(WeightsError) as error:
        convert.dequantize(tmp_path / "model", convert.DequantizeRequest(tmp_path / "out", dtype="f16"))
    expected = "tensor `a.weight` has 1 values beyond float16 (65504), the first is 70000 at [3, 7]"
    assert error.value.message == expected
    assert error.value.remedies == (Remedy.WIDER_FLOAT, Remedy.ALLOW_NONFINITE)
    convert.dequantize(
        tmp_path / "model",
        convert.DequantizeRequest(tmp_path / "out", dtype="f16"),
        convert.Writing(allow_nonfinite=True),
    )
    assert torch.isinf(load_all(tmp_path / "out")["a.weight"][3, 7])


@pytest.mark.filterwarnings("ignore")  # what peft and transformers say about each other
def test_an_adapter_is_merged_onto_what_it_was_trained_on(tmp_path: Path) -> None:
    """`--through nf4 --merge` is peft's merge into the model that bitsandbytes gave it."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    plain = AutoModelForCausalLM.from_config(llama_config(), dtype=torch.float16)
    plain.save_pretrained(tmp_path / "model")
    adapted = get_peft_model(plain, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    convert.dequantize(tmp_path / "model", convert.DequantizeRequest(tmp_path / "base", through="nf4", dtype="f16"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().state_dict()
    convert.dequantize(
        convert.model_request(tmp_path / "model", merge=tmp_path / "adapter"),
        convert.DequantizeRequest(tmp_path / "out", through="nf4"),
    )
    ours = load_all(tmp_path / "out")
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        assert value.dtype == torch.float16
        torch.testing.assert_close(value.float(), expected[name], rtol=2**-10, atol=2**-24)
    assert "Then the adapter `adapter` was merged" in (tmp_path / "out" / "README.md").read_text()
    adapter_config = tmp_path / "adapter" / "adapter_config.json"
    named = {**json.loads(adapter_config.read_text()), "base_model_name_or_path": "../model"}
    adapter_config.write_text(json.dumps(named))
    convert.dequantize(tmp_path / "adapter", convert.DequantizeRequest(tmp_path / "again" / "out", through="nf4"))
    assert hashes(tmp_path / "again" / "out") == hashes(tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_a_vocabulary_that_an_adapter_resized_goes_into_config_and_tokenizer(tiny_llama: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_tokens(["<one>", "<two>", "<three>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["v_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    convert.dequantize(convert.model_request(tiny_llama, merge=[tmp_path / "adapter"]), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.vocab_size == len(tokenizer)
    assert loaded.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<three>") == len(tokenizer) - 1
