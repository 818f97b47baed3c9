"""A web server over a folder, on 127.0.0.1 under a free port: ranges, listings, counts of bytes, and the ways in which servers fail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Web:
    """What a server was asked, and how it is to answer."""

    url: str
    sent: dict[str, int] = field(default_factory=dict)  # bytes of bodies by path
    asked: list[str] = field(default_factory=list)  # method, path with its query, and range
    denied: set[str] = field(default_factory=set)  # paths that are answered by 403
    cuts: int = 0  # how many of the next bodies break off half-way
    ranges: bool = True
    lock: Lock = field(default_factory=Lock)

    @property
    def total(self) -> int:
        return sum(self.sent.values())


class Handler(SimpleHTTPRequestHandler):
    """Files with an etag of their content, by ranges where they are asked for."""

    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = Path(self.translate_path(unquote(urlsplit(self.path).path)))
        wanted = self.headers.get("Range") if self.web.ranges else None
        with self.web.lock:
            self.web.asked.append(f"{self.command} {self.path} {wanted or ''}")
        if self.path in self.web.denied:
            self.send_error(403)
        elif path.is_dir():
            (super().do_GET if body else super().do_HEAD)()
        elif not path.is_file():
            self.send_error(404)
        else:
            self._send_file(path, wanted, body=body)

    def _send_file(self, path: Path, wanted: str | None, *, body: bool) -> None:
        content = path.read_bytes()
        start, stop = read_range(wanted, len(content))
        self.send_response(200 if wanted is None else 206)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        if wanted is not None:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        if body:
            self._send_body(content[start:stop])

    def _send_body(self, piece: bytes) -> None:
        with self.web.lock:
            cut = self.web.cuts > 0 and len(piece) > 1
            self.web.cuts -= cut
            piece = piece[: len(piece) // 2] if cut else piece
            name = urlsplit(self.path).path
            self.web.sent[name] = self.web.sent.get(name, 0) + len(piece)
        self.wfile.write(piece)
        self.close_connection = self.close_connection or cut


def read_range(wanted: str | None, size: int) -> tuple[int, int]:
    """The bytes [start, stop) that a Range header names."""
    if wanted is None:
        return 0, size
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)


@contextmanager
def serve_folder(folder: Path) -> Iterator[Web]:
    """A server over a folder while the block runs."""
    handler = type("Bound", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: handler(*args, directory=str(folder)))
    server.daemon_threads = True
    handler.web = web = Web(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
