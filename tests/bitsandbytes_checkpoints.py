"""Checkpoints that bitsandbytes itself has packed, on the CPU, and what it says is in them.

    save_with_transformers(KINDS["nf4-dq"], tmp_path / "model")     a tiny Llama, loaded in nf4 and saved
    pack_4bit("model.norm.weight", weight, PackedAs("fp4"))         one weight and its companions, by name
    flat_values(stored, name)                                       what dequantize_4bit makes of a weight

bitsandbytes 0.50.2's CPU kernel is wrong where rows are not whole blocks, so `flat_values` lets it decode one row. Its
paths for other block sizes and odd lengths are compiled by torch when first called; here they are not.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

from packed_checkpoints import TINY_LLAMA, TOKENIZER_FILES, read_stored, tiny_config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch


@dataclass(frozen=True, slots=True)
class Kind:
    """How transformers loads a model before it saves it."""

    dtype: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PackedAs:
    """How bitsandbytes packs one weight."""

    quant_type: str
    block_size: int = 64
    double: bool = False
    storage: str = "uint8"
    dtype: str = "float16"


def _four_bits(quant_type: str, **options: object) -> dict[str, Any]:
    named = {f"bnb_4bit_{key}": value for key, value in options.items()}
    return {"load_in_4bit": True, "bnb_4bit_quant_type": quant_type, **named}


SECTION: Final = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}
KINDS: Final[Mapping[str, Kind]] = {
    "nf4": Kind("float16", _four_bits("nf4")),
    "nf4-dq": Kind("bfloat16", _four_bits("nf4", use_double_quant=True)),
    "fp4": Kind("float32", _four_bits("fp4")),
    "fp4-dq": Kind("float16", _four_bits("fp4", use_double_quant=True)),
    "int8": Kind("float16", {"load_in_8bit": True}),
    "int8-bf16": Kind("bfloat16", {"load_in_8bit": True}),
    "nf4-dq-fsdp-bf16": Kind("bfloat16", _four_bits("nf4", use_double_quant=True, quant_storage="bfloat16")),
    "nf4-fsdp-f16": Kind("float16", _four_bits("nf4", quant_storage="float16")),
    "nf4-fsdp-f32": Kind("bfloat16", _four_bits("nf4", quant_storage="float32")),
    "nf4-skipped": Kind("float16", _four_bits("nf4") | {"llm_int8_skip_modules": ["lm_head", "down_proj", "v_proj"]}),
    "nf4-lm-head": Kind("float16", _four_bits("nf4") | {"llm_int8_skip_modules": ["none"]}),
}


def save_with_transformers(kind: Kind, directory: Path, *, model_type: str = "llama", **config: object) -> Path:
    """Make a seeded model, save it, load it as `kind` says, and save that; returns the packed directory."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain = directory.parent / f"{directory.name}-plain"
    _make_model(model_type, config).save_pretrained(plain)
    packed = AutoModelForCausalLM.from_pretrained(
        plain,
        quantization_config=BitsAndBytesConfig(**kind.options),
        dtype=getattr(torch, kind.dtype),
        device_map="cpu",
        local_files_only=True,
    )
    packed.save_pretrained(directory)
    return directory


def save_each_once(root: Path) -> Callable[[str], Path]:
    """Return what gives the directory that transformers saved for a kind, a tokenizer in it; made once."""

    def directory(kind: str) -> Path:
        if not (root / kind).exists():
            save_with_transformers(KINDS[kind], root / kind)
            for name in TOKENIZER_FILES:
                shutil.copyfile(TINY_LLAMA / name, root / kind / name)
        return root / kind

    return directory


def _make_model(model_type: str, changes: Mapping[str, object]) -> Any:  # noqa: ANN401 - transformers has no types
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    not_asked = {"architectures", "dtype", "model_type", "transformers_version"}
    config = {key: value for key, value in tiny_config(**changes).items() if key not in not_asked}
    torch.manual_seed(20)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config))


def dequantize_with_transformers(directory: Path) -> dict[str, torch.Tensor]:
    """Load a packed directory and let transformers dequantize it: the state dict.

    Loaded anew, because after `save_pretrained` the config's dtype is a string, and `dequantize` fails on that.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True).dequantize()
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def pack_4bit(name: str, weight: torch.Tensor, packed_as: PackedAs) -> dict[str, torch.Tensor]:
    """Pack a weight of any shape: it and its companions, by the names that a checkpoint gives them."""
    import torch
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(
        weight.to(getattr(torch, packed_as.dtype)),
        blocksize=packed_as.block_size,
        compress_statistics=packed_as.double,
        quant_type=packed_as.quant_type,
        quant_storage=getattr(torch, packed_as.storage),
    )
    return {name: packed, **{f"{name}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}}


def flat_values(stored: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Let bitsandbytes decode a stored 4-bit weight as one row, and give the model's shape back to that."""
    import torch
    from bitsandbytes.functional import QuantState, dequantize_4bit

    parts = {key.removeprefix(f"{name}."): value for key, value in stored.items() if key.startswith(f"{name}.")}
    state = QuantState.from_dict(parts, torch.device("cpu"))
    shape, state.shape = state.shape, torch.Size((1, prod(state.shape)))
    with torch.compiler.set_stance("force_eager"):
        values: torch.Tensor = dequantize_4bit(stored[name].reshape(-1, 1), state).reshape(shape)
    # fp4's index 8: the code says 0, as does this kernel with AVX-512; without, it makes a negative zero.
    return values + 0 if state.quant_type == "fp4" else values


def row_wise_values(stored: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype) -> torch.Tensor:
    """Let bitsandbytes decode a stored LLM.int8 weight, and round that as transformers does."""
    from bitsandbytes.functional import int8_vectorwise_dequant

    values: torch.Tensor = int8_vectorwise_dequant(stored[name], stored[f"{name.removesuffix('weight')}SCB"])
    return values.to(dtype)


def model_values(directory: Path, kind: Kind) -> dict[str, torch.Tensor]:
    """Give every tensor of the model that a directory holds packed, as bitsandbytes decodes it."""
    import torch

    stored = read_stored(directory)
    values: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        if f"{name}.quant_map" in stored:
            values[name] = flat_values(stored, name)
        elif f"{name.removesuffix('weight')}SCB" in stored:
            values[name] = row_wise_values(stored, name, getattr(torch, kind.dtype))
        elif name.endswith(("weight", "bias")):
            values[name] = tensor
    return values
