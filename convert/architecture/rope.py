"""Rotary position embedding: what a config says of it, as metadata and as the tensor of Llama 3's factors.

Source: conversion/base.py, TextModel.set_gguf_parameters; conversion/llama.py, LlamaModel.generate_extra_tensors
@ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import GGUFValueType, Keys, RopeScalingType

from convert.errors import ConfigError, PlanError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from convert.architecture.hyperparameters import Hyperparameters, Rope
    from convert.fields import Fields

_F32: Final = GGUFValueType.FLOAT32
_U32: Final = GGUFValueType.UINT32
DEFAULT_BASE: Final = 10000.0  # src/llama-model.cpp, llama_model_base::load_hparams @ 0c1e570
_POSITIVE: Final = ("rope_theta", "factor", "low_freq_factor", "high_freq_factor")
# "dynamic" scaling leaves nothing in the file: llama.cpp runs such a model at its original length.
_TYPES: Final = ("default", "linear", "yarn", "llama3", "dynamic")
_MOST_PAIRS: Final = 1 << 16
_LONG: Final = ("longrope", "su")  # by factors, which only the families that have them look at
YARN: Final = (
    (Keys.Rope.SCALING_YARN_EXT_FACTOR, ("extrapolation_factor",)),
    (Keys.Rope.SCALING_YARN_ATTN_FACTOR, ("attention_factor", "attn_factor")),
    (Keys.Rope.SCALING_YARN_BETA_FAST, ("beta_fast",)),
    (Keys.Rope.SCALING_YARN_BETA_SLOW, ("beta_slow",)),
)


def rope_of(h: Hyperparameters) -> Rope:
    """Give the rotary parameters of layers with full attention."""
    return h.rope.full_attention


def rope_type(h: Hyperparameters) -> str | None:
    """Name the kind of scaling, checked; None where the config does not say.

    Raises UnsupportedError for a kind that GGUF cannot carry, PlanError for numbers that make no sense.
    """
    rope = rope_of(h)
    kind = rope.text("rope_type")
    kind = "llama3" if kind is not None and kind.lower() == "llama3" else kind  # as the reference compares it
    if kind is not None and kind not in (*_TYPES, *_LONG):
        raise UnsupportedError(f"rope scaling `{kind}` in config.json", hint=f"supported are {', '.join(_TYPES)}")
    for key in _POSITIVE:
        value = rope.number(key)
        if value is not None and value <= 0:
            raise PlanError(f"`{key}` in config.json is {value}, wanted a positive number")
        if kind == "llama3" and value is None and rope.has(key):
            raise rope.wrong((key,), "a positive number")
    return kind


def _number(rope: Fields, key: str, default: float) -> float:
    value = rope.number(key)
    return default if value is None else value


def rope_scaling(h: Hyperparameters) -> Iterator[tuple[str, Any, GGUFValueType]]:
    """Yield the entries of linear scaling and YaRN; ConfigError where no factor is said."""
    kind, rope = rope_type(h), rope_of(h)
    if kind in _LONG:
        raise UnsupportedError(f"rope scaling `{kind}` in config.json", hint=f"supported are {', '.join(_TYPES)}")
    if kind not in ("linear", "yarn"):
        return
    factor = rope.number("factor")
    if factor is None:
        raise ConfigError(f"{rope.where} lacks `factor`", hint="it is the longest context over the original one")
    named = RopeScalingType.LINEAR if kind == "linear" else RopeScalingType.YARN
    yield Keys.Rope.SCALING_TYPE, named.value, GGUFValueType.STRING
    yield Keys.Rope.SCALING_FACTOR, factor, _F32
    if kind == "yarn":
        length = rope.original_length()
        yield Keys.Rope.SCALING_ORIG_CTX_LEN, length or h.size("max_position_embeddings"), _U32
        for key, aliases in YARN:
            value = rope.number(*aliases)
            if value is not None:
                yield key, value, _F32


def rope_sections(h: Hyperparameters) -> tuple[int, ...] | None:
    """Give how many pairs of a head turn with each axis of a position, for four axes; None where it is not said."""
    sections = h.rope.get("mrope_section")
    if sections is None:
        return None
    if not (isinstance(sections, list) and all(type(size) is int and 0 <= size < _MOST_PAIRS for size in sections)):
        raise h.rope.wrong(("mrope_section",), "a list of numbers of pairs")
    return (*sections, 0, 0, 0, 0)[:4]


def rope_base(h: Hyperparameters) -> float | None:
    """Give the base frequency of layers with full attention."""
    return rope_of(h).number("rope_theta")


def rope_beyond_defaults(h: Hyperparameters) -> Iterator[tuple[str, Any, GGUFValueType]]:
    """Yield scaling, and a base frequency that is not llama.cpp's own, where the reference forgets both."""
    yield from rope_scaling(h)
    base = rope_base(h)
    if base is not None and base != DEFAULT_BASE:
        yield Keys.Rope.FREQ_BASE, base, _F32


def rope_base_of_windows(h: Hyperparameters) -> float | None:
    """Give the base frequency of layers with a sliding window, where it is one of its own."""
    return h.rope.sliding_attention.number("rope_theta")


def llama3_rope_factors(rope: Fields, head_dim: int) -> NDArray[np.float32]:
    """Compute what llama.cpp divides each rotary frequency by.

    Returns float32 (head_dim / 2,): 1 for short wavelengths, `factor` for long ones, a smooth mix between.
    Every operation is rounded to float32, in the reference's order; its powers are correctly rounded
    here, while torch's may be one unit in the last place off, depending on the processor.
    Source: conversion/llama.py, LlamaModel.generate_extra_tensors @ 0c1e570.
    """
    single = np.float32
    base = float(single(_number(rope, "rope_theta", 10000.0)))
    low, high = _number(rope, "low_freq_factor", 1.0), _number(rope, "high_freq_factor", 4.0)
    factor, old_length = _number(rope, "factor", 8.0), _number(rope, "original_max_position_embeddings", 8192)
    exponents = np.arange(0, head_dim, 2, dtype=single) / single(head_dim)
    frequencies = single(1) / np.power(base, exponents.astype(np.float64)).astype(single)
    wavelengths = (single(1) / frequencies) * single(2 * np.pi)
    with np.errstate(divide="ignore", invalid="ignore"):  # no wavelength lies between, where low and high are equal
        smooth = ((single(1) / wavelengths) * single(old_length) - single(low)) / single(high - low)
        mixed = single(1) / ((single(1) - smooth) / single(factor) + smooth)
    factors = np.where(wavelengths > single(old_length / low), single(factor), mixed)
    scaled: NDArray[np.float32] = np.where(wavelengths < single(old_length / high), single(1), factors).astype(single)
    if not np.isfinite(scaled).all():
        raise PlanError(f"`low_freq_factor` and `high_freq_factor` in {rope.where} are equal, and a wavelength too")
    return scaled
