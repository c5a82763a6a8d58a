"""Which tensor gets which type, as rules with their source.

The reference decides in two places: the converter (which tensors stay float32 in the F16 file) and
llama-quantize (which tensors are quantized, and to what). Both are here, as data and pure functions.
Source: conversion/base.py, ModelBase.prepare_tensors; src/llama-quant.cpp, tensor_allows_quantization,
llama_tensor_get_type_impl and tensor_type_fallback @ 0c1e570.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from convert.codec import FLOAT_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

_Type = GGMLQuantizationType


class OutputType(Enum):
    """A type that a whole file can be asked for: its tensors' type, and the file type it declares."""

    F32 = (_Type.F32, LlamaFileType.ALL_F32)
    F16 = (_Type.F16, LlamaFileType.MOSTLY_F16)
    BF16 = (_Type.BF16, LlamaFileType.MOSTLY_BF16)
    Q4_0 = (_Type.Q4_0, LlamaFileType.MOSTLY_Q4_0)
    Q4_1 = (_Type.Q4_1, LlamaFileType.MOSTLY_Q4_1)
    Q5_0 = (_Type.Q5_0, LlamaFileType.MOSTLY_Q5_0)
    Q5_1 = (_Type.Q5_1, LlamaFileType.MOSTLY_Q5_1)
    Q8_0 = (_Type.Q8_0, LlamaFileType.MOSTLY_Q8_0)

    @property
    def tensor_type(self) -> GGMLQuantizationType:
        """The type of the file's ordinary tensors."""
        return self.value[0]

    @property
    def file_type(self) -> int:
        """The value of `general.file_type`."""
        return int(self.value[1])

    @property
    def is_quantized(self) -> bool:
        """Whether llama-quantize makes the reference's file, rather than the converter."""
        return self.tensor_type not in FLOAT_TYPES


@dataclass(frozen=True, slots=True)
class Choice:
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


def converter_choice(*, always_f32: bool, shape: tuple[int, ...], wanted: GGMLQuantizationType) -> Choice:
    """Choose a tensor's type in a float file made from a checkpoint."""
    if wanted is _Type.F32 or not (always_f32 or len(shape) == 1):
        return Choice(wanted)
    return Choice(_Type.F32, "one dimension" if len(shape) == 1 else "always float32")


def quantize_choice(
    name: str, shape: tuple[int, ...], current: GGMLQuantizationType, wanted: OutputType, facts: ModelFacts
) -> Choice:
    """Choose a tensor's type as llama-quantize does, for a tensor that is `current` in the float file.

    shape: NumPy order.
    """
    kept = _why_kept(name, shape)
    if kept is not None:
        return Choice(current, kept if current is not wanted.tensor_type else None)
    if not wanted.is_quantized:
        return Choice(wanted.tensor_type)
    chosen = _mixture(name, shape, wanted, facts)
    return _fall_back(chosen, shape[-1])


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


def _mixture(name: str, shape: tuple[int, ...], wanted: OutputType, facts: ModelFacts) -> Choice:
    asked = wanted.tensor_type
    is_tied = facts.tied_embeddings and name in _TOKEN_EMBEDDINGS
    if name == "output.weight" or is_tied:
        role = "tied embedding, also the output matrix" if is_tied else "output matrix"
        wide = _Type.Q8_0 if facts.arch == "falcon" or shape[-1] % GGML_QUANT_SIZES[asked][0] else _Type.Q6_K
        return Choice(asked) if asked is _Type.Q8_0 else Choice(wide, role)
    if name in _TOKEN_EMBEDDINGS:
        return Choice(asked)
    is_key_or_value = "attn_k.weight" in name or any(part in name for part in _VALUE_LIKE)
    if is_key_or_value and facts.n_experts == _EIGHT_EXPERTS and asked is not _Type.Q8_0:
        return Choice(_Type.Q8_0, "attention key or value of a model with 8 experts")
    return Choice(asked)


def _fall_back(choice: Choice, n_cols: int) -> Choice:
    block_size = GGML_QUANT_SIZES[choice.type][0]
    if n_cols % block_size == 0:
        return choice
    narrower = _FALLBACK.get(choice.type, choice.type)
    if n_cols % GGML_QUANT_SIZES[narrower][0]:
        narrower = _Type.F16
    return Choice(narrower, f"rows of {n_cols} are not a multiple of {block_size}")
