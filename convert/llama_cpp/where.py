"""Where llama.cpp lives, and the lock that keeps two builds apart.

    HOME                      vendor/llama.cpp in a checkout around here, else <cache>/gguf-convert/llama.cpp
    ├── lock                  held by the process that fetches or builds
    ├── sources/COMMIT/       llama.cpp's tree as `tree/`, with `source.json`; it appears by a rename, so it is whole
    ├── refs.json             which commit a tag or a branch was when it was last fetched
    ├── cublas/VERSION/       cuBLAS from PyPI, where asked for; likewise
    ├── builds/NAME/          CMake's build folder, one per (commit, backend, options)
    │   ├── unfinished        there while the build is not, with the process id of its job; a later run goes on
    │   ├── build.log         every line that CMake, Ninja and the compilers said
    │   ├── build.json        there when the build is finished and every program was seen to start
    │   └── bin/              the programs, with `main`, `quantize`, … beside them
    └── main, quantize, …     links to the programs of the build made last

<cache> is `$XDG_CACHE_HOME` or `~/.cache`.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.errors import Remedy, ToolchainError
from convert.file_system import lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.llama_cpp.reporter import Reporter

_OUR_NAME: Final = re.compile(r'^name\s*=\s*"gguf-convert"\s*$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Home:
    """A directory that holds sources and builds, laid out as drawn above."""

    path: Path

    @property
    def sources(self) -> Path:
        """Return the folder of source trees, by commit."""
        return self.path / "sources"

    @property
    def builds(self) -> Path:
        """Return the folder of build folders, by name."""
        return self.path / "builds"

    @property
    def cublas(self) -> Path:
        """Return the folder of cuBLAS libraries from PyPI, by version."""
        return self.path / "cublas"


def home(directory: Path | None = None) -> Home:
    """Choose where to build: `directory`, else the checkout of this project around here, else the user's cache."""
    if directory is not None:
        return Home(directory.expanduser().absolute())
    return homes()[0]


def homes(directory: Path | None = None) -> list[Home]:
    """List where builds may be found, the preferred place first; only `directory` if one is given."""
    if directory is not None:
        return [home(directory)]
    checkout = checkout_directory()
    inside = [] if checkout is None else [Home(checkout / "vendor" / "llama.cpp")]
    return [*inside, user_cache()]


def user_cache() -> Home:
    """Return the place in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return Home((Path(cache) if cache else Path.home() / ".cache") / "gguf-convert" / "llama.cpp")


def checkout_directory() -> Path | None:
    """Find the checkout of this project around the current directory.

    Where the package or this Python lie does not matter: who works elsewhere has a cache of their own.
    """
    here = Path.cwd()
    return next((start for start in (here, *here.parents) if _is_our_checkout(start)), None)


def _is_our_checkout(directory: Path) -> bool:
    project = directory / "pyproject.toml"
    try:
        text = project.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return bool(_OUR_NAME.search(text)) and (directory / "convert" / "__init__.py").is_file()


@contextmanager
def locked(place: Home, reporter: Reporter) -> Iterator[None]:
    """Hold the lock of a home; waits, and says so, while another process holds it."""
    try:
        place.path.mkdir(parents=True, exist_ok=True)
        opened = (place.path / "lock").open("w")
    except OSError as error:
        raise ToolchainError(
            f"cannot build in `{place.path}`: {error.strerror}", remedies=(Remedy.BUILD_ELSEWHERE,)
        ) from error
    with opened:
        if not lock(opened.fileno(), place.path / "lock"):
            reporter.say(f"another process works in {place.path}; waiting for it")
            lock(opened.fileno(), place.path / "lock", wait=True)
        yield


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Give a fresh folder to fill, which becomes `target` by a rename if nothing goes wrong.

    What an earlier, killed attempt left is removed first; the caller holds the lock.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".partial-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(target, ignore_errors=True)  # there only if it was spoilt: else nobody would fill it again
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
