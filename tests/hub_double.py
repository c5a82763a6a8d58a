"""A double of the Hugging Face Hub: an HTTP server that keeps what clients upload, and refuses what the Hub refuses.

    with hub_double() as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(home)})
        assert hub.repositories["me/model"].files == {"config.json": sha256, ...}

It speaks what huggingface_hub 2.4 asks of it for a model: whoami, create, auth-check, model info, a card's validation,
preupload, the LFS batch API with basic transfers and verification, and commits; and of hf_xet, by which the client
uploads unless told otherwise, the first version of its protocol. Contents are hashed on arrival and compared with their
names, where they do not come compressed by xet; a commit that names an object it does not have is refused.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from xet_shards import files_of_shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from remote_double import Double

TOKEN: Final = "hf_" + "double" * 5
_LARGE: Final = (".safetensors", ".bin", ".model", ".gguf", ".dat")  # sent to LFS by name, or as binary
_CHUNK: Final = 1 << 16


@dataclass
class Repository:
    """A model repository. files: sha256 of what each path holds; oids: what git or LFS calls it.

    contents: of the small files.
    """

    private: bool = False
    contents: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    oids: dict[str, str] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """What the double holds and how it behaves; a test may change either between and during requests.

    objects: sha256 of the LFS objects that have arrived. uploads: their order, with repeats. refused: the status and
    message for a method and the beginning of a path. on_object: set when the first byte of an object has arrived; it is
    not read further while `holds` is set. sources: the double that answers for the models that it has.
    """

    endpoint: str = ""
    user: str = "me"
    role: str = "write"
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)
    uploads: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    refused: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    holds: threading.Event = field(default_factory=threading.Event)
    card_warnings: list[dict[str, str]] = field(default_factory=list)
    on_object: threading.Event = field(default_factory=threading.Event)
    trusts_shards: bool = False
    sources: Double | None = None
    preupload: dict[str, Any] = field(default_factory=dict)  # said of every file otherwise than by default

    def environment(self, home: Path, *, token: str | None = TOKEN, xet: bool = False) -> dict[str, str]:
        """Give the environment variables that lead the client here, with nothing of this user's."""
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return {**variables, **({"HF_TOKEN": token} if token else {})}


