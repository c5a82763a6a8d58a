"""What more machines gain: `convert plan`, `work` by one and by two workers of one thread each, and `finish`.

Two are measured, in turn; for 8 and 64 a model is printed, made of measured parts, which is no measurement:

    T(n) = plan + start + (the largest of n shares of the units' seconds) + finish,  and at least  bytes / storage

start: a worker's imports, and its reading of the plan. The second table is for a 70B model, six types, workers of 16
threads: its units cost as much a byte, 16 times less for the threads, and storage is what bounds it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .costs import warm
from .synthetic import write_synthetic_llama

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONVERT: Final = (sys.executable, "-m", "convert")
_WORKERS: Final = (1, 2, 8, 64)
_70B: Final = (141e9, 333e9)  # bytes of the checkpoint, and of f16, q4_0, q4_1, q5_0, q5_1 and q8_0
_THREADS: Final = 16
_UNIT: Final = 1e9  # bytes that a unit of so large a job writes


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of each step; units: of each unit, in order."""

    plan: float
    start: float
    work: float
    finish: float
    units: tuple[float, ...]
    nbytes: int

    @property
    def total(self) -> float:
        """The whole, as a user waits for it."""
        return self.plan + self.work + self.finish


def main(argv: Sequence[str]) -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench scaling", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--storage", type=float, default=5.0, help="GB/s that all workers together read and write")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "convert-bench")
    options = parser.parse_args(argv)
    model = write_synthetic_llama(options.work / f"llama-{options.layers}-layers", layers=options.layers)
    warm(model / "model.safetensors")
    measured: dict[int, list[Parts]] = {1: [], 2: []}
    for _ in range(options.runs):
        for n_workers, runs in measured.items():
            runs.append(_run(model, options.work / "scaling", n_workers))
    _print(measured, options.storage * 1e9)


def _run(model: Path, work: Path, n_workers: int) -> Parts:
    shutil.rmtree(work, ignore_errors=True)
    plan = work / "plan.bin"
    work.mkdir(parents=True)
    planned = _seconds([["plan", model, work / "out", "-o", plan]])
    shares = [["work", plan, "--part", f"{part}/{n_workers}", "-j", 1] for part in range(1, n_workers + 1)]
    worked = _seconds(shares)
    started = _seconds([["work", plan]])  # nothing is left to do
    records = next((work / "out").glob(".*.units"))
    found = sorted(records.iterdir(), key=lambda path: int(path.name))
    units = tuple(float(json.loads(path.read_text())["seconds"]) for path in found)
    finished = _seconds([["finish", plan]])
    nbytes = sum(path.stat().st_size for path in (work / "out").glob("*.gguf"))
    shutil.rmtree(work)
    return Parts(planned, started, worked, finished, units, nbytes)


def _seconds(commands: Sequence[Sequence[object]]) -> float:
    """Run commands at the same time, to the end of the last."""
    started = time.monotonic()
    running = [
        subprocess.Popen([*_CONVERT, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for words in commands
    ]
    for process in running:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return time.monotonic() - started


def _print(measured: dict[int, list[Parts]], storage: float) -> None:
    one = sorted(measured[1], key=lambda parts: parts.total)[len(measured[1]) // 2]
    print(
        f"{len(one.units)} units, {one.nbytes / 1e9:.2f} GB; plan {one.plan:.1f} s, start {one.start:.1f} s, ", end=""
    )
    print(f"finish {one.finish:.1f} s, units {sum(one.units):.1f} s\n{'workers':>8}{'measured s':>12}{'model s':>10}")
    for n_workers in _WORKERS:
        took = [parts.total for parts in measured.get(n_workers, ())]
        shown = f"{statistics.median(took):.1f}" if took else "-"
        print(f"{n_workers:8}{shown:>12}{_model(one, one.units, n_workers):10.1f}")
    read, written = _70B
    units = [_UNIT / one.nbytes * sum(one.units) / _THREADS] * int(written / _UNIT)
    floor = (read + written) / storage
    print(f"\na 70B model, {_THREADS} threads a worker, storage of {storage / 1e9:g} GB/s (at least {floor:.0f} s)")
    for n_workers in _WORKERS:
        print(f"{n_workers:8}{'-':>12}{max(_model(one, units, n_workers), floor):10.0f}")


def _model(parts: Parts, units: Sequence[float], n_workers: int) -> float:
    longest = max(sum(units[part::n_workers]) for part in range(n_workers))
    return parts.plan + parts.start + longest + parts.finish


if __name__ == "__main__":
    main(sys.argv[1:])
