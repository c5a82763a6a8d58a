"""`python -m tests.endurance [--kills N]`: what `bench/endurance.py` tells."""

import runpy
import sys

sys.argv[1:1] = ["endurance"]
runpy.run_module("tests.bench", run_name="__main__", alter_sys=True)
