"""Benchmarks: `python -m tests.bench NAME`, whose names are below.

Every figure is a ratio against the reference measured in the same run, medians of several alternating runs; but for
`planning` and `scaling`, which have none.
"""

from __future__ import annotations

import sys

from . import endurance, families, kernels, nf4, pipeline, planning, remote, scaling, type_table

_BENCHMARKS = {
    "pipeline": pipeline.main,
    "families": families.main,
    "nf4": nf4.main,
    "kernels": kernels.main,
    "types": type_table.main,
    "planning": planning.main,
    "remote": remote.main,
    "endurance": endurance.main,
    "scaling": scaling.main,
}


def main() -> None:
    """Run the benchmark that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in _BENCHMARKS:
        sys.exit(f"usage: python -m tests.bench {{{','.join(_BENCHMARKS)}}} [options]")
    _BENCHMARKS[sys.argv[1]](sys.argv[2:])


main()
