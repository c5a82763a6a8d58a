"""Which tensor gets which type, as rules with their source.

The reference decides in two places: the converter (which tensors stay float32 in the F16 file) and
llama-quantize (which tensors are quantized, and to what). Both are here, as data and pure functions.
Source: conversion/base.py, ModelBase.prepare_tensors; src/llama-quant.cpp, tensor_allows_quantization,
llama_tensor_get_type_impl and tensor_type_fallback @ 0c1e570.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convert.quant_mix.file_types import FileType

_Type = GGMLQuantizationType


@dataclass(frozen=True, slots=True)
class TensorToType:
    """A tensor whose type is to be chosen: its name in GGUF, its shape in NumPy order, the type it has now."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType


@dataclass(frozen=True, slots=True)
class TypeChoice:
    """A tensor's type, and why it is not the one asked for (None where it is)."""

    type: GGMLQuantizationType
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the choice depends on beyond the tensor: the GGUF architecture, its experts, tied embeddings."""

    arch: str
    n_experts: int
    tied_embeddings: bool

    @classmethod
    def of(cls, arch: str, n_experts: int, tensor_names: Iterable[str]) -> ModelFacts:
        """Gather the facts; embeddings count as tied where there is no output matrix."""
        return cls(arch, n_experts, tied_embeddings="output.weight" not in tensor_names)


# tensor_allows_quantization: a tensor whose name holds one of these keeps its type.
_NEVER_QUANTIZED: Final = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
    "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
    "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight",
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
_NEVER_QUANTIZED_NAMES: Final = ("position_embd.weight", "token_types.weight")

_TOKEN_EMBEDDINGS: Final = ("token_embd.weight", "per_layer_token_embd.weight")
_VALUE_LIKE: Final = ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight")
_EIGHT_EXPERTS: Final = 8

# tensor_type_fallback, for the types this project writes.
_FALLBACK: Final = {_Type.Q6_K: _Type.Q8_0}


# ModelBase.prepare_tensors: what stays float32 in a converter's file, by the name in GGUF, any block number for `*`.
_ALWAYS_F32: Final = re.compile(
    r"blk\.\d+\.(?:ffn_gate_inp(?:_shexp)?|ssm_conv1d(?:_[qkv])?|shortconv\.conv|time_mix_(?:first|w1|w2|decay_w1|decay_w2"
    r"|lerp_fused)|altup_(?:correct|predict)_coef|indexer\.proj)\.weight|(?:position_embd|token_types)\.weight"
)


def choose_float_types(tensors: Iterable[TensorToType], wanted: FileType) -> list[TypeChoice]:
    """Choose, as the converter does, the type of each tensor of a float file made from a checkpoint."""
    return [_float_choice(tensor, wanted) for tensor in tensors]


def _float_choice(tensor: TensorToType, wanted: FileType) -> TypeChoice:
    if wanted.type is _Type.F32:
        return TypeChoice(wanted.type)
    if len(tensor.shape) == 1:
        return TypeChoice(_Type.F32, "one dimension")
    if (
        tensor.name.endswith("_norm.weight")
        or not tensor.name.endswith(".weight")
        or _ALWAYS_F32.fullmatch(tensor.name) is not None
    ):
        return TypeChoice(_Type.F32, "always float32")
    return TypeChoice(wanted.type)


def choose_types(tensors: Iterable[TensorToType], wanted: FileType, facts: ModelFacts) -> list[TypeChoice]:
    """Choose, as llama-quantize does, the type of each tensor of a file, given in the file's order.

    The tensors' own types are those of the file that is quantized.
    """
    return [_quantize_choice(tensor, wanted, facts) for tensor in tensors]


def _quantize_choice(tensor: TensorToType, wanted: FileType, facts: ModelFacts) -> TypeChoice:
    kept = _why_kept(tensor.name, tensor.shape)
    if kept is not None:
        return TypeChoice(tensor.type, kept if tensor.type is not wanted.type else None)
    if not wanted.is_quantized:
        return TypeChoice(wanted.type)
    return _fall_back(_mixture(tensor.name, tensor.shape, wanted, facts), tensor.shape[-1])


def file_order(names: Iterable[str]) -> list[str]:
    """Sort names as llama-quantize writes them: by block number, those without one first, then by name.

    Source: src/llama-model-loader.h, weight_name_comparer @ 0c1e570.
    """

    def key(name: str) -> tuple[int, bytes]:
        match = re.match(r"blk\.(\d+)", name)
        return (int(match[1]) if match else -1, name.encode())

    return sorted(names, key=key)


def _why_kept(name: str, shape: tuple[int, ...]) -> str | None:
    if ggml_n_dims(shape) < 2:  # noqa: PLR2004 - only matrices and stacks of them are quantized
        return "one dimension"
    if not name.endswith("weight"):
        return "not a weight"
    if name in _NEVER_QUANTIZED_NAMES or any(part in name for part in _NEVER_QUANTIZED):
        return "too small and too sensitive to quantize"
    return None


def ggml_n_dims(shape: tuple[int, ...]) -> int:
    """Count dimensions as ggml does: leading ones (in NumPy order) do not count."""
    significant = next((index for index, size in enumerate(shape) if size != 1), len(shape) - 1)
    return len(shape) - significant


def _mixture(name: str, shape: tuple[int, ...], wanted: FileType, facts: ModelFacts) -> TypeChoice:
    asked = wanted.type
    is_tied = facts.tied_embeddings and name in _TOKEN_EMBEDDINGS
    if name == "output.weight" or is_tied:
        role = "tied embedding, also the output matrix" if is_tied else "output matrix"
        wide = _Type.Q8_0 if facts.arch == "falcon" or shape[-1] % GGML_QUANT_SIZES[asked][0] else _Type.Q6_K
        return TypeChoice(asked) if asked is _Type.Q8_0 else TypeChoice(wide, role)
    if name in _TOKEN_EMBEDDINGS:
        return TypeChoice(asked)
    is_key_or_value = "attn_k.weight" in name or any(part in name for part in _VALUE_LIKE)
    if is_key_or_value and facts.n_experts == _EIGHT_EXPERTS and asked is not _Type.Q8_0:
        return TypeChoice(_Type.Q8_0, "attention key or value of a model with 8 experts")
    return TypeChoice(asked)


def _fall_back(choice: TypeChoice, n_cols: int) -> TypeChoice:
    block_size = GGML_QUANT_SIZES[choice.type][0]
    if n_cols % block_size == 0:
        return choice
    narrower = _FALLBACK.get(choice.type, choice.type)
    if n_cols % GGML_QUANT_SIZES[narrower][0]:
        narrower = _Type.F16
    return TypeChoice(narrower, f"rows of {n_cols} are not a multiple of {block_size}")
