"""Which tensors stay float32 in a float file that is made from a checkpoint: the converter's rules.

Source: conversion/base.py, ModelBase.prepare_tensors @ 0c1e570.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gguf import GGMLQuantizationType

from convert.codec import FLOAT_TYPES
from convert.quant_mix.choose import TypeChoice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convert.quant_mix.choose import TensorToType
    from convert.quant_mix.file_types import FileType

PACKED: Final = "packed so in the checkpoint"
_F32: Final = GGMLQuantizationType.F32

# By the name in GGUF, any block number.
_ALWAYS_F32: Final = re.compile(
    r"blk\.\d+\.(?:ffn_gate_inp(?:_shexp)?|ssm_conv1d(?:_[qkv])?|shortconv\.conv|time_mix_(?:first|w1|w2|decay_w1|decay_w2"
    r"|lerp_fused)|altup_(?:correct|predict)_coef|indexer\.proj)\.weight|(?:position_embd|token_types)\.weight"
)


def choose_float_types(tensors: Iterable[TensorToType], wanted: FileType) -> list[TypeChoice]:
    """Choose, as the converter does, the type of each tensor of a float file made from a checkpoint."""
    return [_float_choice(tensor, wanted) for tensor in tensors]


def _float_choice(tensor: TensorToType, wanted: FileType) -> TypeChoice:
    if tensor.type not in FLOAT_TYPES:  # gpt-oss' experts
        return TypeChoice(tensor.type, PACKED)
    if wanted.type is _F32:
        return TypeChoice(wanted.type)
    if len(tensor.shape) == 1:
        return TypeChoice(_F32, "one dimension")
    if (
        tensor.name.endswith("_norm.weight")
        or not tensor.name.endswith(".weight")
        or _ALWAYS_F32.fullmatch(tensor.name) is not None
    ):
        return TypeChoice(_F32, "always float32")
    return TypeChoice(wanted.type)
