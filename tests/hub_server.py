"""A Hub on 127.0.0.1 that speaks the few endpoints used: a model's info, its tree, its files with HEAD, GET and ranges.

Large files are answered as the Hub does, by a redirect to another host (`localhost`) under `/cdn/`. A file's content is
a function of a range, so that a file of hundreds of GB costs nothing. Every request is written down.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

#: No answer sends more than this, whatever its headers claim.
MOST = 32 << 20


@dataclass(frozen=True)
class Blob:
    """A file: its size, its bytes start..stop, and whether it is stored as a large one."""

    size: int
    cut: Callable[[int, int], bytes]
    large: bool = False

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.cut(0, min(self.size, 1 << 20)) + str(self.size).encode()).hexdigest()


def blob(data: bytes, large: bool = False) -> Blob:
    return Blob(len(data), lambda start, stop: data[start:stop], large)


def sparse(head: bytes, size: int) -> Blob:
    """`head`, then zeros: `size` bytes in all."""
    return Blob(size, lambda start, stop: head[start:stop].ljust(stop - start, b"\0"), large=True)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    token: str | None
    sent: int


@dataclass
class Hub:
    """The server's content and what it was asked. `refuse`: path pattern -> [status, headers, how many times]."""

    endpoint: str = ""
    models: dict[str, dict[str, dict[str, Blob]]] = field(default_factory=dict)
    refuse: dict[str, list[object]] = field(default_factory=dict)
    ignores_ranges: bool = False
    requests: list[Request] = field(default_factory=list)

    def add(self, repo: str, files: dict[str, Blob], *names: str) -> str:
        """A commit with these files, which the revisions `names` point to; its hash."""
        commit = hashlib.sha1(repr([(n, b.digest) for n, b in sorted(files.items())]).encode()).hexdigest()
        for name in (commit, *(names or ("main",))):
            self.models.setdefault(repo, {})[name] = files
        return commit

    def commit(self, repo: str, revision: str) -> str:
        files = self.models[repo][revision]
        return next(name for name, known in self.models[repo].items() if known is files and len(name) == 40)

    def data_requests(self) -> list[Request]:
        """GETs of files, without redirects: what transfers content."""
        gets = [r for r in self.requests if r.method == "GET" and not r.path.startswith("/api/")]
        return [r for r in gets if r.sent]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        for pattern, refusal in self.hub.refuse.items():
            status, headers, times = refusal
            if re.search(pattern, path) and times:
                refusal[2] = int(str(times)) - 1
                return self.answer(int(str(status)), b"{}", dict(headers))  # type: ignore[call-overload]
        for pattern, reply in ROUTES:
            if match := re.fullmatch(pattern, path):
                return reply(self, *match.groups())
        self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def found(self, repo: str, revision: str) -> dict[str, Blob] | None:
        """The files of a revision; None: answered that there is none."""
        if repo not in self.hub.models:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        if revision not in self.hub.models[repo]:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return None
        return self.hub.models[repo][revision]

    def info(self, repo: str, revision: str) -> None:
        if (files := self.found(repo, revision)) is None:
            return
        siblings = [
            {"rfilename": name, "size": b.size, "blobId": b.digest[:40]}
            | ({"lfs": {"size": b.size, "sha256": b.digest, "pointerSize": 134}} if b.large else {})
            for name, b in files.items()
        ]
        self.json({"id": repo, "modelId": repo, "sha": self.hub.commit(repo, revision), "siblings": siblings})

    def tree(self, repo: str, revision: str) -> None:
        if (files := self.found(repo, revision)) is None:
            return
        self.json(
            [
                {"type": "file", "path": name, "size": b.size, "oid": b.digest[:40]}
                | ({"lfs": {"size": b.size, "oid": b.digest, "pointerSize": 134}} if b.large else {})
                for name, b in files.items()
            ]
        )

    def resolve(self, repo: str, revision: str, name: str) -> None:
        if (files := self.found(repo, revision)) is None:
            return
        if name not in files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        found = files[name]
        headers = {"X-Repo-Commit": self.hub.commit(repo, revision)}
        if not found.large:
            return self.content(found, headers | {"ETag": f'"{found.digest[:40]}"'})
        location = self.hub.endpoint.replace("127.0.0.1", "localhost") + f"/cdn/{repo}/{revision}/{name}"
        linked = {"X-Linked-Etag": f'"{found.digest}"', "X-Linked-Size": str(found.size), "Location": location}
        self.answer(302, b"", headers | linked)

    def cdn(self, repo: str, revision: str, name: str) -> None:
        self.content(self.hub.models[repo][revision][name], {})

    def content(self, found: Blob, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or self.hub.ignores_ranges:
            return self.answer(200, found.cut(0, min(found.size, MOST)), headers, found.size)
        start, stop = int(asked[1]), min(int(asked[2] or found.size) + 1, found.size)
        stop = min(stop, start + MOST)
        self.answer(206, found.cut(start, stop), headers | {"Content-Range": f"bytes {start}-{stop - 1}/{found.size}"})

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str], claimed: int | None = None) -> None:
        sends = self.command == "GET" and status < 300
        self.hub.requests.append(
            Request(
                self.command,
                unquote(urlsplit(self.path).path),
                self.headers.get("Range"),
                self.headers.get("Authorization"),
                len(body) if sends else 0,
            )
        )
        try:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
        except ConnectionError:
            pass  # a client may stop reading
        if claimed is not None and claimed > len(body):
            self.close_connection = True


REPO = r"([^/]+/[^/]+)"
ROUTES: tuple[tuple[str, Callable[..., None]], ...] = (
    (f"/api/models/{REPO}/revision/(.+)", Handler.info),
    (f"/api/models/{REPO}/tree/(.+)", Handler.tree),
    (f"/{REPO}/resolve/(refs/pr/[0-9]+|[^/]+)/(.+)", Handler.resolve),
    (f"/cdn/{REPO}/([^/]+)/(.+)", Handler.cdn),
)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is no error; anything else shows as its failure."""


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port, stopped at the end."""
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = Server(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
