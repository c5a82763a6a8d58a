"""Rotary embedding read from right to left: a config's `rope_theta` and `rope_scaling` of metadata and tensors.

They are spelled as configs of transformers 4 are, which transformers 5 reads too.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import Keys

from convert.architecture.given import shortest
from convert.architecture.rope import DEFAULT_BASE, YARN, llama3_rope_factors
from convert.errors import UnsupportedError
from convert.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.architecture.given import Back, Given

_FACTORS: Final = "rope_freqs.weight"
_SECTIONS: Final = Keys.Rope.DIMENSION_SECTIONS
_KINDS: Final = ("long", "short")
_LENGTH: Final = "original_max_position_embeddings"


def rope_of_file(given: Given) -> Mapping[str, Any]:
    """Read the base frequencies and the scaling; `default` where there is none, so that no class fills in its own."""
    base = given.get(Keys.Rope.FREQ_BASE)
    theta = "rotary_emb_base" if given.model_type == "gpt_neox" else "rope_theta"
    found: dict[str, Any] = {theta: DEFAULT_BASE if base is None else base}
    if (
        given.model_type in ("gemma3_text", "gemma3n_text")
        and (local := given.get(Keys.Rope.FREQ_BASE_SWA)) is not None
    ):
        found["rope_local_base_freq"] = local
    scaling = _by_factors(given, found[theta]) or _stated(given)
    if scaling is not None or given.model_type in _SCALED_BY_DEFAULT:
        found["rope_scaling"] = scaling or {"rope_type": "default"}
    if scaling is not None and scaling["rope_type"] == "longrope":
        found[_LENGTH] = scaling[_LENGTH]
    return found


# Whose class has a scaling of its own where the config says none: transformers_classes.
_SCALED_BY_DEFAULT: Final = ("gpt_oss", "apertus", "ministral3")


def _stated(given: Given) -> dict[str, Any] | None:
    kind = given.get(Keys.Rope.SCALING_TYPE)
    if kind not in ("linear", "yarn"):
        return None
    found = {"rope_type": kind, "factor": given.get(Keys.Rope.SCALING_FACTOR)}
    if kind == "yarn":
        found[_LENGTH] = given.get(Keys.Rope.SCALING_ORIG_CTX_LEN)
        found |= {names[0]: value for key, names in YARN if (value := given.get(key)) is not None}
    return found


def _by_factors(given: Given, base: float) -> dict[str, Any] | None:
    if _FACTORS in given.tensors:
        return _llama3(given.numbers(_FACTORS), base)
    if f"rope_factors_{_KINDS[0]}.weight" not in given.tensors:
        return None
    lists = {f"{kind}_factor": list(given.numbers(f"rope_factors_{kind}.weight")) for kind in _KINDS}
    length = given.get(Keys.Rope.SCALING_ORIG_CTX_LEN)
    return {"rope_type": "longrope", **lists, _LENGTH: length}


def _llama3(factors: tuple[float, ...], base: float) -> dict[str, Any]:
    """Find the scaling whose factors these are, among the published kinds: 1 and 4, of a length that is a power of 2.

    Raises UnsupportedError where none is.
    """
    wanted = np.array(factors, np.float32)
    for length, (low, high) in product(_LENGTHS, _BANDS):
        found = {"rope_type": "llama3", "factor": max(factors), "low_freq_factor": low, "high_freq_factor": high}
        found[_LENGTH] = length
        if np.array_equal(llama3_rope_factors(Fields({**found, "rope_theta": base}, ""), 2 * len(factors)), wanted):
            return found
    raise UnsupportedError(
        f"the factors in `{_FACTORS}` are of no `llama3` rope scaling that is known",
        hint="take `rope_scaling` from the model's own config.json: GGUF has only what follows from it",
    )


_LENGTHS: Final = (8192, *(2**power for power in range(4, 21)))
_BANDS: Final = ((1.0, 4.0), (1.0, 1.0), (1.0, 2.0), (1.0, 8.0))


def in_scaling(key: str, name: str, times: float = 1.0, *, also: tuple[str, ...] = ()) -> Back:
    """Make what reads a key's value into the rope scaling. times: what it is multiplied by. also: the same names it."""

    def back(given: Given) -> Mapping[str, Any]:
        value = given.get(key)
        if value is None:
            return {}
        value = shortest(value * times)
        scaling = {"rope_type": "default", **(given.config.get("rope_scaling") or {})}
        return {"rope_scaling": {**scaling, name: value, **dict.fromkeys(also, value)}}

    return back


def sections_of_file(given: Given) -> Mapping[str, Any]:
    """Read how many pairs turn with each axis of a position, if the config said it; a fourth axis if any do."""
    sections = list(given.get(_SECTIONS)) if given.is_early(_SECTIONS) else []
    scaling = {"rope_type": "default", **(given.config.get("rope_scaling") or {})}
    said = sections if sections[3:] != [0] else sections[:3]
    return {"rope_scaling": {**scaling, "mrope_section": said}} if said else {}


def rotary_part(name: str = "partial_rotary_factor") -> Back:
    """Make what reads the number of rotated values of a head as their share."""

    def back(given: Given) -> Mapping[str, Any]:
        n_rotated = given.get(Keys.Rope.DIMENSION_COUNT)
        hidden, n_heads = given.said("hidden_size"), given.said("num_attention_heads", "n_head")
        size = given.config.get("head_dim") or hidden // n_heads
        return {} if n_rotated is None else {name: n_rotated / size}

    return back
