"""A stand-in for the Hub, on 127.0.0.1 under a free port: what huggingface_hub asks of a repository of data that is read.

Routes are a table of patterns, so that writing (commits, uploads) can join them. Content lies in memory; files are served as the Hub serves
large ones, by a redirect to a signed address whose signature is a secret.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.web import read_range

SIGNATURE = "X-Signature=secret-of-the-content-server"


@dataclass
class Hub:
    """Repositories by name, each its files by path; and what was asked and sent."""

    url: str
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)  # repositories that want a token
    token: str = "hf_token_that_no_file_may_hold"  # noqa: S105 - planted, to be looked for
    page: int = 1000
    sent: int = 0  # bytes of bodies, listings too
    asked: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def put_folder(self, repository: str, folder: Path) -> None:
        """Publish a folder's files, hidden ones too."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        self.repositories[repository] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class Handler(BaseHTTPRequestHandler):
    """Answers by the first route that matches."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def _route(self) -> None:
        parts = urlsplit(self.path)
        path, length = unquote(parts.path), int(self.headers.get("Content-Length") or 0)
        self.body, self.query = self.rfile.read(length), parse_qs(parts.query)
        with self.hub.lock:
            self.hub.asked.append(f"{self.command} {path}")
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, path):
                answer(self, *found.groups())
                return
        self.send_json({"error": "no such route"}, 404)

    def find_repository(self, name: str) -> dict[str, bytes] | None:
        """A repository's files; None once the request has been refused."""
        if name in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.send_json({"error": "gated"}, 403, {"X-Error-Code": "GatedRepo"})
            return None
        if name not in self.hub.repositories:
            self.send_json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return None
        return self.hub.repositories[name]

    def send_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_body(json.dumps(value).encode(), status, {"Content-Type": "application/json"} | (headers or {}))

    def send_body(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with self.hub.lock:
                self.hub.sent += len(body)
            self.wfile.write(body)


def send_repository(request: Handler, name: str, *_: str) -> None:
    files = request.find_repository(name)
    if files is not None:
        sha = hashlib.sha1(repr(sorted(files)).encode(), usedforsecurity=False).hexdigest()
        request.send_json({"id": name, "sha": sha, "siblings": [{"rfilename": file} for file in files], "tags": [], "private": False})


def describe_file(path: str, content: bytes) -> dict[str, Any]:
    """An entry of a listing, as of a file in large storage."""
    digest = hashlib.sha256(content).hexdigest()
    lfs = {"oid": digest, "size": len(content), "pointerSize": 134}
    return {"type": "file", "path": path, "size": len(content), "oid": digest[:40], "lfs": lfs}


def send_tree(request: Handler, name: str, revision: str, folder: str | None) -> None:
    """A page of the entries of a folder; the next is named by the header Link."""
    files = request.find_repository(name)
    if files is None:
        return
    before = f"{folder.strip('/')}/" if folder and folder.strip("/") else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in files.items():
        if path.startswith(before):
            head, slash, _ = path.removeprefix(before).partition("/")
            deep = bool(slash) and request.query.get("recursive", ["false"])[0].lower() != "true"
            tree = {"type": "directory", "path": before + head, "size": 0, "oid": "0" * 40}
            entries[before + head if deep else path] = tree if deep else describe_file(path, content)
    if not entries and before:
        request.send_json({"error": "no such entry"}, 404, {"X-Error-Code": "EntryNotFound"})
        return
    start, page = int(request.query.get("cursor", ["0"])[0]), request.hub.page
    found = sorted(entries.values(), key=lambda entry: str(entry["path"]))
    headers = {}
    if start + page < len(found):
        url = f"{request.hub.url}/api/datasets/{name}/tree/{revision}/{before.rstrip('/')}?cursor={start + page}"
        headers = {"Link": f'<{url}>; rel="next"'}
    request.send_json(found[start : start + page], headers=headers)


def send_paths(request: Handler, name: str, *_: str) -> None:
    files = request.find_repository(name)
    if files is not None:
        wanted = json.loads(request.body)["paths"]
        request.send_json([describe_file(path, files[path]) for path in wanted if path in files])


def send_redirect(request: Handler, name: str, _: str, path: str) -> None:
    """Where a file's content is to be had."""
    files = request.find_repository(name)
    if files is None:
        return
    if path not in files:
        request.send_json({"error": "no such entry"}, 404, {"X-Error-Code": "EntryNotFound"})
        return
    request.send_body(b"", 302, {"Location": f"{request.hub.url}/content/{name}/{path}?{SIGNATURE}"})


def send_content(request: Handler, name: str, path: str) -> None:
    if SIGNATURE not in request.path:
        request.send_json({"error": "no signature"}, 403)
        return
    content, wanted = request.hub.repositories[name][path], request.headers.get("Range")
    start, stop = read_range(wanted, len(content))
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    request.send_body(content[start:stop], 200 if wanted is None else 206, headers)


_NAME = "([^/]+/[^/]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    (f"/api/datasets/{_NAME}", send_repository),
    (f"/api/datasets/{_NAME}/revision/([^/]+)", send_repository),
    (f"/api/datasets/{_NAME}/tree/([^/]+)(/.*)?", send_tree),
    (f"/api/datasets/{_NAME}/paths-info/([^/]+)", send_paths),
    (f"/datasets/{_NAME}/resolve/([^/]+)/(.+)", send_redirect),
    (f"/content/{_NAME}/(.+)", send_content),
]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A Hub without repositories, while the block runs; its address belongs into HF_ENDPOINT."""
    handler = type("Bound", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
