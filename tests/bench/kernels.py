"""Times each kernel against ggml's own `quantize_row_*_ref`, on one thread.

Weights are normal and float16 to begin with, a few megabytes of them, so that they stay in a cache as the stream's
slices do. The two are run in turn, so that what else the machine does falls on both; figures are medians. Ours starts
from float16 bytes (as `convert all` does), ggml from float32 (all that it takes), so ours does more.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from gguf import GGMLQuantizationType

from convert.codec import encode_rows, kernel_level, row_nbytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

BLOCK32_TYPES: Final = (
    GGMLQuantizationType.Q4_0,
    GGMLQuantizationType.Q4_1,
    GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q5_1,
    GGMLQuantizationType.Q8_0,
)
QUANTIZED_TYPES: Final = (*BLOCK32_TYPES, GGMLQuantizationType.Q6_K)
_N_COLS: Final = 2048


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians, in billions of weights a second."""

    name: str
    ours: float
    ggml: float


def ggml_function(libggml_base: Path, tensor_type: GGMLQuantizationType) -> Callable[[int, int, int], None]:
    """Give ggml's reference quantizer for a type; called with the addresses of weights and blocks, and a count."""
    name = tensor_type.name.lower().replace("_k", "_K")
    function = getattr(ctypes.CDLL(str(libggml_base)), f"quantize_row_{name}_ref")
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64), None
    return cast("Callable[[int, int, int], None]", function)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternate(first: Callable[[], object], second: Callable[[], object], n_rounds: int) -> tuple[float, float]:
    """Run two things in turn, after a warm-up of each; median seconds of each."""
    first()
    second()
    times = [(_seconds(first), _seconds(second)) for _ in range(n_rounds)]
    return statistics.median(pair[0] for pair in times), statistics.median(pair[1] for pair in times)


def _ours(half: NDArray[np.float16], types: Sequence[GGMLQuantizationType]) -> Callable[[], object]:
    n_rows, source = half.size // _N_COLS, half.view(np.uint8)
    targets = [(kind, np.zeros(n_rows * row_nbytes(kind, _N_COLS), np.uint8)) for kind in types]

    def run() -> object:
        return encode_rows(source, GGMLQuantizationType.F16, n_cols=_N_COLS, through_f16=True, targets=targets)

    return run


def _theirs(
    weights: NDArray[np.float32], libggml_base: Path, types: Sequence[GGMLQuantizationType]
) -> Callable[[], object]:
    work = [(ggml_function(libggml_base, kind), np.zeros(row_nbytes(kind, weights.size), np.uint8)) for kind in types]

    def run() -> object:
        for function, out in work:
            function(weights.ctypes.data, out.ctypes.data, weights.size)
        return None

    return run


def measure(libggml_base: Path, n_values: int, n_rounds: int) -> list[Timing]:
    """Time every quantized type alone, then the five of 32-weight blocks together."""
    half = np.random.default_rng(0).normal(0, 0.02, n_values).astype(np.float16)
    weights = half.astype(np.float32)
    timings = []
    for name, types in (*((kind.name, (kind,)) for kind in QUANTIZED_TYPES), ("the five", BLOCK32_TYPES)):
        ours, ggml = alternate(_ours(half, types), _theirs(weights, libggml_base, types), n_rounds)
        timings.append(Timing(name, n_values / ours / 1e9, n_values / ggml / 1e9))
    return timings


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table: billions of weights a second on one thread, and the ratio to ggml."""
    parser = argparse.ArgumentParser(prog="tests.bench kernels", description=__doc__)
    parser.add_argument("libggml_base", type=Path, help="path of libggml-base.so, built from the reference")
    parser.add_argument("--values", type=int, default=1 << 20, help="weights in a slice (default: 1048576)")
    parser.add_argument("--rounds", type=int, default=15, help="alternating runs (default: 15)")
    arguments = parser.parse_args(argv)
    n_values = max(1, arguments.values // _N_COLS) * _N_COLS
    lines = [f"level {kernel_level()}, one thread, {n_values} weights, median of {arguments.rounds} alternating runs"]
    lines.append(f"{'':10}{'ours':>10}{'ggml':>10}{'ratio':>8}   billion weights/s")
    lines.extend(
        f"{t.name:10}{t.ours:10.3f}{t.ggml:10.3f}{t.ours / t.ggml:8.1f}"
        for t in measure(arguments.libggml_base, n_values, arguments.rounds)
    )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
