"""One row a type: bits a weight, speed of encoding beside ggml's, speed of decoding, and the error on a trained model.

The error is the relative RMSE, sqrt(sum (decoded - weight)^2 / sum weight^2), over all matrices of the checkpoint.
They are cut into rows of 256 weights wherever their own rows end, so that every type is measured on the same weights,
however small the model is. With importance (the second figure) all columns count alike: only an importance matrix of
the model itself could tell what a type's error costs it. Speeds are those of `kernels`, decoding on the same weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType

from convert.checkpoint import SourceFiles, matrix_shape, open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.codec import CODECS, Importance, decode_rows, encode_rows, kernel_level
from convert.codec.contract import sizes_of
from convert.model import float_values

from .kernels import QUANTIZED_TYPES, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_ROW: Final = 256  # every type's blocks fill it


def trained_weights(model: Path, at_most: int) -> NDArray[np.float32]:
    """Read the matrices of a checkpoint, one after the other, as float32 (n, 256), up to about so many weights."""
    found: list[NDArray[np.float32]] = []
    with closing(SourceFiles()) as files:
        for tensor in model_tensors(open_checkpoint(model)).tensors.values():
            n_rows, n_cols = matrix_shape(tensor.shape)
            if len(tensor.shape) < 2 or n_rows * n_cols % _ROW or sum(part.size for part in found) >= at_most:
                continue
            found.append(float_values(tensor, files, range(n_rows)).reshape(-1, _ROW))
    return np.concatenate(found)


def relative_rmse(weights: NDArray[np.float32], kind: GGMLQuantizationType, *, weighted: bool) -> float:
    """Encode and decode weights; say the error beside their size."""
    blocks = _encoded(weights, kind, weighted=weighted)
    error = decode_rows(blocks, kind).astype(np.float64) - weights
    return float(np.sqrt(np.square(error).sum() / np.square(weights.astype(np.float64)).sum()))


def _encoded(weights: NDArray[np.float32], kind: GGMLQuantizationType, *, weighted: bool) -> NDArray[np.uint8]:
    alike = Importance(np.ones((1, _ROW), np.float32), len(weights)) if weighted else None
    out = np.empty((len(weights), CODECS[kind].row_nbytes(_ROW)), np.uint8)
    source, f32 = weights.reshape(-1).view(np.uint8), GGMLQuantizationType.F32
    encode_rows(
        source, f32, n_cols=_ROW, through_f16=False, targets=[(kind, out.reshape(-1))], importance=alike, first_row=0
    )
    return out


def _decode_ns(weights: NDArray[np.float32], kind: GGMLQuantizationType, n_rounds: int) -> float:
    blocks, times = _encoded(weights, kind, weighted=CODECS[kind].needs_importance), []
    for _ in range(n_rounds):
        start = time.thread_time()
        decode_rows(blocks, kind)
        times.append(time.thread_time() - start)
    return statistics.median(times) / weights.size * 1e9


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; two figures in a column are without and with importance."""
    parser = argparse.ArgumentParser(prog="tests.bench types", description=__doc__)
    parser.add_argument("model", type=Path, help="a checkpoint that was trained")
    parser.add_argument("libggml_base", type=Path, help="path of libggml-base.so, built from the reference")
    parser.add_argument("types", nargs="*", help="types to measure (default: all)")
    parser.add_argument(
        "--weights", type=int, default=1 << 24, help="of the model, at most (default: 16 million or so)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="alternating runs (default: 5)")
    asked = parser.parse_args(argv)
    weights = trained_weights(asked.model, asked.weights)
    sys.stdout.write(f"level {kernel_level()}, {weights.size} weights of {asked.model.name}\n\n")
    heads = ("type", "bits a weight", "ns a weight", "ggml", "ratio", "decoding", "relative RMSE")
    sys.stdout.write(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n")
    for kind in [GGMLQuantizationType[name.upper()] for name in asked.types] or QUANTIZED_TYPES:
        cells = _row(kind, weights, asked.libggml_base, asked.rounds)
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()


def _row(kind: GGMLQuantizationType, weights: NDArray[np.float32], libggml_base: Path, n_rounds: int) -> list[str]:
    block_size, type_size = sizes_of(kind)
    ways = [way for way in (False, True) if not way or CODECS[kind].takes_importance]
    ways = [way for way in ways if way or not CODECS[kind].needs_importance]
    timings = list(measure(libggml_base, [kind.name], 1 << 18, n_rounds))
    return [
        kind.name.lower().replace("_k", "_K"),
        f"{8 * type_size / block_size:.4g}",
        " · ".join(f"{timing.ours:.2g}" for timing in timings),
        " · ".join(f"{timing.ggml:.3g}" for timing in timings),
        " · ".join(f"{timing.ggml / timing.ours:.1f}" for timing in timings),
        f"{_decode_ns(weights, kind, n_rounds):.2f}",
        " · ".join(f"{relative_rmse(weights, kind, weighted=way):.2%}" for way in ways),
    ]
