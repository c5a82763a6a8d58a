"""Which file of a repository each program takes, by names alone.

    llama.cpp  `-hf REPO[:TAG]`           common/download.cpp, find_best_model and find_best_sibling @ 0c1e570
    the Hub    the label of a file        @huggingface/tasks 0.21.54, gguf.ts, parseGGUFQuantLabel
    Ollama     `hf.co/REPO[:TAG]`         hub-docs, docs/hub/ollama.md

LM Studio lists a file for each label, and loads the projector in the model's folder.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# What a model's base name must not have: case counts.
SIDECARS: Final = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_BY_DEFAULT: Final = ("Q4_K_M", "Q8_0")
_PART: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})", re.IGNORECASE)
_TAG: Final = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)

_TYPE_LIKE: Final = re.compile(r"(I?Q|TQ|B?F|MXFP|NVFP)\d\w*", re.IGNORECASE)

# The labels in the order of the Hub's list, in which its pattern tries them.
_LABELS: Final = (
    "F32", "F16", "Q4_0", "Q4_1", "Q4_1_SOME_F16", "Q4_2", "Q4_3", "Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M",
    "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS",
    "IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8",
    "Q4_0_8_8", "TQ1_0", "TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0", "Q2_0", "Q2_K_XL", "Q3_K_XL", "Q4_K_XL", "Q5_K_XL",
    "Q6_K_XL", "Q8_K_XL", "MXFP4",
)  # fmt: skip
_HUB_LABEL: Final = re.compile(rf"(?:UD-)?(?:{'|'.join(_LABELS)})(?:_[A-Z]+)?")


def hub_label(name: str) -> str | None:
    """Give the label that the Hub shows for a file: the last that its path has, in any case."""
    found = _HUB_LABEL.findall(name.upper())
    return found[-1] if found else None


def tag_of(name: str) -> str | None:
    """Give the tag that a file goes by: the Hub's label, or a type that only llama.cpp heeds, such as `Q4_K_L`."""
    own = _TAG.search(_part(name)[2])
    return hub_label(name) or (own[1].upper() if own and _TYPE_LIKE.fullmatch(own[1]) else None)


def is_model_name(name: str) -> bool:
    """Whether llama.cpp takes a file for a model."""
    base = name.rpartition("/")[2]
    return name.endswith(".gguf") and not any(word in base for word in SIDECARS)


def llama_cpp_model(names: Sequence[str], tag: str | None = None) -> str | None:
    """Give the file that `-hf REPO[:TAG]` runs; the parts of a split one follow from its first.

    names: in the Hub's order, which is that of their bytes.
    """
    candidates = [name for name in names if is_model_name(name) and _part(name)[0] == 1]
    for wanted in [tag] if tag else _BY_DEFAULT:
        # A tag is a pattern there; what users write in one has no meaning of its own but the point.
        pattern = re.compile(f"{wanted}[.-]", re.IGNORECASE)
        if found := next((name for name in candidates if pattern.search(name)), None):
            return found
    return None if tag else next(iter(candidates), None)


def llama_cpp_projector(names: Iterable[str], model: str) -> str | None:
    """Give the projector that `-hf` loads with a model: in its folder or one above, the deepest, of the nearest type.

    The nearest is told by the first digits of the types in the names: F16 is 16, Q8_0 is 8.
    """
    folders = model.split("/")[:-1]
    best: tuple[int, int] | None = None
    chosen = None
    for name in names:
        place = name.split("/")[:-1]
        if not name.endswith(".gguf") or "mmproj" not in name or folders[: len(place)] != place:
            continue
        rank = (-len(place), abs(_bits(name) - _bits(model)))
        if best is None or rank < best:
            best, chosen = rank, name
    return chosen


def _part(name: str) -> tuple[int, int, str]:
    """Give a file's number, the count of all parts, and its name without these."""
    stem = name.removesuffix(".gguf")
    found = _PART.fullmatch(stem)
    return (1, 1, stem) if found is None else (int(found[2]), int(found[3]), found[1])


def _bits(name: str) -> int:
    tag = _TAG.search(_part(name)[2])
    digits = re.search(r"\d+", tag[1]) if tag else None
    return int(digits[0]) if digits else 0


def ollama_models(names: Sequence[str], tag: str | None = None) -> tuple[str, ...]:
    """Give the files that `hf.co/REPO[:TAG]` may mean: one, or what it refuses or guesses among.

    A tag is a label in any case, or a file's whole name. Without one it is Q4_K_M, if there; else any.
    """
    models = [name for name in names if is_model_name(name)]
    if tag is None:
        return ollama_models(names, _BY_DEFAULT[0]) or tuple(models)
    exact = tuple(name for name in models if name == tag)
    return exact or tuple(name for name in models if (hub_label(name) or "") == tag.upper())


def split_count(name: str) -> int:
    """Give the number of parts that a file's name speaks of; 1 for a whole one."""
    return _part(name)[1]
