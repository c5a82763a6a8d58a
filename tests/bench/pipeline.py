"""`convert all` against the reference pipeline on the synthetic 1.1B Llama, in turn, in one run.

Prints wall time, processor time in user mode, peak memory and bytes written, medians and ratios, and the
floor: reading the checkpoint and writing as many bytes as the outputs have, with two threads.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .costs import Cost, compare, measure, median, warm
from .synthetic import LAYERS, write_synthetic_llama

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TYPES = "f16,q4_0,q4_1,q5_0,q5_1,q8_0"
_BLOCK = 1 << 22


def main(argv: Sequence[str]) -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench pipeline", description=__doc__)
    parser.add_argument("--llama-cpp", type=Path, help="the reference's build directory (bin/llama-quantize)")
    parser.add_argument("--source", type=Path, help="the reference's source tree (convert_hf_to_gguf.py)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--types", default=_TYPES, help="as for `convert all`; the reference makes the f16 in any case")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "convert-bench")
    options = parser.parse_args(argv)
    model = write_synthetic_llama(options.work / f"synthetic-{options.layers}-layers", layers=options.layers)
    out = options.work / "ours"
    candidates: dict[str, Callable[[], Cost]] = {"convert all": lambda: ours(model, out, options.types)}
    if options.llama_cpp:
        candidates["reference"] = lambda: reference(
            model, options.work / "reference", options.source, options.llama_cpp, options.types
        )
    candidates["bare copy"] = lambda: _floor(model, out, options.work / "copy")
    ours(model, out, options.types)  # warm the page cache
    costs: dict[str, list[Cost]] = {name: [] for name in candidates}
    for _ in range(options.runs):
        for name, run in candidates.items():
            warm(model / "model.safetensors")
            costs[name].append(run())
    _print_table(costs)
    if options.llama_cpp:
        if "f16" not in options.types.lower().split(","):
            (options.work / "reference" / "model-F16.gguf").unlink()
        compare(out, options.work / "reference", what="the reference's")


def ours(model: Path, out: Path, types: str = _TYPES) -> Cost:
    """Run `convert all` into a new directory."""
    shutil.rmtree(out, ignore_errors=True)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "convert",
        "all",
        model,
        out,
        "--name",
        "model",
        "--types",
        types,
    ]
    return measure(command, into=out)


def reference(model: Path, out: Path, source: Path, build: Path, types: str = _TYPES) -> Cost:
    """Run the reference's converter, then its quantizer for each type, into a new directory."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    f16 = out / "model-F16.gguf"
    converter: list[str | Path] = [
        sys.executable,
        source / "convert_hf_to_gguf.py",
        model,
        "--outtype",
        "f16",
        "--outfile",
        f16,
    ]
    cost = measure(converter, into=out)
    for kind in types.upper().split(","):
        if kind == "F16":
            continue
        cost += measure([build / "bin" / "llama-quantize", f16, out / f"model-{kind}.gguf", kind], into=out)
    return cost


def _floor(model: Path, outputs: Path, copy: Path) -> Cost:
    """Read the checkpoint once and write as many bytes as the outputs have, two threads, no arithmetic, no flush."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    total = sum(path.stat().st_size for path in outputs.glob("*.gguf"))
    source = model / "model.safetensors"
    os.sync()
    started, user = time.monotonic(), os.times().user
    threads = [
        threading.Thread(target=_copy_part, args=(source, copy / f"{part}", part, total // 2)) for part in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cost = Cost(time.monotonic() - started, os.times().user - user, 0)
    shutil.rmtree(copy)
    return cost


def _copy_part(source: Path, target: Path, part: int, n_written: int) -> None:
    buffer = memoryview(bytearray(_BLOCK))
    fd_in, fd_out = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY | os.O_CREAT)
    half = os.fstat(fd_in).st_size // 2
    for start in range(0, half, _BLOCK):
        os.preadv(fd_in, [buffer], part * half + start)
    for start in range(0, n_written, _BLOCK):
        os.pwrite(fd_out, buffer, start)
    os.close(fd_in)
    os.close(fd_out)


def _print_table(costs: dict[str, list[Cost]]) -> None:
    medians = {name: median(runs) for name, runs in costs.items()}
    ours = medians["convert all"]
    print(f"{'':12}{'wall s':>9}{'user s':>9}{'peak MB':>9}   wall, user as a multiple of ours")
    for name, cost in medians.items():
        ratios = f"{cost.wall / ours.wall:8.2f}{cost.user / ours.user:8.2f}"
        print(f"{name:12}{cost.wall:9.2f}{cost.user:9.2f}{cost.peak / 1e6:9.0f}   {ratios}")
    for name, runs in costs.items():
        print(f"{name}: wall {', '.join(f'{cost.wall:.2f}' for cost in runs)}")
