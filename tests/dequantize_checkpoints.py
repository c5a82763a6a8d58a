"""Small models that bitsandbytes has packed, to be dequantized, and what is in the directory that comes of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from packed_checkpoints import bits_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PretrainedConfig

SMALL: Final = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
PACKED: Final[dict[str, dict[str, Any]]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-dq": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}
CARD: Final = "---\nlicense: mit\ntags:\n- stories\n---\n\n# The original\n\nText with — signs.\n"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "convert", "dequantize", *map(str, arguments)]


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def assert_same_tensors(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare names, types and bits; the sign of a zero aside, which bitsandbytes' fp4 kernels do not agree on."""
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        assert value.dtype == expected[name].dtype, name
        np.testing.assert_array_equal(bits_of(value + 0.0), bits_of(expected[name] + 0.0), err_msg=name)


def llama_config() -> PretrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(**SMALL, num_key_value_heads=2)


def write_packed(folder: Path, kind: str, config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Write a quantized model as transformers saves it, and return what bitsandbytes makes of it, in float16."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch.manual_seed(0)
    plain = folder.with_name(f"{folder.name}-plain")
    AutoModelForCausalLM.from_config(config, dtype=torch.float16).save_pretrained(plain)
    options = {"quantization_config": BitsAndBytesConfig(**PACKED[kind]), "dtype": torch.float16}
    AutoModelForCausalLM.from_pretrained(plain, **options).save_pretrained(folder)
    # Once more, since `dequantize` fails on a model that has been saved (transformers 5.23).
    values = AutoModelForCausalLM.from_pretrained(plain, **options).dequantize().state_dict()
    shutil.rmtree(plain)
    return {name: value.to(torch.float16) for name, value in values.items()}


def write_packed_llama(folder: Path, tiny_llama: Path) -> Path:
    """Write a Llama in nf4 with everything that lies in a model's directory; `tiny_llama` has the tokenizer."""
    write_packed(folder, "nf4", llama_config())
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(tiny_llama / name, folder / name)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / "LICENSE.txt").write_text("MIT\n")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (folder / "optimizer.pt").write_bytes(b"not a model's")
    (folder / "sample.png").write_bytes(b"a picture")
    return folder
