"""Finding a finished build: the checkout's, then the user's cache; the pinned commit first, then the newest.

A build made for another kind of processor, in a home that travels, would die of an illegal instruction: it is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.llama_cpp import where
from convert.llama_cpp.build import processor
from convert.llama_cpp.build_json import Build, read_builds
from convert.llama_cpp.pin import COMMIT

if TYPE_CHECKING:
    from pathlib import Path


def find_build(role: str = "completion", directory: Path | None = None) -> Build | None:
    """Find a finished build that has a program for `role`; only in `directory` if one is given."""
    here = (None, processor())
    builds = [
        build
        for build in read_builds(where.homes(directory))
        if role in build.programs and build.options.get("processor") in here
    ]
    return min(builds, key=lambda build: build.commit != COMMIT, default=None)  # min keeps the first of equals


def find_program(role: str, directory: Path | None = None) -> Path | None:
    """Find the program for a role (`completion`, `quantize`, `perplexity`, …) of a finished build."""
    build = find_build(role, directory)
    return None if build is None else build.programs[role]
