"""A file behind HTTP, read by ranges: the Hub's, with the user's token, or any server's.

    address ──▶ 206                            the bytes
            ──▶ 302 to the same host           asked there, with the token: a repository was renamed
            ──▶ 302 to a storage host          asked there, without it; the place is remembered until it is refused,
                                               since it is signed for a time (the Hub: an hour)

Every answer must be of a file of the known length, and of the same content: the ETag that a host gave first must stay,
and the Hub's own names of the content (X-Linked-ETag; ETag of what it serves itself) must be those it listed.
"""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

from convert.errors import CheckpointError
from convert.hub.download import (
    TIMEOUT_S,
    address_of,
    hub_headers,
    offline,
    refusal,
    session,
    transport_errors,
    unreached,
)
from convert.remote.remote_file import MAX_TRIES, PassingError, StoppedError, changed, received, request, wait

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping

_PARTIAL, _WHOLE, _NO_RANGE, _PRECONDITION, _SERVER = 206, 200, 416, 412, 500
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PASSING: Final = frozenset({408, 425, 429})
_EXPIRED: Final = frozenset({400, 401, 403, 404, 410})  # what storage hosts say of a signature that is too old
_MAX_REDIRECTS: Final = 5
_HUB: Final = re.compile(r"hf://(?P<name>[^@]+)@(?P<commit>[^/]+)/(?P<path>.+)")


