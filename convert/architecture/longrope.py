"""Long contexts by factors for each rotary frequency: one list below the original length and one beyond.

The result has a factor too. Source: transformers, modeling_rope_utils.py, _compute_longrope_parameters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import GGUFValueType, Keys, RopeScalingType

from convert.architecture.metadata import Row
from convert.architecture.rope import LONG, rope_of, rope_scaling
from convert.checkpoint.views import Constant
from convert.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters

CONTEXT: Final = ("n_positions", "max_position_embeddings")
_NAMES: Final = (*LONG, "yarn")  # that the factors have had in configs


def factors(h: Hyperparameters, size: int) -> Iterator[Constant]:
    """Yield the factors. size: of each list.

    Raises UnsupportedError for another scaling, ConfigError for lists that do not fit.
    """
    if not has_factors(h):
        return
    for kind in ("long", "short"):
        values = rope_of(h).get(f"{kind}_factor")
        if not (isinstance(values, list) and len(values) == size and all(type(v) in (int, float) for v in values)):
            raise ConfigError(f"`{kind}_factor` in {h.where} is {values!r:.60}, wanted {size} numbers")
        yield Constant(f"rope_factors_{kind}.weight", np.array(values, "<f4").tobytes())


def has_factors(h: Hyperparameters) -> bool:
    """Whether a config has factors. Raises UnsupportedError for another scaling."""
    kind, is_long = rope_of(h).text("rope_type"), bool(rope_of(h).get("long_factor"))
    if kind not in ((None, "default", *_NAMES) if is_long else (None, "default")):
        raise UnsupportedError(f"rope scaling `{kind}` in {h.where}, wanted `longrope` with its factors")
    return is_long


def original_length(h: Hyperparameters) -> int:
    """Give the longest context of the short factors."""
    return rope_of(h).original_length() or h.size(*CONTEXT)


def scale(h: Hyperparameters) -> float | None:
    """Give what sines and cosines are multiplied by."""
    if not has_factors(h):
        return None
    rope, length = rope_of(h), original_length(h)
    stated, ratio = rope.number("attention_factor"), rope.number("factor")
    ratio = h.size(*CONTEXT) / length if ratio is None else ratio
    if stated is not None or ratio <= 1.0:
        return 1.0 if stated is None else stated
    return 0.1 * math.log(ratio) + 1.0 if rope.get("rope_type") == "yarn" else _root(ratio, length)


def _root(ratio: float, length: int) -> float:
    return math.sqrt(1 + math.log(ratio) / math.log(length))


def _scaling_or_factors(h: Hyperparameters) -> Iterator[tuple[str, Any, GGUFValueType]]:
    """Yield `rope_scaling`'s entries, or those of factors: the original length and the factor where they say something.

    The reference writes neither, and llama.cpp then takes the short factors up to the longest context.
    """
    if rope_of(h).text("rope_type") not in LONG:
        yield from rope_scaling(h)
        return
    factor, length = scale(h), original_length(h)
    yield Keys.Rope.SCALING_TYPE, RopeScalingType.LONGROPE.value, GGUFValueType.STRING
    if length != h.size(*CONTEXT):
        yield Keys.Rope.SCALING_ORIG_CTX_LEN, length, GGUFValueType.UINT32
    if factor != 1.0:
        yield Keys.Rope.SCALING_ATTN_FACTOR, factor, GGUFValueType.FLOAT32


def _factor_of_file(given: Given) -> Mapping[str, Any]:
    """Read the factor where the lengths do not give it, into the scaling that the row of the base has read."""
    scaling = given.config.get("rope_scaling") or {}
    if scaling.get("rope_type") != "longrope":
        return {}
    return {"rope_scaling": {**scaling, "attention_factor": given.get(Keys.Rope.SCALING_ATTN_FACTOR, 1.0)}}


SCALING_OR_FACTORS: Final = Row(_scaling_or_factors, Keys.Rope.SCALING_ATTN_FACTOR, _factor_of_file)
