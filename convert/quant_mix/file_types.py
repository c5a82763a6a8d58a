"""What a whole file can be asked for: a row a file type, and how people write its name.

Source: tools/quantize/quantize.cpp, QUANT_OPTIONS; src/llama-quant.cpp, llama_ftype_get_default_type @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from gguf import GGMLQuantizationType

from convert.codec import FLOAT_TYPES
from convert.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_Type = GGMLQuantizationType


@dataclass(frozen=True, slots=True)
class FileType:
    """One file type.

    name: as users write it, in upper case. type: of the file's ordinary tensors. declared: `general.file_type`, which
    llama-quantize takes for a name too; None where it is the source's. aliases: other names.
    """

    name: str
    type: GGMLQuantizationType
    declared: int | None
    aliases: tuple[str, ...] = ()

    @property
    def copies(self) -> bool:
        """Whether every tensor keeps the type it has."""
        return self.declared is None

    @property
    def is_quantized(self) -> bool:
        """Whether llama-quantize makes the reference's file, rather than the converter."""
        return self.copies or self.type not in FLOAT_TYPES


_TABLE: Final = (
    FileType("F32", _Type.F32, 0),
    FileType("F16", _Type.F16, 1),
    FileType("BF16", _Type.BF16, 32),
    FileType("Q8_0", _Type.Q8_0, 7),
    FileType("Q6_K", _Type.Q6_K, 18),
    FileType("Q5_1", _Type.Q5_1, 9),
    FileType("Q5_0", _Type.Q5_0, 8),
    FileType("Q5_K_M", _Type.Q5_K, 17, ("Q5_K",)),
    FileType("Q5_K_S", _Type.Q5_K, 16),
    FileType("Q4_1", _Type.Q4_1, 3),
    FileType("Q4_0", _Type.Q4_0, 2),
    FileType("Q4_K_M", _Type.Q4_K, 15, ("Q4_K",)),
    FileType("Q4_K_S", _Type.Q4_K, 14),
    FileType("IQ4_NL", _Type.IQ4_NL, 25),
    FileType("IQ4_XS", _Type.IQ4_XS, 30),
    FileType("MXFP4_MOE", _Type.MXFP4, 38),
    FileType("Q3_K_L", _Type.Q3_K, 13),
    FileType("Q3_K_M", _Type.Q3_K, 12, ("Q3_K",)),
    FileType("Q3_K_S", _Type.Q3_K, 11),
    FileType("IQ3_M", _Type.IQ3_S, 27),
    FileType("IQ3_S", _Type.IQ3_S, 26),
    FileType("IQ3_XS", _Type.IQ3_S, 22),
    FileType("IQ3_XXS", _Type.IQ3_XXS, 23),
    FileType("Q2_K", _Type.Q2_K, 10),
    FileType("Q2_K_S", _Type.Q2_K, 21),
    FileType("Q2_0", _Type.Q2_0, 41),
    FileType("IQ2_M", _Type.IQ2_S, 29),
    FileType("IQ2_S", _Type.IQ2_XS, 28),
    FileType("IQ2_XS", _Type.IQ2_XS, 20),
    FileType("IQ2_XXS", _Type.IQ2_XXS, 19),
    FileType("TQ2_0", _Type.TQ2_0, 37),
    FileType("TQ1_0", _Type.TQ1_0, 36),
    FileType("IQ1_M", _Type.IQ1_M, 31),
    FileType("IQ1_S", _Type.IQ1_S, 24),
    FileType("Q1_0", _Type.Q1_0, 40),
    FileType("COPY", _Type.F32, None),
)

FILE_TYPES: Final[Mapping[str, FileType]] = MappingProxyType({row.name: row for row in _TABLE})

# Several at a time. `standard`: what publishers make, largest first; none of them needs an importance matrix.
SETS: Final[Mapping[str, tuple[FileType, ...]]] = MappingProxyType(
    {
        "ALL": tuple(row for row in _TABLE if not row.copies),
        "STANDARD": tuple(
            FILE_TYPES[name]
            for name in ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q3_K_L", "Q3_K_M",
                         "Q3_K_S", "Q2_K")
        ),
    }
)  # fmt: skip

