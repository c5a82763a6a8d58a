"""The process that runs llama.cpp's definitions, seen from ours: started once a source tree, forked for each model."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.errors import ToolchainError
from convert.llama_cpp.front_end import protocol
from convert.process import Server

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_ROOT: Final = Path(__file__).resolve().parents[3]
# Upstream's package and its own `gguf` come first; ours last, for the classes of what is sent.
_PROGRAM: Final = (
    "import sys; sys.path[:1] = sys.argv[2:4]; sys.path.append(sys.argv[4]);"
    "from convert.llama_cpp.front_end.worker.main import main; main(int(sys.argv[1]))"
)
_ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",  # its threads would not survive a fork
}
_running: Final[MutableMapping[Path, Definitions]] = weakref.WeakValueDictionary()
_lock: Final = threading.Lock()


class Definitions:
    """The running process of one source tree; ends when nobody holds it."""

    def __init__(self, tree: Path) -> None:
        if not (tree / "conversion" / "base.py").is_file():
            raise ToolchainError(f"`{tree}` has no `conversion` package: it is no source tree of llama.cpp since 2026")
        self._log = new_log()
        self._server = Server(lambda fd: _command(fd, tree), log=self._log, env=_ENVIRONMENT)
        self._lock = threading.Lock()
        self._is_ready = False

    def connect(self, log: Path) -> socket.socket:
        """Fork a process for one model, once this one is ready; what it says goes to `log`."""
        ours, theirs = socket.socketpair()
        with theirs, log.open("ab") as written, self._lock:
            socket.send_fds(self._server.socket, [b"+"], [theirs.fileno(), written.fileno()])
        return ours

    def wait_until_ready(self) -> None:
        """Wait until all is imported.

        Raises ToolchainError where packages are missing, or the process does not start.
        """
        with self._lock:
            if not self._is_ready:
                self._hear_that_it_is_ready()

    def _hear_that_it_is_ready(self) -> None:
        try:
            answer, _ = protocol.receive(self._server.socket)
        except protocol.ConnectionLostError as error:
            raise failed("llama.cpp's definitions could not be imported", self._log) from error
        if missing := answer.get("missing"):
            names = ", ".join(f"`{name}`" for name in missing)
            raise ToolchainError(
                f"llama.cpp's definitions need {names}, which `{sys.executable}` does not have",
                hint=f"`{sys.executable} -m pip install {' '.join(_PIP_NAMES.get(name, name) for name in missing)}`",
            )
        self._is_ready = True
        self._log.unlink(missing_ok=True)


_PIP_NAMES: Final = {"yaml": "pyyaml"}


def definitions(tree: Path) -> Definitions:
    """Return the process of a source tree, started if none runs."""
    with _lock:
        if (running := _running.get(tree)) is None:
            running = _running[tree] = Definitions(tree)
        return running


def new_log() -> Path:
    """Make an empty file for what a process says; it is removed when all went well."""
    descriptor, name = tempfile.mkstemp(prefix="convert-front-end-", suffix=".log")
    os.close(descriptor)
    return Path(name)


def failed(what: str, log: Path, *, first: str | None = None) -> ToolchainError:
    """Make the error that shows the first thing that went wrong, and names the log."""
    said = first or _first_error(log)
    return ToolchainError(f"{what}: {said}" if said else what, hint=f"the whole log is `{log}`")


def _first_error(log: Path) -> str:
    """Find the first line that is an exception's: what failed first; later ones come from how upstream goes on."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            kind, colon, said = line.partition(": ")
            if colon and kind.rpartition(".")[2].endswith(("Error", "Exception")) and " " not in kind:
                return f"{kind}: {said.strip()}"
    return ""


def _command(fd: int, tree: Path) -> list[str]:
    return [sys.executable, "-c", _PROGRAM, str(fd), str(tree), str(tree / "gguf-py"), str(_ROOT)]
