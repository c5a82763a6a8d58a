"""The table of families: what a Hugging Face model becomes in GGUF.

    config.json  ── hyperparameters ──▶ Hyperparameters        typed, defaults as transformers fills them in
    a family     ── its one file ──▶ Family                    tables: metadata rows, tensor rules, tokenizer
    tensors      ── mapping ──▶ (name in GGUF, view)           in the order of the converter's file

The tables are read from right to left too: back, with config_back, rope_back, given (rows) and tensors_back (rules).
blocks: rules that families share. rope: what configs say of rotary embedding. A family's own facts stand in its file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH_NAMES

from convert.architecture.apertus import APERTUS
from convert.architecture.arcee import ARCEE
from convert.architecture.bloom import BLOOM
from convert.architecture.cohere import COHERE, COHERE2
from convert.architecture.config_keys import check_keys
from convert.architecture.deepseek_v3 import DEEPSEEK_V2, DEEPSEEK_V3
from convert.architecture.ernie4_5 import ERNIE4_5, ERNIE4_5_MOE
from convert.architecture.exaone import EXAONE
from convert.architecture.exaone4 import EXAONE4
from convert.architecture.falcon import FALCON
from convert.architecture.family import Facts, Family
from convert.architecture.gemma import GEMMA, GEMMA2
from convert.architecture.gemma3 import GEMMA3
from convert.architecture.gemma3n import GEMMA3N
from convert.architecture.glm4 import GLM4, GLM4_MOE
from convert.architecture.glm4_moe_lite import GLM4_MOE_LITE
from convert.architecture.gpt2 import GPT2, STARCODER
from convert.architecture.gpt_neox import GPT_NEOX
from convert.architecture.gpt_oss import GPT_OSS
from convert.architecture.granite import GRANITE, GRANITE_MOE
from convert.architecture.hunyuan import HUNYUAN_DENSE
from convert.architecture.hyperparameters import Hyperparameters, architectures, read_hyperparameters
from convert.architecture.lfm2 import LFM2, LFM2_MOE
from convert.architecture.llama import LLAMA
from convert.architecture.llama4 import LLAMA4
from convert.architecture.mapping import Mapped, have_place, map_tensors, plain_names
from convert.architecture.metadata import first_metadata_of, metadata_of
from convert.architecture.minicpm import MINICPM
from convert.architecture.minimax_m2 import MINIMAX_M2
from convert.architecture.ministral3 import MINISTRAL3
from convert.architecture.mpt import MPT
from convert.architecture.nemotron import NEMOTRON
from convert.architecture.not_text import HEAD
from convert.architecture.numbers_of_layers import take_numbers
from convert.architecture.olmo import OLMO, OLMO2, OLMOE
from convert.architecture.own_names import OwnNames, own_names, with_counts
from convert.architecture.phi import PHI2, PHI3, PHI_MOE
from convert.architecture.qwen import QWEN2, QWEN3
from convert.architecture.qwen3_next import QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT
from convert.architecture.qwen_moe import QWEN2_MOE, QWEN3_MOE
from convert.architecture.seed_oss import SEED_OSS
from convert.architecture.smollm3 import SMOLLM3
from convert.architecture.stablelm import STABLELM
from convert.architecture.starcoder2 import STARCODER2
from convert.errors import UnsupportedError
from convert.fields import Fields
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FAMILIES",
    "HEAD",
    "Facts",
    "Family",
    "Fields",
    "Hyperparameters",
    "Mapped",
    "OwnNames",
    "check_keys",
    "facts_of",
    "family_of",
    "find_family",
    "first_metadata_of",
    "have_place",
    "is_known",
    "map_tensors",
    "metadata_of",
    "own_names",
    "plain_names",
    "read_hyperparameters",
    "take_numbers",
    "with_counts",
]

FAMILIES: Final[tuple[Family, ...]] = (
    LLAMA,
    QWEN2,
    QWEN3,
    QWEN2_MOE,
    QWEN3_MOE,
    QWEN3_NEXT,
    QWEN3_5,
    QWEN3_5_MOE,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GEMMA3N,
    PHI2,
    PHI3,
    PHI_MOE,
    LLAMA4,
    MINISTRAL3,
    GPT_OSS,
    BLOOM,
    DEEPSEEK_V3,
    SMOLLM3,
    GRANITE,
    GRANITE_MOE,
    OLMO,
    OLMO2,
    OLMOE,
    COHERE,
    COHERE2,
    STABLELM,
    STARCODER2,
    STARCODER,
    GPT2,
    GPT_NEOX,
    FALCON,
    MPT,
    GLM4,
    GLM4_MOE,
    GLM4_MOE_LITE,
    EXAONE,
    EXAONE4,
    ERNIE4_5,
    ERNIE4_5_MOE,
    NEMOTRON,
    ARCEE,
    SEED_OSS,
    DEEPSEEK_V2,
    MINIMAX_M2,
    LFM2,
    LFM2_MOE,
    HUNYUAN_DENSE,
    MINICPM,
    APERTUS,
)


def family_of(config: Mapping[str, Any], *, where: str) -> Family:
    """Find the family of a config, before anything else of it is read.

    Raises UnsupportedError for a class that no family has, also where its text model alone would be of one.
    """
    text, outer = architectures(config, where)
    _check_text_type(config, text)
    if outer is not None and outer != text and not any(outer in family.hf_names for family in FAMILIES):
        hint = f"its text model is a `{text}`: save that alone" if any(text in f.hf_names for f in FAMILIES) else None
        raise UnsupportedError(f"unsupported architecture `{outer}`", hint=hint)
    return find_family(text)


def _check_text_type(config: Mapping[str, Any], text: str) -> None:
    of_text = config.get("text_config")
    kind = of_text.get("model_type") if isinstance(of_text, dict) else None
    if any(text in f.hf_names and f.text_types and kind not in (None, *f.text_types) for f in FAMILIES):
        raise UnsupportedError(f"unsupported text model {shown(str(kind))} in a `{text}`")


def find_family(name: str) -> Family:
    """Return the row for a name from `config.json`'s `architectures`.

    Raises UnsupportedError that names what is supported.
    """
    for family in FAMILIES:
        if name in family.hf_names:
            return family
    supported = ", ".join(name for row in FAMILIES for name in row.hf_names)
    raise UnsupportedError(f"unsupported architecture `{name}`", hint=f"supported are {supported}")


def facts_of(arch: str) -> Facts:
    """Return what is known of the family that GGUF calls `arch`; nothing of another."""
    return next((family.facts for family in FAMILIES if MODEL_ARCH_NAMES[family.arch] == arch), Facts())


def is_known(arch: str) -> bool:
    """Whether GGUF's `arch` is a family's here, so that it is known what its files have."""
    return any(MODEL_ARCH_NAMES[family.arch] == arch for family in FAMILIES)


_names = [name for row in FAMILIES for name in row.hf_names]
assert len(_names) == len(set(_names)), "an architecture stands twice in the table"  # noqa: S101
