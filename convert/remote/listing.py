"""What is under an address: a commit of the Hub's, or files by name, each with its length and its content's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from convert.errors import CheckpointError
from convert.hub.download import pin, transport_errors, unreached
from convert.remote.fsspec_file import content_of, file_system, refused
from convert.remote.http_file import asked_wait, probe
from convert.remote.remote_file import PassingError, in_parallel, wait
from convert.remote.stand_in import StandIn
from convert.shown import shown

if TYPE_CHECKING:
    from convert.hub.download import HubRevision

Listed = list[tuple[str, StandIn]]

_FILES: Final = frozenset({"gguf", "safetensors", "bin", "pt", "pth", "ckpt"})
_TRIES: Final = 4
_MAX_FILES: Final = 10_000


def listed(address: str) -> tuple[Listed, str]:
    """List a folder, or what lies beside a file; and the file's name in it, empty for a folder.

    Raises CheckpointError or UnsupportedError.
    """
    if address.startswith(("http://", "https://")):
        return _by_http(address)
    system, path = file_system(address)
    try:
        info = system.info(path)
        folder = path if info["type"] == "directory" else path.rpartition("/")[0]
        found = system.find(folder, detail=True, **({} if folder == path else {"maxdepth": 1}))
    except Exception as error:
        raise refused(address, error) from error
    if len(found) > _MAX_FILES:
        raise CheckpointError(f"`{address}` has {len(found)} files, at most {_MAX_FILES} make a model")
    base = address if folder == path else address.rpartition("/")[0]
    files = [(name.removeprefix(folder).lstrip("/"), info) for name, info in found.items() if info["type"] == "file"]
    named = [(name, StandIn(f"{base}/{name}", int(each["size"]), content_of(each))) for name, each in files]
    if not named:
        raise CheckpointError(f"`{address}` is empty")
    return named, "" if folder == path else path.rpartition("/")[2]


def _by_http(address: str) -> tuple[Listed, str]:
    """Ask for a file itself; or for what a folder's page links to, which is all that HTTP has."""
    plain = address.partition("?")[0]
    name = plain.rpartition("/")[2]
    if "." in name and name.rpartition(".")[2].lower() in _FILES:
        return [(name, StandIn(address, *probe(address)))], name
    system, path = file_system(f"{plain}/")
    try:
        links = [str(link) for link in system.ls(path, detail=False)]
    except Exception as error:
        raise refused(address, error) from error
    base = f"{plain}/"
    names = sorted({link.removeprefix(base).partition("?")[0] for link in links if link.startswith(base)})
    names = [name for name in names if name and "/" not in name]
    if not names:
        raise CheckpointError(
            f"{shown(address)} links to no files", hint="name a file of weights, or a page that lists"
        )
    return in_parallel(lambda name: (name, StandIn(urljoin(base, name), *probe(urljoin(base, name)))), names), ""


def pinned(name: str, revision: str | None) -> HubRevision:
    """Pin a revision of a model on the Hub, and list it; what may pass is tried again.

    Raises CheckpointError.
    """
    for n_failures in range(1, _TRIES + 1):
        try:
            return pin(name, revision)
        except transport_errors() as error:  # noqa: PERF203 - it is what the loop is for
            answer = getattr(error, "response", None)
            if n_failures == _TRIES:
                raise unreached(name, error) from error
            said = None if answer is None else asked_wait(answer.headers)
            wait(error if said is None else PassingError(str(error), said), n_failures)
    raise AssertionError
