"""LitGPT's LoRA: `lit_model.pth.lora`, brought into peft's words.

hyperparameters.yaml     lora_r, lora_alpha, lora_query, lora_key, lora_value; checkpoint_dir, the base
model_config.yaml        whose names and shapes they are
lit_model.pth.lora       transformer.h.0.attn.qkv.lora_A   (r x enabled, in): one after the other, of Q, K, V
                         transformer.h.0.attn.qkv.lora_B   (their rows, r)

Source: litgpt 0.5.13, lora.py, LoRAQKVLinear; scripts/merge_lora.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Final

from convert.adapter.config import AdapterConfig
from convert.checkpoint.layouts.layout import renamed
from convert.checkpoint.layouts.litgpt import rows_of_qkv
from convert.checkpoint.layouts.litgpt_families import Fused, LitFamily, lit_family
from convert.checkpoint.layouts.yaml_file import read_yaml
from convert.checkpoint.torch_file import read_torch_file
from convert.checkpoint.wrapped_names import unwrap_names
from convert.errors import CheckpointError, UnsupportedError
from convert.fields import Fields
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from convert.checkpoint import TensorSource

LITGPT_FILE: Final = "lit_model.pth.lora"
_SAID: Final = "hyperparameters.yaml"
_FACTOR: Final = re.compile(r"(.+)\.lora_([AB])")
_QKV: Final = re.compile(r"transformer\.h\.(\d+)\.attn\.qkv")
_FUSED_MLP: Final = re.compile(r"transformer\.h\.\d+\.mlp\.fc_[12]")
_ENABLED: Final = ("lora_query", "lora_key", "lora_value")


def read_litgpt_factors(directory: Path) -> tuple[dict[str, TensorSource], tuple[str, ...]]:
    """Read an adapter's factors, under the names that peft gives them for transformers' model, and notes.

    Raises CheckpointError for files that are missing, broken, or contradict each other; UnsupportedError for factors of
    what transformers fuses.
    """
    said, model = (_read(directory / name) for name in (_SAID, "model_config.yaml"))
    file = read_torch_file(directory / LITGPT_FILE)
    sources, notes = unwrap_names({source.name: source for source in file.sources})
    family = lit_family(model)
    named = {each.name: each for name, source in sources.items() for each in _named(name, source, said, model, family)}
    return named, (*file.notes, *notes)


def _read(path: Path) -> Fields:
    return Fields(read_yaml(path), shown(path))


def read_litgpt_config(directory: Path) -> AdapterConfig:
    """Read `hyperparameters.yaml` as peft would say it. Raises CheckpointError."""
    said = _read(directory / _SAID)
    return AdapterConfig(
        where=said.where,
        r=said.size("lora_r"),
        alpha=float(said.number("lora_alpha") or 1),
        rank_pattern={},
        alpha_pattern={},
        use_rslora=False,
        use_dora=False,
        lora_bias=False,
        fan_in_fan_out=False,
        ensure_weight_tying=False,
        target_modules=None,
        exclude_modules=(),
        target_parameters=(),
        modules_to_save=(),
        layers_to_transform=None,
        layers_pattern=(),
        token_indices={},
        base=said.text("checkpoint_dir"),
        revision=None,
    )


def _named(name: str, source: TensorSource, said: Fields, model: Fields, family: LitFamily) -> Iterator[TensorSource]:
    match = _FACTOR.fullmatch(name)
    if match is None:
        raise UnsupportedError(f"adapter tensor {shown(name)} is no factor of LoRA")
    module, factor = match[1], match[2]
    if (qkv := _QKV.fullmatch(module)) is not None and family.fused is Fused.APART:
        yield from _of_qkv(qkv.expand(family.qkv), factor, source, said, model)
    elif qkv is not None or (family.gate_up is not None and _FUSED_MLP.fullmatch(module)):
        raise UnsupportedError(
            f"adapter tensor {shown(name)} changes a part of what {family.architecture} has in one tensor",
            hint="merge it where it was trained, `litgpt merge_lora DIRECTORY`, and convert that",
        )
    else:
        plain = renamed(f"{module}.weight", family.renames).removesuffix(".weight")
        yield replace(source, name=f"{plain}.lora_{factor}.weight")


def _of_qkv(begins: str, factor: str, source: TensorSource, said: Fields, model: Fields) -> Iterator[TensorSource]:
    """Cut the factors of Q, K and V apart: each has a run of the rows."""
    enabled = [which for which, key in zip("qkv", _ENABLED, strict=True) if said.flag(key)]
    rows = dict(zip("qkv", rows_of_qkv(model), strict=True))
    sizes = [said.size("lora_r") if factor == "A" else rows[which] for which in enabled]
    if source.shape[:1] != (sum(sizes),) or source.is_transposed:
        of = ", ".join(enabled) or "nothing"
        raise CheckpointError(
            f"adapter tensor {shown(source.name)} has shape {source.shape}, {said.where} says {sum(sizes)} rows of {of}"
        )
    row_nbytes = prod(source.shape[1:]) * source.dtype.itemsize
    for place, (which, size) in enumerate(zip(enabled, sizes, strict=True)):
        name = f"{begins.format(which).removesuffix('.')}.lora_{factor}.weight"
        offset = source.offset + sum(sizes[:place]) * row_nbytes
        yield replace(source, name=name, offset=offset, shape=(size, *source.shape[1:]))
