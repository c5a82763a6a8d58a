"""llama.cpp from PyPI: it lies inside the source distribution of llama-cpp-python, for machines without a git host."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.errors import ToolchainError
from convert.llama_cpp.pin import SDIST, SDIST_NBYTES, SDIST_PACKAGE, SDIST_SHA256, SDIST_TREE
from convert.llama_cpp.toolchain import missing_tools
from convert.llama_cpp.unpack import unpack_tar
from convert.process import run

if TYPE_CHECKING:
    from convert.llama_cpp.reporter import Reporter

_TIMEOUT_S: Final = 3600.0


def fetch(into: Path, *, log: Path, tell: Reporter) -> None:
    """Download the pinned source distribution with pip, check its hash, and unpack llama.cpp's tree into `into`.

    Raises ToolchainError where pip is missing or fails, or the file is not the pinned one.
    """
    if importlib.util.find_spec("pip") is None:
        raise missing_tools("downloading from PyPI needs", ["pip"])
    with tempfile.TemporaryDirectory(dir=into.parent, prefix="download-") as scratch:
        tell.say(f"source: downloading {SDIST} from the package index ({SDIST_NBYTES // 10**6} MB)")
        archive = _download(Path(scratch), log)
        tell.say("source: unpacking")
        unpack_tar(archive, into, tree=SDIST_TREE)
    # A submodule's link to a git folder that is not in the archive: over it Ninja finds its own manifest
    # "still dirty after 100 tries".
    (into / ".git").unlink(missing_ok=True)


def _download(folder: Path, log: Path) -> Path:
    # With the hash in a requirements file pip checks it too, before it runs anything of the archive for its metadata.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", SDIST_PACKAGE, "--progress-bar", "off", "--dest", str(folder), "-r", str(requirements)]
    run(command, step=f"downloading {SDIST}", log=log, timeout_s=_TIMEOUT_S)
    archives = [*folder.glob("*.tar.gz")]
    if len(archives) != 1:
        raise ToolchainError(f"pip ended well but left {len(archives)} archives of `{SDIST}`; the log is `{log}`")
    with archives[0].open("rb") as opened:
        digest = _sha256(opened.read())
    if digest != SDIST_SHA256:
        raise ToolchainError(f"`{archives[0].name}` has sha256 {digest}, pinned is {SDIST_SHA256}")
    return archives[0]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
