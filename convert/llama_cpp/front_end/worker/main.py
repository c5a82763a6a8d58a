"""The process that runs upstream's code: it imports everything once, then forks for each conversion.

    control socket   ──▶ two descriptors a conversion: a socket to talk over, a file for what upstream says
    that socket      ◀── {"ready"}; then, for a conversion: the request, pickled ──▶ the plan; then bytes of tensors

Definitions keep state in their classes, so no process serves two conversions. Whoever loses its socket ends at once.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.llama_cpp.front_end import protocol
from convert.llama_cpp.front_end.worker import confine

if TYPE_CHECKING:
    from convert.llama_cpp.front_end.request import Conversion

NEEDED: Final = ("torch", "transformers", "sentencepiece", "numpy", "yaml", "tqdm")


def main(control_fd: int) -> None:
    """Serve conversions until the control socket closes."""
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us decides
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        protocol.send(control, {"missing": missing})
        return
    is_cut_off = confine.leave_network()
    _import_upstream()
    protocol.send(control, {"ready": True, "cut_off": is_cut_off, "versions": _versions()})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies; who forks here does not wait
    while True:
        message, descriptors, *_ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _import_upstream() -> None:
    """Import what every conversion needs; nothing here may start a thread, which would not survive the fork."""
    import_module("conversion.base")
    transformers = import_module("transformers")
    for name in ("AutoConfig", "AutoTokenizer", "AutoProcessor", "PreTrainedTokenizerFast"):
        getattr(transformers, name)
    for name in ("conversion.llama", "conversion.qwen"):  # a third of all classes build on these
        import_module(name)
    gc.freeze()  # pages shared with the forks stay shared


def _versions() -> dict[str, str]:
    return {name: str(import_module(name).__version__) for name in ("torch", "transformers", "numpy")}


def _serve(connection_fd: int, log_fd: int) -> None:
    """Carry out one conversion, and end this process."""
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:%(name)s:%(message)s", stream=sys.stderr)
    connection = socket.socket(fileno=connection_fd)
    status = 0
    try:
        _Conversing(connection).run()
    except protocol.ConnectionLostError:
        pass
    except BaseException:  # noqa: BLE001 - this process ends here; it must not go on in the parent's loop
        traceback.print_exc()
        status = 1
    finally:
        sys.stderr.flush()
        os._exit(status)


class _Conversing:
    """One conversion's side of the talk. Requests are received on a thread, which also sees when the asker is gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._root = Path(tempfile.mkdtemp(prefix="convert-front-end-"))
        self._requests: list[dict[str, Any]] = []
        self._arrived = threading.Condition()

    def run(self) -> None:
        """Plan, then give tensors as they are asked for."""
        _, nbytes = protocol.receive(self._connection)
        conversion: Conversion = pickle.loads(protocol.receive_bytes(self._connection, nbytes))  # noqa: S301 - our own
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._answer(conversion)
        finally:
            shutil.rmtree(self._root, ignore_errors=True)

    def _answer(self, conversion: Conversion) -> None:
        from convert.llama_cpp.front_end.worker.planned import Planned, failure  # noqa: PLC0415 - after the log

        if not conversion.definition.trusts_code:
            confine.refuse_code()
        try:
            planned = Planned(conversion, self._root)
            answer, payload = planned.answer()
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            traceback.print_exc()
            protocol.send(self._connection, {"error": failure(error, conversion, self._root)})
            return
        protocol.send(self._connection, answer, payload)
        while True:
            request = self._next()
            try:
                values = planned.nbytes_of(request["tensor"], request["start"], request["stop"])
            except Exception as error:  # noqa: BLE001
                traceback.print_exc()
                protocol.send(self._connection, {"error": failure(error, conversion, self._root)})
                continue
            protocol.send(self._connection, {}, values)

    def _listen(self) -> None:
        try:
            while True:
                request, _ = protocol.receive(self._connection)
                with self._arrived:
                    self._requests.append(request)
                    self._arrived.notify()
        except (protocol.ConnectionLostError, json.JSONDecodeError):
            shutil.rmtree(self._root, ignore_errors=True)
            os._exit(0)

    def _next(self) -> dict[str, Any]:
        with self._arrived:
            self._arrived.wait_for(lambda: self._requests)
            return self._requests.pop(0)