@contextmanager
def hub_double() -> Iterator[Hub]:
    """Serve a double on a free port of this machine while the block runs."""
    hub = Hub()
    handler = type("BoundHandler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base's signature
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_HEAD(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_PUT(self) -> None:
        self._serve(self._put)

    def _serve(self, answer: Any) -> None:  # noqa: ANN401 - a bound method
        self.hub.requests.append(f"{self.command} {self.path}")
        for (method, start), (status, message) in self.hub.refused.items():
            if self.command == method and self.path.startswith(start):
                self._body()
                self._reply({"error": message}, status)
                return
        if (
            self.command != "PUT"
            and not self.path.startswith(("/v1/", "/v2/"))
            and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        ):
            self._body()
            self._reply({"error": "Invalid credentials"}, 401)
            return
        answer()

    def _get(self) -> None:
        asked = self.path.partition("?")[0]
        if self.hub.sources and any(f"/{name}/" in f"{asked}/" for name in self.hub.sources.models):
            self._pass_on(self.hub.sources.endpoint)
            return
        if "/resolve/" in self.path:
            name, _, rest = self.path.lstrip("/").partition("/resolve/")
            self._send(self.hub.repositories[name].contents[rest.partition("/")[2]])
            return
        if self.path == "/api/whoami-v2":
            token = {"accessToken": {"role": self.hub.role, "displayName": "double"}}
            self._reply({"name": self.hub.user, "type": "user", "orgs": [], "auth": token})
            return
        if "/xet-write-token/" in self.path:
            self._reply({"casUrl": self.hub.endpoint, "accessToken": "xet", "exp": int(time.time()) + 3600})
            return
        name = asked.removeprefix("/api/models/").removesuffix("/auth-check/write").removesuffix("/revision/main")
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif self.path.endswith("/auth-check/write"):
            owned = name.split("/")[0] == self.hub.user
            self._reply({} if owned else {"error": "You are not the owner"}, 200 if owned else 403)
        else:
            siblings = [_sibling(repository, path) for path in repository.files]
            sha = f"{len(repository.commits):040x}"
            described = {"id": name, "private": repository.private, "siblings": siblings, "sha": sha, "tags": []}
            self._reply({**described, "downloads": 0, "likes": 0})

    def _pass_on(self, endpoint: str) -> None:
        """Have another answer, redirects included."""
        connection = HTTPConnection(endpoint.removeprefix("http://"))
        given = {name: self.headers[name] for name in ("Authorization", "Range") if name in self.headers}
        connection.request(self.command, self.path, headers=given)
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, text in answer.getheaders():
            if name not in ("Server", "Date"):
                self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)
        connection.close()

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{git_oid(data)}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _post(self) -> None:
        body = self._body()
        if self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path.startswith("/api/models/") and "/paths-info/" in self.path:
            self._paths_info(self.path.split("/paths-info/")[0].removeprefix("/api/models/"), body)
        elif self.path == "/api/validate-yaml":
            invalid = [{"message": '"license" must be one of …'}] if b"license: nonsense" in body else []
            self._reply({"errors": invalid, "warnings": self.hub.card_warnings}, 400 if invalid else 200)
        elif "/preupload/" in self.path:
            self._preupload(self.path.split("/preupload/")[0].removeprefix("/api/models/"), json.loads(body))
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif self.path.startswith("/verify/"):
            known = json.loads(body)["oid"] in self.hub.objects
            self._reply({} if known else {"error": "no such object"}, 200 if known else 404)
        elif self.path.startswith(("/v1/xorbs/", "/v1/shards")):
            self._xet(body)
        elif "/commit/" in self.path:
            self._commit(self.path.split("/commit/")[0].removeprefix("/api/models/"), body)
        else:
            self._reply({"error": "unknown"}, 404)

    def _xet(self, body: bytes) -> None:
        if self.path == "/v1/shards":
            self.hub.objects.update(files_of_shard(body) if self.hub.trusts_shards else ())
            self._reply({"result": 1})
            return
        chunks = _xorb_chunks(body)
        self.hub.trusts_shards = chunks is None
        if chunks is not None:
            self.hub.objects.add(sha256(chunks).hexdigest())
        self.hub.uploads.append(self.path)
        self._reply({"was_inserted": True})

    def _create(self, asked: Mapping[str, Any]) -> None:
        owner = asked.get("organization") or self.hub.user
        name = f"{owner}/{asked['name']}"
        if owner != self.hub.user:
            self._reply({"error": f"You don't have the rights to create a model under the namespace {owner}"}, 403)
            return
        status = 409 if name in self.hub.repositories else 200
        self.hub.repositories.setdefault(name, Repository(private=asked.get("visibility") == "private"))
        self._reply({"url": f"{self.hub.endpoint}/{name}", "name": name}, status)

    def _paths_info(self, name: str, body: bytes) -> None:
        """Describe the files asked for, of those that are there: the body is a form, or JSON."""
        asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
        repository = self.hub.repositories[name]
        found = [(path, repository.files[path]) for path in asked if path in repository.files]
        described = [
            {"type": "file", "path": path, "size": 1, "oid": "0" * 40}
            | ({"lfs": {"oid": digest, "size": 1, "pointerSize": 1}} if path.endswith(_LARGE) else {})
            for path, digest in found
        ]
        self._reply(described)

    def _preupload(self, name: str, asked: Mapping[str, Any]) -> None:
        oids = self.hub.repositories[name].oids
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                "shouldIgnore": False,
                "oid": oids.get(file["path"]),
                **self.hub.preupload,
            }
            for file in asked["files"]
        ]
        self._reply({"files": modes, "commitOid": "0" * 40})

    def _batch(self, asked: Mapping[str, Any]) -> None:
        objects = []
        for item in asked["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.endpoint}/object/{item['oid']}"},
                "verify": {"href": f"{self.hub.endpoint}/verify/{item['oid']}"},
            }
            objects.append({**item, **({} if item["oid"] in self.hub.objects else {"actions": actions})})
        self._reply({"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})

    def _put(self) -> None:
        oid = self.path.removeprefix("/object/")
        self.hub.on_object.set()
        digest, left = sha256(), int(self.headers["Content-Length"])
        while left:
            if self.hub.holds.is_set():
                time.sleep(0.01)
                continue
            data = self.rfile.read(min(left, _CHUNK))
            if not data:  # the client has gone
                self.close_connection = True
                return
            left -= len(data)
            digest.update(data)
        if digest.hexdigest() != oid:
            self._reply({"error": "the content has another hash"}, 400)
            return
        self.hub.uploads.append(oid)
        self.hub.objects.add(oid)
        self._reply({})

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.hub.repositories[name]
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                data = base64.b64decode(value["content"])
                repository.contents[value["path"]] = data
                repository.files[value["path"]] = sha256(data).hexdigest()
                repository.oids[value["path"]] = git_oid(data)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    self._reply({"error": f"LFS object {value['oid']} does not exist"}, 400)
                    return
                repository.files[value["path"]] = repository.oids[value["path"]] = value["oid"]
        repository.commits.append(lines[0]["value"]["summary"])
        oid = f"{len(repository.commits):040x}"
        self._reply({"commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _reply(
        self, value: Mapping[str, Any] | list[Any], status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def git_oid(data: bytes) -> str:
    """Return what git calls a content."""
    return sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's


def _sibling(repository: Repository, path: str) -> dict[str, Any]:
    """Describe a file; the length of a large one is not kept, and nobody asks for it."""
    content = repository.contents.get(path)
    if content is not None:
        return {"rfilename": path, "size": len(content), "blobId": git_oid(content)}
    lfs = {"sha256": repository.files[path], "size": 1, "pointerSize": 130}
    return {"rfilename": path, "size": 1, "blobId": "0" * 40, "lfs": lfs}


def _xorb_chunks(xorb: bytes) -> bytes | None:
    """Take a xorb apart: chunks, each after 8 bytes: version, length, scheme (0: as it is), length when unpacked.

    None where one is compressed: what its file is, only the shard tells then.
    """
    position, chunks = 0, b""
    while position < len(xorb):
        version, length, scheme = (
            xorb[position],
            int.from_bytes(xorb[position + 1 : position + 4], "little"),
            xorb[position + 4],
        )
        assert version == 0
        if scheme:
            return None
        chunks += xorb[position + 8 : position + 8 + length]
        position += 8 + length
    return chunks