# What others make, and what comes nearest here.
_WIDE_ENDS: Final = "with the token embedding and the output matrix in q8_0"
_OF_OTHERS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        **{f"Q{bits}_K_L": (f"Q{bits}_K_M", _WIDE_ENDS) for bits in (4, 5)},
        "Q2_K_L": ("Q2_K", _WIDE_ENDS),
        "Q3_K_XL": ("Q3_K_L", _WIDE_ENDS),
        **{f"Q{bits}_K_XL": (name, "for its mix is its publisher's own")
           for bits, name in ((2, "Q2_K"), (4, "Q4_K_M"), (5, "Q5_K_M"), (6, "Q6_K"), (8, "Q8_0"))},
        "Q6_K_L": ("Q6_K", _WIDE_ENDS),
        **{f"Q4_0_{rows}": ("Q4_0", "which llama.cpp now repacks when it loads it") for rows in ("4_4", "4_8", "8_8")},
        "MXFP4": ("MXFP4_MOE", "whose experts are MXFP4"),
        "NVFP4": ("MXFP4_MOE", "for NVFP4 is only a tensor's type, not a file's"),
        **dict.fromkeys(("IQ1_KT", "IQ1_BN"), ("IQ1_S", "")),
        **dict.fromkeys(("IQ2_K", "IQ2_KS", "IQ2_KT", "IQ2_BN"), ("IQ2_XS", "")),
        "IQ2_KL": ("IQ2_M", ""),
        **dict.fromkeys(("IQ3_K", "IQ3_KS", "IQ3_KT", "IQ3_KL"), ("IQ3_S", "")),
        **dict.fromkeys(("IQ4_KS", "IQ4_KSS", "IQ4_KT"), ("IQ4_XS", "")),
        "IQ4_K": ("IQ4_NL", ""),
        **dict.fromkeys(("IQ5_K", "IQ5_KS"), ("Q5_K_M", "")),
        **dict.fromkeys(("IQ6_K", "Q6_0"), ("Q6_K", "")),
        "Q8_KV": ("Q8_0", ""),
    }
)  # fmt: skip

_NAMED: Final = [(name, row) for row in _TABLE for name in (row.name, *row.aliases)]
_NUMBERED: Final = [(str(row.declared), row) for row in _TABLE if row.declared is not None]
_BY_NAME: Final[Mapping[str, FileType]] = MappingProxyType(dict(_NAMED + _NUMBERED))

if len(_BY_NAME) != len(_NAMED) + len(_NUMBERED):
    raise RuntimeError("two file types have one name")


def find_file_types(name: str) -> tuple[FileType, ...]:
    """Find what a name stands for, in any case: a type, its number, an alias such as `q4_k`, or a set of types.

    Raises UsageError that says what is nearest.
    """
    upper = name.strip().upper()
    if upper in SETS:
        return SETS[upper]
    if upper not in _BY_NAME:
        raise UsageError(f"unknown type `{name.strip()}`", hint=_nearest(upper))
    return (_BY_NAME[upper],)


def _nearest(name: str) -> str:
    bare = name.removeprefix("UD-").removeprefix("I1-").removesuffix("_R4").removesuffix("_R8")
    nearest, why = _OF_OTHERS.get(bare, ("", ""))
    if not nearest:
        close = get_close_matches(bare, [row for row in _BY_NAME if not row.isdigit()], n=1)
        nearest = _BY_NAME[close[0]].name if close else ""
    if nearest:
        return f"nearest is {nearest.lower()}{f', {why}' if why else ''}"
    return f"known are {in_words(_TABLE)}; all, and standard: {in_words(SETS['STANDARD'])}"


def in_words(types: Iterable[FileType]) -> str:
    """List types as users write them."""
    return ", ".join(row.name.lower() for row in types)
