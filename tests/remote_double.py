"""A double of what gives models by ranges: the Hub, and the storage host that it sends clients to.

    with remote_double({"me/tiny": directory}) as hub:
        subprocess.run([..., "hf://me/tiny"], env={**os.environ, **hub.environment(home)})

The Hub lists a directory at one commit and serves its small files itself; what LFS would have it answers with a
redirect to another port, signed for a time, with the headers that huggingface.co sends. The storage host refuses a
token, as S3 does, gives ranges, and does what `faults` say, one for each request until they are used up.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pytest
    from hub_double import Hub

TOKEN: Final = "hf_" + "double" * 5
COMMIT: Final = "c0ffee" * 6 + "beef"
_LARGE: Final = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
_CHUNK: Final = 1 << 16


@dataclass(frozen=True)
class Fault:
    """What a request for bytes meets: a status with headers, or a connection that ends after so many bytes."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int = 0


@dataclass
class Double:
    """What is served, and how. A test may change it at any time.

    private, gated, granted: names of models that need the token; of gated ones; of those that it has access to.
    changes_after: so many
    requests for bytes later, everything has another ETag. sent: bytes of bodies. requests: with their ranges.
    lists: the storage host asks for no signature, and has a page of links for each model.
    rate: bytes a second of each connection to the storage host; delay_s: before each of its answers.
    """

    models: dict[str, Path]
    endpoint: str = ""
    storage: str = ""
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    granted: set[str] = field(default_factory=set)
    faults: deque[Fault] = field(default_factory=deque)
    hub_faults: deque[Fault] = field(default_factory=deque)
    changes_after: int | None = None
    signature: int = 1
    lists: bool = False
    rate: float = 0
    delay_s: float = 0
    sent: int = 0
    n_open: int = 0
    most_open: int = 0
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def environment(self, home: Path, *, token: str | None = None) -> dict[str, str]:
        """Give the environment variables that lead the client here, with nothing of this user's."""
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home / "hf"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return {**variables, **({"HF_TOKEN": token} if token else {})}


