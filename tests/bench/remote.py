"""`convert all hf://…` against a plain ranged download of the same bytes, from the same double of the Hub, in turn.

The double is a process of its own; each of its connections gives so many MB a second, after a delay, as networks do.
The download has as many connections and asks for pieces as large, and keeps nothing. Prints MB/s of both and the ratio,
of ours without the time that a dry run takes; and wall time, processor time and peak memory, also of the conversion
from this disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .costs import Cost, measure, median, warm
from .synthetic import write_synthetic_llama

if TYPE_CHECKING:
    from collections.abc import Sequence

_SERVE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from remote_double import remote_double
with remote_double({"me/synthetic": Path(sys.argv[2])}) as double:
    double.rate, double.delay_s = float(sys.argv[3]) * 1e6, float(sys.argv[4])
    print(double.endpoint, flush=True)
    sys.stdin.read()
"""
_DOWNLOAD = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from huggingface_hub import hf_hub_url
from huggingface_hub.utils import get_session
url, client = hf_hub_url("me/synthetic", "model.safetensors"), get_session()
piece, nbytes = int(sys.argv[1]), int(sys.argv[2])
place = client.get(url, headers={"Range": "bytes=0-0"}).url
def fetch(start):
    asked = {"Range": f"bytes={start}-{min(start + piece, nbytes) - 1}"}
    with client.stream("GET", place, headers=asked) as answer:
        return sum(map(len, answer.iter_raw()))
started = time.monotonic()
with ThreadPoolExecutor(int(sys.argv[3])) as pool:
    assert sum(pool.map(fetch, range(0, nbytes, piece))) == nbytes
print(time.monotonic() - started)
"""


def main(argv: Sequence[str]) -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench remote", description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--types", default="f16,q8_0")
    parser.add_argument("--rate", type=float, default=12.5, help="MB/s of each connection")
    parser.add_argument("--delay", type=float, default=0.03, help="seconds before each answer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "convert-bench")
    options = parser.parse_args(argv)
    model = write_synthetic_llama(options.work / f"synthetic-{options.layers}-layers", layers=options.layers)
    home, nbytes = options.work / "remote-home", (model / "model.safetensors").stat().st_size
    shutil.rmtree(home, ignore_errors=True)
    words = [sys.executable, "-c", _SERVE, str(Path(__file__).parent.parent), str(model)]
    words += [str(options.rate), str(options.delay)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        os.environ |= {"HF_ENDPOINT": server.stdout.readline().strip(), "XDG_CACHE_HOME": str(home)}
        os.environ |= {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        runs = [_run(model, options.work / "ours", options.types, nbytes) for _ in range(options.runs)]
        server.communicate("")
    _print(nbytes, *(list(column) for column in zip(*runs, strict=True)))


def _run(model: Path, out: Path, types: str, nbytes: int) -> tuple[float, Cost, Cost, Cost]:
    from convert.remote.ahead import PIECE_NBYTES
    from convert.remote.remote_file import N_CONNECTIONS

    warm(model / "model.safetensors")
    words = [sys.executable, "-c", _DOWNLOAD, *map(str, (PIECE_NBYTES, nbytes, N_CONNECTIONS))]
    plain = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    asked = [[source, out, "--name", "model", "--types", types] for source in ("hf://me/synthetic", model)]
    planning = measure([sys.executable, "-m", "convert", "all", *asked[0], "--dry-run"])
    remote, local = (_convert(given, out) for given in asked)
    return plain, planning, remote, local


def _convert(asked: Sequence[str | Path], out: Path) -> Cost:
    cost = measure([sys.executable, "-m", "convert", "all", *asked], into=out)
    shutil.rmtree(out)
    return cost


def _print(nbytes: int, plain: list[float], planning: list[Cost], remote: list[Cost], local: list[Cost]) -> None:
    reading = sorted(run.wall - plan.wall for run, plan in zip(remote, planning, strict=True))
    ours, theirs = nbytes / reading[len(reading) // 2] / 1e6, nbytes / sorted(plain)[len(plain) // 2] / 1e6
    planned = median(planning).wall
    print(f"plain ranged download   {theirs:8.1f} MB/s")
    print(f"convert all hf://…      {ours:8.1f} MB/s, {ours / theirs:.2f} of it; {planned:.1f} s of planning before")
    for name, costs in (("from the Hub", remote), ("from this disk", local)):
        cost = median(costs)
        print(f"{name:14}          {cost.wall:8.1f} s wall {cost.user:6.1f} s user {cost.peak / 1e6:6.0f} MB peak")
