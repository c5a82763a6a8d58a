"""Adapters as peft saves them, on small seeded bases, and what peft itself merges them to.

    base = write_base(tmp_path / "base", tie_word_embeddings=True)
    adapter = write_adapter(base, tmp_path / "adapter", r=4, target_modules=["q_proj"], use_dora=True)
    merged = peft_merged([(adapter, 0.7)], base, tmp_path / "merged")       # a directory, saved in float32

Every trained number is random and not zero, biases and whole modules too.
"""

from __future__ import annotations

import json
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from packed_checkpoints import read_tensor, unpacked, write_safetensors_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

TINY_LLAMA: Final = Path(__file__).parent / "data" / "tiny-llama"
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
VOCABULARY: Final = 1024  # tiny-llama's

SMALL: Final = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@contextmanager
def quiet() -> Iterator[None]:
    """Let peft and transformers warn: what they warn of is what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_base(directory: Path, *, dtype: str = "float16", mixtral: bool = False, **config: object) -> Path:
    """Write a seeded base as transformers saves it, with tiny-llama's tokenizer; its weights are exact in `dtype`."""
    with quiet():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

        torch.manual_seed(1)
        chosen = {**SMALL, "tie_word_embeddings": False, **config}
        model = MixtralForCausalLM(MixtralConfig(**chosen)) if mixtral else LlamaForCausalLM(LlamaConfig(**chosen))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.05)
        model.to(getattr(torch, dtype)).save_pretrained(directory)
    copy_tokenizer(directory)
    return directory


def copy_tokenizer(directory: Path) -> None:
    for name in TOKENIZER_FILES:
        shutil.copyfile(TINY_LLAMA / name, directory / name)


def as_plain(packed: Path, directory: Path) -> Path:
    """Write what a packed checkpoint decodes to, in float32, as a plain one: the weights that a QLoRA adapter saw."""
    import torch

    config = json.loads((packed / "config.json").read_text())
    config = {key: value for key, value in config.items() if key != "quantization_config"} | {"dtype": "float32"}
    tensors = {name: torch.from_numpy(read_tensor(tensor)) for name, tensor in unpacked(packed).items()}
    return write_safetensors_checkpoint(directory, config, tensors)


def load_base(base: Path, *, resize: int | None = None) -> Any:  # noqa: ANN401 - transformers publishes no types
    """Load a base in float32, its vocabulary resized if asked for."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if resize is not None:
        model.resize_token_embeddings(resize, mean_resizing=False)
    return model


def write_adapter(base: Path, directory: Path, *, resize: int | None = None, seed: int = 2, **lora: object) -> Path:
    """Let peft make an adapter for a base, give every trained number a random value, and let peft save it."""
    safe = bool(lora.pop("safe_serialization", True))
    with quiet():
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        model = load_base(base, resize=resize)
        model.config._name_or_path = str(base)
        wrapped = get_peft_model(model, LoraConfig(**{"task_type": "CAUSAL_LM", **lora}))
        if resize is not None:
            _randomize([model.get_input_embeddings().weight])
        _randomize([parameter for parameter in wrapped.parameters() if parameter.requires_grad])
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "magnitude" in name:
                    parameter.abs_().add_(0.5)
        wrapped.save_pretrained(directory, safe_serialization=safe)
    return directory


def _randomize(parameters: Sequence[torch.Tensor]) -> None:
    import torch

    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.1)


def peft_merged(
    adapters: Sequence[tuple[Path, float]], base: Path, directory: Path, *, resize: int | None = None
) -> Path:
    """Merge adapters, each with a weight, with peft in float32, and save the model with the base's tokenizer."""
    with quiet():
        from peft import PeftModel

        names = [f"adapter{index}" for index in range(len(adapters))]
        model: Any = load_base(base, resize=resize)
        for name, (path, _) in zip(names, adapters, strict=True):
            model = (
                PeftModel.from_pretrained(model, path, adapter_name=name)
                if name == names[0]
                else _load(model, path, name)
            )
        for name, (_, weight) in zip(names, adapters, strict=True):
            for module in model.modules():
                if hasattr(module, "set_scale") and weight != 1:
                    module.set_scale(name, weight)
        model.merge_and_unload(adapter_names=names).save_pretrained(directory)
    copy_tokenizer(directory)
    return directory


def _load(model: Any, path: Path, name: str) -> Any:  # noqa: ANN401
    model.load_adapter(path, adapter_name=name)
    return model


def change_config(adapter: Path, **changes: object) -> None:
    """Change keys of an adapter's config; a value of `...` takes the key away."""
    path = adapter / "adapter_config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def read_adapter_tensors(adapter: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(adapter / "adapter_model.safetensors")
    return tensors


def write_adapter_tensors(adapter: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, adapter / "adapter_model.safetensors")
