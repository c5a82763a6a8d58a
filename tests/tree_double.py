"""A double of the Hub for whoever lists a repository and fetches from it by name, as llama.cpp's `-hf` does.

    with tree_double({"a-Q4_0.gguf": b"…"}) as tree:
        run(["llama-completion", "-hf", "me/model:Q4_0"], env={**os.environ, "MODEL_ENDPOINT": tree.endpoint})
        assert tree.fetched == ["a-Q4_0.gguf"]

It answers what common/hf-cache.cpp and common/download.cpp @ 0c1e570 ask: refs, the tree of a commit, and files.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMIT: Final = "c0ffee" + "0" * 34


@dataclass
class Tree:
    """One repository's files, whatever it is called, and which of them were fetched, in order, without repeats."""

    files: Mapping[str, bytes]
    endpoint: str = ""
    fetched: list[str] = field(default_factory=list)


@contextmanager
def tree_double(files: Mapping[str, bytes]) -> Iterator[Tree]:
    """Serve files on a free port of this machine while the block runs."""
    tree = Tree(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (_Handler,), {"tree": tree}))
    server.daemon_threads = True
    tree.endpoint = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield tree
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    tree: Tree

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base's signature
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path)
        if path.endswith("/refs"):
            self._send(json.dumps({"branches": [{"name": "main", "targetCommit": COMMIT}]}).encode())
        elif "/tree/" in path:
            self._send(json.dumps([_described(name, data) for name, data in sorted(self.tree.files.items())]).encode())
        elif (name := path.partition(f"/resolve/{COMMIT}/")[2]) in self.tree.files:
            if name not in self.tree.fetched:
                self.tree.fetched.append(name)
            self._send(self.tree.files[name])
        else:
            self.send_error(404)

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def _described(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "lfs": {"oid": sha256(data).hexdigest()}}
