"""`convert all` from a bitsandbytes nf4 checkpoint, beside the way people take today, in turn, in one run.

Today's way: load with transformers, dequantize, save 16 bits, then the reference's converter and quantizer. Also the
same `convert all` from the float16 checkpoint. Prints medians and ratios of wall time, processor time in user mode,
peak memory, bytes written and disk, and compares the files.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .costs import Cost, compare, measure, median, warm
from .pipeline import ours, reference
from .synthetic import LAYERS, write_synthetic_llama, write_synthetic_nf4

if TYPE_CHECKING:
    from collections.abc import Sequence

_NF4, _F16, _SAVE, _TODAY = "nf4", "float16", "saved", "today"
_SAID = {
    _NF4: "convert all, from nf4",
    _F16: "convert all, from float16",
    _SAVE: "dequantize and save alone",
    _TODAY: "that, then the reference",
}
_MOST_WALL, _MOST_MEMORY_MB = 1.3, 256  # what is to be reached


def main(argv: Sequence[str]) -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench nf4", description=__doc__)
    parser.add_argument("--llama-cpp", type=Path, help="the reference's build directory (bin/llama-quantize)")
    parser.add_argument("--source", type=Path, help="the reference's source tree (convert_hf_to_gguf.py)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "convert-bench")
    options = parser.parse_args(argv)
    places = _write_checkpoints(options.work, options.layers)
    ours(places.packed, places.ours)  # the first run finds nothing cached
    costs: dict[str, list[Cost]] = {name: [] for name in _SAID}
    for _ in range(options.runs):
        _run_all(places, options.source, options.llama_cpp, costs)
    _print_table({name: runs for name, runs in costs.items() if runs})
    _check_outputs(places, has_reference=options.llama_cpp is not None)


@dataclass(frozen=True, slots=True)
class _Places:
    """Model directories, all of one name, since a GGUF is named after its directory; and where GGUFs go.

    plain: float16. packed: nf4. saved: what the packed one is dequantized to, in 16 bits.
    """

    plain: Path
    packed: Path
    saved: Path
    ours: Path
    reference: Path
    again: Path


def _write_checkpoints(work: Path, layers: int) -> _Places:
    name = f"synthetic-{layers}-layers"
    plain = write_synthetic_llama(work / name, layers=layers)
    packed = write_synthetic_nf4(work / "nf4" / name, plain, layers=layers)
    return _Places(plain, packed, work / "today" / name, work / "ours", work / "reference", work / "from-saved")


def _run_all(places: _Places, source: Path, build: Path | None, costs: dict[str, list[Cost]]) -> None:
    """Run each way once; the one from nf4 last, for its files are compared at the end."""
    warm(places.plain / "model.safetensors")
    costs[_F16].append(ours(places.plain, places.ours))
    shutil.rmtree(places.ours)
    warm(places.packed / "model.safetensors")
    saved = _save(places.packed, places.saved)
    costs[_SAVE].append(saved)
    if build is not None:
        cost = reference(places.saved, places.reference, source, build)
        costs[_TODAY].append(saved + replace(cost, disk=cost.disk + saved.written))
    warm(places.packed / "model.safetensors")
    costs[_NF4].append(ours(places.packed, places.ours))


def _save(packed: Path, out: Path) -> Cost:
    shutil.rmtree(out, ignore_errors=True)
    return measure([sys.executable, "-m", "tests.bench.dequantize", packed, out], into=out)


def _print_table(costs: dict[str, list[Cost]]) -> None:
    medians = {name: median(runs) for name, runs in costs.items()}
    best = medians[_NF4]
    heads = ("wall s", "user s", "peak MB", "written GB", "disk GB", "wall", "user", "peak")
    print(f"{'':26}{''.join(f'{head:>11}' for head in heads)}   (the last three as multiples of the first row)")
    for name, cost in medians.items():
        figures = (cost.wall, cost.user, cost.peak / 1e6, cost.written / 1e9, cost.disk / 1e9)
        ratios = (cost.wall / best.wall, cost.user / best.user, cost.peak / best.peak)
        print(f"{_SAID[name]:26}{''.join(f'{figure:11.2f}' for figure in (*figures, *ratios))}")
    for name, runs in costs.items():
        print(f"{_SAID[name]}: wall {', '.join(f'{cost.wall:.2f}' for cost in runs)}")
    plain, extra = medians[_F16], best.disk - best.written
    print("dequantize: transformers' model.dequantize(); save_pretrained needs save_original_format=False (5.23)")
    print(f"wall time from nf4 / from float16: {best.wall / plain.wall:.2f} (to reach: at most {_MOST_WALL})")
    print(f"peak memory from nf4: {best.peak / 1e6:.0f} MB (to reach: at most {_MOST_MEMORY_MB})")
    print(f"bytes on disk at the worst moment beyond the files that are left: {extra:.0f} (to reach: 0)")


def _check_outputs(places: _Places, *, has_reference: bool) -> None:
    """Compare the GGUFs made from nf4 with those made from its dequantized checkpoint, by us and by the reference."""
    ours(places.saved, places.again)
    compare(places.ours, places.again, what="`convert all` makes of the dequantized checkpoint")
    if has_reference:
        compare(places.ours, places.reference, what="the reference makes of it")