def lead_here(double: Double | Hub, monkeypatch: pytest.MonkeyPatch, home: Path, *, token: str | None = None) -> None:
    """Lead this process's client to the double, with caches of its own, and no waiting between tries."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

    from convert.remote import remote_file, stand_in

    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in double.environment(home, token=token).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", double.endpoint)
    template = f"{double.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-token"))
    monkeypatch.setattr(remote_file, "MAX_WAIT_S", 0.01)
    close_session()
    stand_in.opened.cache_clear()


@contextmanager
def remote_double(models: Mapping[str, Path]) -> Iterator[Double]:
    """Serve directories as models, on two free ports of this machine, while the block runs."""
    double = Double(dict(models))
    with ExitStack() as stack:
        double.endpoint = stack.enter_context(_served(_Hub, double))
        double.storage = stack.enter_context(_served(_Storage, double))
        yield double


@contextmanager
def _served(kind: type[_Handler], double: Double) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (kind,), {"double": double}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    double: Double
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base's signature
        """Say nothing."""

    def do_GET(self) -> None:
        self.double.requests.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        with self.double.lock:
            self.double.n_open += 1
            self.double.most_open = max(self.double.most_open, self.double.n_open)
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.double.lock:
                self.double.n_open -= 1

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self) -> None:
        """Answer a GET."""

    def reply(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        """Send a small answer."""
        self.send_response(status)
        for name, text in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    def refuse(self, status: int, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Refuse as the Hub does: what is wrong stands in a header."""
        self.reply(status, {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})}, b'{"error": "no"}')

    def send_file(self, path: Path, etag: str, fault: Fault | None = None) -> None:
        """Send a file, or the range of it that is asked for."""
        nbytes = path.stat().st_size
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = asked.partition("-")
        start, end = (int(first), min(int(last) + 1, nbytes)) if asked else (0, nbytes)
        if start >= nbytes and asked:
            self.refuse(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(end - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{nbytes}")
        self.end_headers()
        if self.command == "GET":
            self._send_body(path, start, min(end, start + fault.cut_after) if fault else end)
            if fault:
                self.close_connection = True

    def _send_body(self, path: Path, start: int, end: int) -> None:
        began, first = time.monotonic(), start
        fd = os.open(path, os.O_RDONLY)
        try:
            while start < end:
                data = os.pread(fd, min(_CHUNK, end - start), start)
                self.wfile.write(data)
                start += len(data)
                with self.double.lock:
                    self.double.sent += len(data)
                if self.double.rate:
                    time.sleep(max(began + (start - first) / self.double.rate - time.monotonic(), 0))
        finally:
            os.close(fd)


class _Hub(_Handler):
    def answer(self) -> None:
        url = urlsplit(self.path)
        name, what, rest = _parsed(unquote(url.path))
        directory = self.double.models.get(name)
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.double.hub_faults:
            fault = self.double.hub_faults.popleft()
            self.refuse(fault.status, headers=fault.headers)
        elif self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            self.reply(401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"{}")
        elif directory is None or (name in self.double.private and not has_token):
            self.refuse(404 if has_token else 401, "RepoNotFound")
        elif rest[0] not in ("main", COMMIT, "v1.0", "refs/pr/1"):
            self.refuse(404, "RevisionNotFound")
        elif what == "model":
            self._describe(name, directory)
        elif name in self.double.gated and not (has_token and name in self.double.granted):
            self.refuse(403 if has_token else 401, "GatedRepo")
        elif not (directory / rest[1]).is_file():
            self.refuse(404, "EntryNotFound")
        else:
            self._resolve(directory / rest[1], f"{name}/{rest[1]}")

    def _describe(self, name: str, directory: Path) -> None:
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        siblings = [_described(path, path.relative_to(directory).as_posix()) for path in files]
        answer = {"id": name, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _resolve(self, path: Path, name: str) -> None:
        etag, nbytes = _content(path, path.stat().st_size), path.stat().st_size
        own = {"X-Repo-Commit": COMMIT, "X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(nbytes)}
        if path.name.endswith(_LARGE):
            place = f"{self.double.storage}/{name}?signature={self.double.signature}"
            self.reply(302, {**own, "Location": place})
        else:
            self.send_file(path, etag)


class _Storage(_Handler):
    def answer(self) -> None:
        url = urlsplit(self.path)
        owner, model, path = unquote(url.path).lstrip("/").split("/", 2)
        if self.double.lists and not path:
            links = "".join(f'<a href="{file.name}">' for file in self.double.models[f"{owner}/{model}"].iterdir())
            self.reply(200, {"Content-Type": "text/html"}, links.encode())
            return
        time.sleep(self.double.delay_s)
        with self.double.lock:
            fault = self.double.faults.popleft() if self.double.faults else None
            if self.double.changes_after is not None:
                self.double.changes_after -= 1
        if "Authorization" in self.headers:
            self.refuse(400)
        elif not self.double.lists and parse_qs(url.query) != {"signature": [str(self.double.signature)]}:
            self.refuse(403)
        elif fault is not None and fault.status:
            self.refuse(fault.status, headers=fault.headers)
        else:
            has_changed = self.double.changes_after is not None and self.double.changes_after < 0
            etag = "another" if has_changed else "of-the-storage"
            self.send_file(self.double.models[f"{owner}/{model}"] / path, etag, fault)


def _parsed(path: str) -> tuple[str, str, tuple[str, str]]:
    """Take a path of the Hub apart: the model, what is asked of it, and (revision, file)."""
    if path.startswith("/api/models/"):
        name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
        return name, "model", (revision or "main", "")
    name, _, rest = path.lstrip("/").partition("/resolve/")
    revision, _, file = rest.partition("/")
    return name, "file", (revision, file)


def _described(path: Path, name: str) -> dict[str, Any]:
    nbytes = path.stat().st_size
    content = _content(path, nbytes)
    lfs = {"lfs": {"sha256": content, "size": nbytes, "pointerSize": 130}} if name.endswith(_LARGE) else {}
    return {"rfilename": name, "size": nbytes, "blobId": content, **lfs}


@lru_cache
def _content(path: Path, nbytes: int) -> str:
    """Return what the Hub calls a content; of a sparse file of gigabytes, a stand-in that is as good here."""
    if nbytes > 1 << 30:
        return sha256(path.name.encode()).hexdigest()
    data = path.read_bytes()
    if path.name.endswith(_LARGE):
        return sha256(data).hexdigest()
    return sha1(b"blob %d\0" % nbytes + data).hexdigest()  # noqa: S324 - git's
