"""llama.cpp, fetched and built with one call, found again, and run.

    build = build_llamacpp()                       the pinned commit, CUDA where it can work, else CPU
    build.programs["quantize"]                     Path of llama-quantize, whatever upstream calls it
    find_program("completion")                     of any finished build; None if there is none

The pin is in `pin`, the layout on disk in `where`.
"""

from __future__ import annotations

from convert.llama_cpp.build import build_llamacpp
from convert.llama_cpp.build_json import Build, read_builds
from convert.llama_cpp.find import find_build, find_program
from convert.llama_cpp.reporter import Reporter, Silent
from convert.llama_cpp.source import Tree, fetch_tree

__all__ = [
    "Build",
    "Reporter",
    "Silent",
    "Tree",
    "build_llamacpp",
    "fetch_tree",
    "find_build",
    "find_program",
    "read_builds",
]
