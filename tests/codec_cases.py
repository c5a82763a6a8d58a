"""Weights, and importances, that find the edges of a quantizer, by name; drawn the same every time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from convert.codec import CODECS, FLOAT_TYPES
from convert.codec.grids import has_grid

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float32] | NDArray[np.float64]]

GRID_TYPES: Final = tuple(kind for kind in CODECS if has_grid(kind))
"""Those whose blocks look up a grid; NumPy takes longer over them, and ggml may abort: test_codec_iq.py."""
QUANTIZED_TYPES: Final = tuple(kind for kind in CODECS if kind not in FLOAT_TYPES and kind not in GRID_TYPES)
"""Every other type with blocks."""
BLOCK32_TYPES: Final = tuple(kind for kind in QUANTIZED_TYPES if CODECS[kind].block_size == 32)
WEIGHTED_TYPES: Final = tuple(kind for kind in QUANTIZED_TYPES if CODECS[kind].takes_importance)
"""Those that an importance matrix changes."""


def _signed_zeros(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.copysign(np.zeros(shape), rng.standard_normal(shape))


def _half_zeros(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Positive weights among zeros of both signs, so that the minimum is a zero."""
    values = rng.standard_normal(shape)
    return np.where(values > 0, values, _signed_zeros(rng, shape))


def _one_outlier(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    values = rng.standard_normal(shape) * 1e-3
    values[:, 7::32] = 50
    return values


def _every_magnitude(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Blocks of 16 from the smallest denormals to near the largest floats, neighbours far apart."""
    exponents = np.repeat(rng.uniform(-46, 38, (shape[0], shape[1] // 16)), 16, axis=1)
    return np.clip(rng.standard_normal(shape) * 10.0**exponents, -3.4e38, 3.4e38).astype(np.float32)


def _any_bits(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    values = rng.integers(0, 1 << 32, shape, dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(values), values, np.float32(1))


def _f16_denormals(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.ldexp(rng.integers(-1023, 1024, shape).astype(np.float64), -24)


def _around_halves(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Halves and their neighbours under a scale of exactly 1 (Q8_0), 0.49999997 among them."""
    halves = (rng.integers(-20, 21, shape) + 0.5).astype(np.float32)
    values = np.nextafter(halves, halves + rng.integers(-1, 2, shape).astype(np.float32))
    values[:, ::32] = 127
    return values.astype(np.float32)


def _constant_sub_blocks(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Sixteen equal weights: Q6_K's candidates tie but for rounding, so the order of its products decides."""
    return np.repeat(rng.standard_normal((shape[0], shape[1] // 16)), 16, axis=1)


_DRAWS: Final[dict[str, Draw]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "weights": lambda rng, shape: rng.normal(0, 0.02, shape),
    "positive": lambda rng, shape: rng.uniform(0.5, 2, shape),
    "negative": lambda rng, shape: rng.uniform(-2, -0.5, shape),
    "zeros": lambda _, shape: np.zeros(shape),
    "negative zeros": lambda _, shape: np.full(shape, -0.0),
    "zeros of both signs": _signed_zeros,
    "positive or zero": _half_zeros,
    "negative or zero": lambda rng, shape: -_half_zeros(rng, shape),
    "zero rows among others": lambda rng, shape: rng.standard_normal(shape) * (np.arange(shape[1]) // 48 % 2),
    "constant": lambda _, shape: np.full(shape, 0.3),
    "constant negative": lambda _, shape: np.full(shape, -0.3),
    "equal magnitudes of both signs": lambda rng, shape: np.sign(rng.standard_normal(shape)) * 0.7,
    "alternating signs": lambda _, shape: np.tile([1.0, -1.0], (shape[0], shape[1] // 2)),
    "ties to round": lambda rng, shape: np.where(rng.random(shape) < 0.1, 127, rng.integers(-254, 255, shape) / 2),
    "ties of few bits": lambda rng, shape: rng.integers(-16, 17, shape) / 2,
    "around halves": _around_halves,
    "constant sub-blocks": _constant_sub_blocks,
    "one outlier": _one_outlier,
    "float16 denormals": _f16_denormals,
    "tiny": lambda rng, shape: rng.standard_normal(shape) * 1e-38,
    "float32 denormals": lambda rng, shape: rng.standard_normal(shape) * 1e-42,
    "smallest denormals": lambda rng, shape: rng.integers(-3, 4, shape) * 1.4e-45,
    "near the threshold of Q6_K": lambda rng, shape: rng.standard_normal(shape) * 1e-15,
    "scale overflows float16": lambda rng, shape: rng.standard_normal(shape) * 1e7,
    "sums of Q6_K overflow": lambda rng, shape: rng.standard_normal(shape) * 1e13,
    "huge": lambda rng, shape: rng.uniform(-3.4e38, 3.4e38, shape),
    "every magnitude": _every_magnitude,
    "any bits": _any_bits,
}

CASES: Final = tuple(_DRAWS)


def draw(case: str, n_rows: int, n_cols: int) -> NDArray[np.float32]:
    """Draw finite float32 weights of the named case, (n_rows, n_cols); n_cols a multiple of 32."""
    rng = np.random.default_rng([CASES.index(case), n_rows, n_cols])
    with np.errstate(under="ignore"):
        return _DRAWS[case](rng, (n_rows, n_cols)).astype(np.float32)


_IMPORTANCES: Final[dict[str, Draw]] = {
    "ones": lambda _, shape: np.ones(shape),
    "sums of squares": lambda rng, shape: rng.standard_normal(shape) ** 2,
    "zeros": lambda _, shape: np.zeros(shape),
    "sparse": lambda rng, shape: np.where(rng.random(shape) < 0.7, 0, rng.random(shape)),
    "zeros for some blocks": lambda rng, shape: rng.random(shape) * (np.arange(shape[1]) // 48 % 2),
    "one column": lambda _, shape: np.where(np.arange(shape[1]) % 97 == 5, 1e6, 1e-6) * np.ones(shape),
    "every magnitude": lambda rng, shape: 10.0 ** rng.uniform(-30, 30, shape),
    "tiny": lambda rng, shape: rng.random(shape) * 1e-42,
    "huge": lambda rng, shape: rng.random(shape) * 3e38,
    "negative among others": lambda rng, shape: rng.standard_normal(shape),
}

IMPORTANCES: Final = tuple(_IMPORTANCES)


def draw_importance(case: str, n_experts: int, n_cols: int) -> NDArray[np.float32]:
    """Draw a finite float32 importance of the named case, (n_experts, n_cols)."""
    rng = np.random.default_rng([IMPORTANCES.index(case), n_experts, n_cols])
    with np.errstate(under="ignore"):
        return _IMPORTANCES[case](rng, (n_experts, n_cols)).astype(np.float32)