class HttpFile:
    """See RemoteFile. content: what the server calls its content, empty if it does not say."""

    def __init__(self, address: str, nbytes: int, content: str = "") -> None:
        self.address: Final = address
        self.nbytes: Final = nbytes
        self._content: Final = content
        hub = _HUB.fullmatch(address)
        self._repository: Final = hub["name"] if hub else ""
        self._url: Final = address_of(hub["name"], hub["commit"], hub["path"]) if hub else address
        self._place: str | None = None
        self._etags: Final[dict[str, str]] = {}  # of each host

    def read_into(self, position: int, out: memoryview, stop: threading.Event | None = None) -> None:
        filled, n_failures = 0, 0
        while filled < len(out):
            try:
                with request(stop):
                    for count in self._receive(position + filled, out[filled:]):
                        filled, n_failures = filled + count, 0
                        if stop is not None and stop.is_set():
                            raise StoppedError
            except transport_errors() as error:
                failure: BaseException = error
            except PassingError as error:
                failure = error
            else:
                failure = PassingError("the connection ended early")
            if filled < len(out):
                n_failures += 1
                if n_failures == MAX_TRIES or _is_offline(failure):
                    raise self._given_up(failure) from failure
                wait(failure, n_failures, stop)

    def check(self) -> None:
        """Nothing: every answer was held against what was known."""

    def _given_up(self, failure: BaseException) -> CheckpointError:
        if _is_offline(failure):
            return offline(self._repository or self.address)
        if self._repository and not isinstance(failure, PassingError):
            return unreached(self._repository, failure)
        return CheckpointError(
            f"`{self.address}` does not come, after {MAX_TRIES} tries: {failure or type(failure).__name__}",
            hint="try again later: nothing that was read is lost but the work of this run",
        )

    def _receive(self, position: int, out: memoryview) -> Iterator[int]:
        """Ask once for a range, and fill it as it comes; yields counts of bytes."""
        url, own = self._place or self._url, hub_headers() if self._repository and self._place is None else {}
        for _ in range(_MAX_REDIRECTS):
            asked = {"Range": f"bytes={position}-{position + len(out) - 1}", "Accept-Encoding": "identity"}
            with _answer(url, {**own, **asked}) as (answer, chunks):
                if answer.status_code in _REDIRECTS:
                    url, own = self._followed(answer, url, own)
                    continue
                self._check(answer, url, (position, len(out)))
                yield from _filled(chunks(), out)
                return
        raise CheckpointError(f"`{self.address}` leads from one address to another, and never to the file")

    def _followed(self, answer: Any, url: str, own: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:  # noqa: ANN401
        """Return where a redirect leads, and the headers for it: the token is for its own host."""
        target = urljoin(url, answer.headers.get("location", ""))
        self._hold_against_listing(answer.headers.get("x-linked-etag"), answer.headers.get("x-linked-size"))
        if urlsplit(target)[:2] == urlsplit(url)[:2]:
            return target, own
        self._place = target
        return target, {}

    def _check(self, answer: Any, url: str, wanted: tuple[int, int]) -> None:  # noqa: ANN401
        status, headers = answer.status_code, answer.headers
        if status == _PARTIAL:
            self._check_same(headers, url, wanted[0])
        elif status == _WHOLE and wanted == (0, self.nbytes) and headers.get("content-length") == str(self.nbytes):
            self._check_etag(headers, url)
        elif status == _WHOLE:
            raise CheckpointError(
                f"`{self.address}`: {urlsplit(url).netloc} gives whole files only, wanted ranges",
                hint="download it, and name the path",
            )
        elif status in (_NO_RANGE, _PRECONDITION):
            raise changed(self.address, f"it has no byte {wanted[0] + wanted[1] - 1} any more ({status})")
        elif status in _PASSING or status >= _SERVER:
            raise PassingError(f"{urlsplit(url).netloc} answers {status}", asked_wait(headers))
        elif status in _EXPIRED and url == self._place:
            self._place = None
            raise PassingError(f"{urlsplit(url).netloc} refuses its own address ({status})", 0)
        else:
            raise self._refused(answer)

    def _refused(self, answer: Any) -> CheckpointError:  # noqa: ANN401
        if self._repository and (refused := refusal(answer, self._repository, None)) is not None:
            return refused
        return CheckpointError(f"`{self.address}` is refused: the server answers {answer.status_code}")

    def _check_same(self, headers: Mapping[str, str], url: str, position: int) -> None:
        first, _, total = headers.get("content-range", "").removeprefix("bytes ").partition("/")
        if total != str(self.nbytes):
            raise changed(self.address, f"it has {total or 'unknown'} bytes, it had {self.nbytes}")
        if not first.startswith(f"{position}-"):
            raise CheckpointError(f"`{self.address}`: asked for bytes from {position}, the server gives {first}")
        self._check_etag(headers, url)

    def _check_etag(self, headers: Mapping[str, str], url: str) -> None:
        etag, host = headers.get("etag", ""), urlsplit(url).netloc
        if etag.startswith("W/") or not etag:
            return
        if url == self._url and self._content:
            self._hold_against_listing(etag, None)
        if (first := self._etags.setdefault(host, etag)) != etag:
            raise changed(self.address, f"its ETag is {etag}, it was {first}")

    def _hold_against_listing(self, etag: str | None, nbytes: str | None) -> None:
        name = (etag or "").strip('"')
        if self._content and name and name != self._content:
            raise changed(self.address, f"its content is `{name}`, it was `{self._content}`")
        if nbytes is not None and nbytes != str(self.nbytes):
            raise changed(self.address, f"it has {nbytes} bytes, it had {self.nbytes}")


def probe(url: str) -> tuple[int, str]:
    """Ask a server for a file's length, and what it calls its content.

    Raises CheckpointError if it does not say, or has no such file.
    """
    for n_failures in range(1, MAX_TRIES + 1):
        try:
            with _answer(url, {"Range": "bytes=0-0", "Accept-Encoding": "identity"}, follow=True) as (answer, _):
                if answer.status_code not in _PASSING and answer.status_code < _SERVER:
                    return _probed(url, answer)
                failure: BaseException = PassingError(f"it answers {answer.status_code}", asked_wait(answer.headers))
        except transport_errors() as error:
            failure = error
        if n_failures == MAX_TRIES or _is_offline(failure):
            break
        wait(failure, n_failures)
    if _is_offline(failure):
        raise offline(url) from failure
    raise CheckpointError(f"`{url}` cannot be reached: {failure or type(failure).__name__}") from failure


def _probed(url: str, answer: Any) -> tuple[int, str]:  # noqa: ANN401
    total = answer.headers.get("content-range", "").rpartition("/")[2]
    if answer.status_code == _PARTIAL and total.isdecimal():
        etag = answer.headers.get("etag", "")
        return int(total), "" if etag.startswith("W/") else etag.strip('"')
    if answer.status_code == _WHOLE:
        raise CheckpointError(f"`{url}` comes whole only, wanted ranges", hint="download it, and name the path")
    raise CheckpointError(f"`{url}` is not there: the server answers {answer.status_code}")


@contextmanager
def _answer(
    url: str, headers: Mapping[str, str], *, follow: bool = False
) -> Iterator[tuple[Any, Callable[[], Iterator[bytes]]]]:
    """Ask; gives the answer, and what gives its bytes as they come. Before huggingface_hub 1.0 it is by requests."""
    client = session()
    if callable(client.stream):
        with client.stream("GET", url, headers=headers, follow_redirects=follow, timeout=TIMEOUT_S) as answer:
            yield answer, answer.iter_raw
    else:
        asked = client.get(url, headers=headers, stream=True, allow_redirects=follow, timeout=TIMEOUT_S)
        with closing(asked) as answer:
            yield answer, lambda: answer.iter_content(1 << 18)


def _filled(chunks: Iterator[bytes], out: memoryview) -> Iterator[int]:
    filled = 0
    for chunk in chunks:
        taken = min(len(chunk), len(out) - filled)
        out[filled : filled + taken] = chunk[:taken]
        filled += taken
        received(taken)
        yield taken
        if filled == len(out):
            return


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to wait: Retry-After, or the Hub's `RateLimit: "api";r=0;t=55`."""
    asked = headers.get("retry-after", "").strip()
    limit = re.search(r"\br=0;t=(\d+)", headers.get("ratelimit", ""))
    return float(asked) if asked.isdecimal() else float(limit[1]) if limit else None


def _is_offline(failure: BaseException) -> bool:
    return type(failure).__name__ == "OfflineModeIsEnabled"
