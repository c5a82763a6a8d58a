"""Confinement: this process and what it forks reach no network, and run no code that came with a checkpoint.

Definitions ask transformers for the vocabulary, some of them with `trust_remote_code=True` (GLM-4, Nemotron-H,
Hunyuan); transformers would ask the Hub. On Linux the process gets a network of its own, with nothing in it; everywhere
Python's sockets refuse to connect, which also gives the error a name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

# include/uapi/linux/sched.h
_NEW_USER: Final = 0x10000000
_NEW_NETWORK: Final = 0x40000000

_SECRETS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


class NoNetworkError(OSError):
    """Something wanted to connect to a network."""


class UntrustedCodeError(Exception):
    """Something wanted to run the checkpoint's own Python files."""


def leave_network() -> bool:
    """Take the network away; called before any thread exists. Returns whether the system itself does so."""
    for name in _SECRETS:
        os.environ.pop(name, None)
    socket.socket.connect = _refuse  # type: ignore[method-assign]
    socket.socket.connect_ex = _refuse  # type: ignore[method-assign]
    if not sys.platform.startswith("linux"):
        return False
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is None:
        return False
    if unshare(_NEW_NETWORK) == 0:  # root may do so at once
        return True
    ids = os.getuid(), os.getgid()
    if unshare(_NEW_USER | _NEW_NETWORK) != 0:
        return False
    _stay_oneself(*ids)
    return True


def _stay_oneself(user: int, group: int) -> None:
    """Keep one's own ids in the new user namespace: else files seem to be nobody's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")


def _refuse(*_: Any) -> NoReturn:  # noqa: ANN401
    raise NoNetworkError("no network in here: whatever is needed must lie in the model's directory")


def refuse_code() -> None:
    """Have transformers run no code of a checkpoint, whatever upstream asks it for.

    A class that transformers has itself is taken instead. Source: transformers 5.23, dynamic_module_utils.py.
    """
    from transformers import dynamic_module_utils as dynamic  # noqa: PLC0415 - heavy

    resolve = dynamic.resolve_trust_remote_code

    def untrusting(_trust: object, name: str, has_local: bool, has_remote: bool, *args: Any, **kwargs: Any) -> bool:  # noqa: FBT001, ANN401
        if has_remote and not has_local:
            _untrusted()
        return bool(resolve(False, name, has_local, False, *args, **kwargs))  # noqa: FBT003

    for module in [module for name, module in sys.modules.items() if name.startswith("transformers.")]:
        if vars(module).get("resolve_trust_remote_code") is resolve:
            module.resolve_trust_remote_code = untrusting  # type: ignore[attr-defined]
    dynamic.get_class_in_module = _untrusted


def _untrusted(*_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
    raise UntrustedCodeError("the checkpoint brings Python code of its own, which is not run unless it is trusted")
