"""A model that llama.cpp's definitions have planned, in a process that lives as long as somebody holds the session.

A session pickles as what was asked for: where it is unpickled, the process is started and the model planned again when
the first tensor is wanted.
"""

from __future__ import annotations

import pickle
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from convert.errors import PlanError, Remedy, TokenizerError, UnsupportedError
from convert.llama_cpp.front_end import protocol
from convert.llama_cpp.front_end.prepared import prepare
from convert.llama_cpp.front_end.server import Definitions, definitions, failed, new_log

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from convert.checkpoint.source_files import U8Array
    from convert.errors import ConvertError
    from convert.llama_cpp.front_end.prepared import Prepared
    from convert.llama_cpp.front_end.request import Wanted

_PATIENCE_S: Final = 0.5  # how long a tensor that is half delivered keeps others waiting, once nobody asks for it


@dataclass(frozen=True, slots=True)
class Answer:
    """The plan that came back. header: see worker/planned.py. entries: metadata as they stand in a file."""

    header: dict[str, Any]
    entries: bytes


class _Talk:
    """A connection to the process of one model, and what it answered."""

    def __init__(self, wanted: Wanted, prepared: Prepared) -> None:
        self._definitions: Definitions = definitions(wanted.definition.tree)
        self._definitions.wait_until_ready()
        self.log = new_log()
        self.connection = self._definitions.connect(self.log)
        self.end = weakref.finalize(self, _end, self.connection, self.log)
        self.answer = self._plan(pickle.dumps(prepared.conversion(wanted)))

    def _plan(self, request: bytes) -> Answer:
        try:
            protocol.send(self.connection, {}, request)
            header, nbytes = protocol.receive(self.connection)
            return Answer(self.checked(header), bytes(protocol.receive_bytes(self.connection, nbytes)))
        except protocol.ConnectionLostError as error:
            raise self.lost() from error

    def checked(self, header: dict[str, Any]) -> dict[str, Any]:
        """Return the header; raise what it reports."""
        if (error := header.get("error")) is None:
            return header
        if (reason := _reason(error)) is not None:
            self.end()
            raise reason
        self.end.detach()  # the log stays
        self.connection.close()
        first, last = f"{error['first_kind']}: {error['first']}", f"{error['kind']}: {error['said']}"
        said = first if first == last else f"{first}; then {last}"
        raise failed("llama.cpp's definition failed", self.log, first=said)

    def lost(self) -> ConvertError:
        """Make the error for a process that has ended without a word."""
        self.end.detach()
        self.connection.close()
        return failed("the process that runs llama.cpp's definitions has ended, perhaps for want of memory", self.log)


def _end(connection: socket.socket, log: Path) -> None:
    connection.close()
    log.unlink(missing_ok=True)


def _reason(error: dict[str, str]) -> ConvertError | None:
    """Make the error for what we know the reason of; None for what only upstream's log explains."""
    kinds, said = {error["kind"], error["first_kind"]}, error["said"]
    if "UnknownArchitectureError" in kinds:
        return UnsupportedError(f"llama.cpp's definitions have none for `{said}`")
    if "UntrustedCodeError" in kinds:
        message = (
            "the checkpoint's vocabulary needs Python code that comes with it, which is not run unless it is trusted"
        )
        return UnsupportedError(message, remedies=(Remedy.TRUST_CODE,))
    if "TooMuchMemoryError" in kinds:
        return PlanError(said, remedies=(Remedy.MORE_MEMORY,))
    if "ElsewhereError" in kinds:
        hint = "download the model first (`hf download`), and name its directory"
        return UnsupportedError(f"{said}, where there is no network", hint=hint)
    if error["kind"] == "TokenizerError":  # our own table of pre-tokenizers was asked
        return TokenizerError(said, remedies=(Remedy.NAME_PRE_TOKENIZER,))
    return None


class Session:
    """A model through llama.cpp's definitions. Two of one request are equal."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted: Final = wanted
        self._lock = threading.Lock()
        self._talk: _Talk | None = None
        self._delivery = _Delivery()

    def __reduce__(self) -> tuple[type[Session], tuple[Wanted]]:
        return Session, (self.wanted,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and other.wanted == self.wanted

    def __hash__(self) -> int:
        return hash(self.wanted)

    def plan(self, prepared: Prepared) -> Answer:
        """Have the model planned."""
        self._talk = _Talk(self.wanted, prepared)
        return self._talk.answer

    def read(self, index: int, nbytes: int, start: int, out: U8Array) -> None:
        """Fill `out` with bytes of a tensor's values from `start` on. nbytes: of all its values.

        The process holds the whole of one tensor, so others wait until this one has been delivered.
        """
        with self._delivery.of(index, nbytes, len(out.reshape(-1))), self._lock:
            talk = self._opened()
            try:
                request = {"tensor": index, "start": start, "stop": start + out.nbytes}
                protocol.send(talk.connection, request)
                talk.checked(protocol.receive(talk.connection)[0])
                protocol.receive_into(talk.connection, out.reshape(-1).data)
            except protocol.ConnectionLostError as error:
                raise talk.lost() from error

    def _opened(self) -> _Talk:
        if self._talk is None:
            self._talk = _Talk(self.wanted, prepare(self.wanted.model))
        return self._talk


class _Delivery:
    """Whose turn it is: a tensor's, from its first byte to its last; or the next one's, when nobody asks any more."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._index: int | None = None
        self._left = 0
        self._asked_at = 0.0

    def of(self, index: int, nbytes: int, wanted: int) -> _Delivery:
        """Wait for a tensor's turn."""
        with self._turn:
            while self._index not in (None, index) and time.monotonic() - self._asked_at < _PATIENCE_S:
                self._turn.wait(_PATIENCE_S)
            if self._index != index:
                self._index, self._left = index, nbytes
            self._left -= wanted
            self._asked_at = time.monotonic()
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        with self._turn:
            self._asked_at = time.monotonic()
            if self._left <= 0:
                self._index = None
            self._turn.notify_all()
