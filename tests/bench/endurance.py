"""`python -m tests.endurance [--kills N]`: a conversion that is killed at random moments, again and again.

The synthetic 1.1B Llama to f16, q4_0 and q8_0; SIGKILL to the process group, and the same command again, until it ends
by itself; then from the beginning, until there were N kills. Every set of files must have the hashes of one made in one
go; what was noted as done must still be so after the next kill; what a kill costs is the time since the last note.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from .synthetic import write_synthetic_llama

TYPES: Final = "f16,q4_0,q8_0"
LONGEST_S: Final = 8.0


def main(arguments: list[str]) -> None:
    """Run it, and print what was found; ends with an error where anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path("/tmp/convert-endurance"))  # noqa: S108 - only a default
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    model = write_synthetic_llama(options.work / "model")
    whole, out = options.work / "whole", options.work / "out"
    _start(model, whole).wait()
    wanted, moments = _hashes(whole), random.Random(options.seed)  # noqa: S311 - moments, no secrets
    shutil.rmtree(whole)
    lost: list[float] = []
    n_kills = n_ends = 0
    while n_kills < options.kills:
        shutil.rmtree(out, ignore_errors=True)
        while (cost := _killed_once(model, out, moments)) is not None:
            n_kills += 1
            lost += [] if cost < 0 else [cost]
        if _hashes(out) != wanted:
            sys.exit("the files differ from those made in one go")
        n_ends += 1
        print(f"{n_kills} kills, {n_ends} times whole", flush=True)
    print(f"time lost a kill: median {statistics.median(lost):.2f} s, at most {max(lost):.2f} s")


def _start(model: Path, out: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "convert", "all", str(model), str(out), "--types", TYPES]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)


def _killed_once(model: Path, out: Path, moments: random.Random) -> float | None:
    """Run the command and kill it: the seconds of work lost, below 0 where none had begun; None: it came to its end."""
    before = _noted(out)
    process = _start(model, out)
    try:
        process.wait(moments.uniform(0.0, LONGEST_S))
    except subprocess.TimeoutExpired:
        killed = time.time()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = _noted(out)
        gone = [name for name, noted in before.items() if not now.get(name, b"").startswith(noted)]
        if any(not (out / name[1:].removesuffix(".journal")).exists() for name in gone):
            sys.exit(f"notes are gone: {gone}")
        last = max((path.stat().st_mtime for path in out.glob(".*.journal")), default=killed + 1)
        return killed - last
    if process.returncode:
        sys.exit(f"the command failed: exit code {process.returncode}")
    return None


def _noted(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob(".*.journal")}


def _hashes(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}
