"""Times each kernel against ggml's own `ggml_quantize_chunk`, by the processor time of one thread.

Weights are normal and float16 to begin with, as many as stay in a cache, as the stream's slices do. The two are run in
turn, so that what else the machine does falls on both; figures are medians. Ours starts from float16 bytes (as
`convert all` does), ggml from float32 (all that it takes), so ours does more.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType

from convert.codec import CODECS, FLOAT_TYPES, Importance, encode_rows, kernel_level, row_nbytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

QUANTIZED_TYPES: Final = tuple(kind for kind in CODECS if kind not in FLOAT_TYPES)
THE_FIVE: Final = tuple(GGMLQuantizationType[name] for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))
_N_COLS: Final = 2048


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians in nanoseconds a weight; and the ratio of the least times, which a busy machine disturbs less."""

    name: str
    ours: float
    ggml: float
    least_ratio: float


def _seconds(run: Callable[[], object]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def alternate(
    first: Callable[[], object], second: Callable[[], object], n_rounds: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Run two things in turn, after a warm-up of each; seconds of this thread's processor for each."""
    first()
    second()
    firsts, seconds = zip(*((_seconds(first), _seconds(second)) for _ in range(n_rounds)), strict=True)
    return firsts, seconds


def _ours(
    half: NDArray[np.float16], types: Sequence[GGMLQuantizationType], importance: Importance | None
) -> Callable[[], object]:
    n_rows, source = half.size // _N_COLS, half.view(np.uint8)
    targets = [(kind, np.zeros(n_rows * row_nbytes(kind, _N_COLS), np.uint8)) for kind in types]

    def run() -> object:
        return encode_rows(
            source,
            GGMLQuantizationType.F16,
            n_cols=_N_COLS,
            through_f16=True,
            targets=targets,
            importance=importance,
        )

    return run


def _theirs(
    weights: NDArray[np.float32],
    libggml_base: Path,
    types: Sequence[GGMLQuantizationType],
    importance: Importance | None,
) -> Callable[[], object]:
    function = ctypes.CDLL(str(libggml_base)).ggml_quantize_chunk
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p)
    outs = [(int(kind), np.zeros(row_nbytes(kind, weights.size), np.uint8)) for kind in types]
    n_rows, columns = weights.size // _N_COLS, importance and importance.columns.ctypes.data

    def run() -> object:
        for kind, out in outs:
            function(kind, weights.ctypes.data, out.ctypes.data, 0, n_rows, _N_COLS, columns)
        return None

    return run


def _cases(wanted: Iterable[str]) -> Iterator[tuple[str, tuple[GGMLQuantizationType, ...], bool]]:
    """Name, types, with importance or not: every type alone, then the five of 32-weight blocks together."""
    chosen = [GGMLQuantizationType[name.upper()] for name in wanted]
    for kind in chosen or QUANTIZED_TYPES:
        if not CODECS[kind].needs_importance:
            yield kind.name, (kind,), False
        if CODECS[kind].takes_importance:
            yield f"{kind.name} +", (kind,), True
    if not chosen:
        yield "the five", THE_FIVE, False


def measure(libggml_base: Path, wanted: Iterable[str], n_values: int, n_rounds: int) -> Iterator[Timing]:
    """Time the types that are named, or all."""
    rng = np.random.default_rng(0)
    half = rng.normal(0, 0.02, n_values).astype(np.float16)
    weights = half.astype(np.float32)
    importance = Importance(rng.random((1, _N_COLS), np.float32), n_values // _N_COLS)
    for name, types, weighted in _cases(wanted):
        counts = importance if weighted else None
        ours, ggml = alternate(
            _ours(half, types, counts), _theirs(weights, libggml_base, types, counts), max(1, n_rounds)
        )
        ours_ns, ggml_ns = (statistics.median(times) / n_values * 1e9 for times in (ours, ggml))
        yield Timing(name, ours_ns, ggml_ns, min(ggml) / min(ours))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table: nanoseconds a weight on one thread, and the ratio to ggml; + is with importance."""
    parser = argparse.ArgumentParser(prog="tests.bench kernels", description=__doc__)
    parser.add_argument("libggml_base", type=Path, help="path of libggml-base.so, built from the reference")
    parser.add_argument("types", nargs="*", help="types to time (default: all)")
    parser.add_argument("--values", type=int, default=1 << 18, help="weights in a slice (default: 262144)")
    parser.add_argument("--rounds", type=int, default=9, help="alternating runs (default: 9)")
    arguments = parser.parse_args(argv)
    n_values = max(1, arguments.values // _N_COLS) * _N_COLS
    sys.stdout.write(f"level {kernel_level()}, {n_values} weights, median of {arguments.rounds} alternating runs\n")
    sys.stdout.write(f"{'':10}{'ours':>10}{'ggml':>10}{'ratio':>8}{'of least':>10}   ns a weight, one thread\n")
    for t in measure(arguments.libggml_base, arguments.types, n_values, arguments.rounds):
        sys.stdout.write(f"{t.name:10}{t.ours:10.3f}{t.ggml:10.3f}{t.ggml / t.ours:8.1f}{t.least_ratio:10.1f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
