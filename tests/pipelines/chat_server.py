"""A stand-in for a server of chat completions, on 127.0.0.1: it answers, fails, hangs or hangs up as a schedule says."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

TOKENS = 10


class Asked(NamedTuple):
    """A request as it came in."""

    number: int  # 1, 2, ...
    level: int
    caption: str
    notes: int  # replies of before that it repeats
    at: float
    authorization: str


class Answer(NamedTuple):
    """What to do: say a text, or fail with a status, or send raw bytes, or hang until the end, or close the connection."""

    text: str | None = None
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    body: bytes | None = None
    hang: bool = False
    drop: bool = False
    finish: str = "stop"
    usage: bool = True


Behave = Callable[[Asked], Answer]


def say_rewritten(asked: Asked) -> Answer:
    return Answer(f"{asked.caption}, but {asked.level}")


class ChatServer:
    """The requests that came in, and the (level, caption) that were answered with a text, each as often as it was."""

    def __init__(self, behave: Behave) -> None:
        self.behave, self.asked, self.answered = behave, list[Asked](), Counter[tuple[int, str]]()
        self.lock, self.over = threading.Lock(), threading.Event()
        self.url = ""

    def take(self, body: Any, authorization: str) -> Asked:
        system, user, *more = body["messages"]
        level = int(re.findall(r"Level ([0-9]) of 5", system["content"])[0])
        notes = sum(message["role"] == "user" for message in more)
        with self.lock:
            asked = Asked(len(self.asked) + 1, level, user["content"], notes, time.monotonic(), authorization)
            self.asked.append(asked)
        return asked

    def count(self, asked: Asked) -> None:
        with self.lock:
            self.answered[asked.level, asked.caption] += 1


def _handler(chat: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = chat.take(body, self.headers["Authorization"])
            answer = chat.behave(asked)
            if answer.hang:
                chat.over.wait()
            if answer.hang or answer.drop:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            content = answer.body
            if content is None:
                message = {"role": "assistant", "content": answer.text}
                choice = {"index": 0, "finish_reason": answer.finish, "message": message}
                usage = {"usage": {"prompt_tokens": TOKENS - 1, "completion_tokens": 1, "total_tokens": TOKENS}} if answer.usage else {}
                reply = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice], **usage}
                content = json.dumps(reply if answer.status == 200 else {"error": {"message": answer.text}}).encode()
            if answer.status == 200 and answer.body is None:
                chat.count(asked)  # before it is sent: what the client has, was counted
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                self.close_connection = True  # the client was killed

    return Handler


@contextmanager
def serve_chat(behave: Behave = say_rewritten) -> Iterator[ChatServer]:
    """Serve in threads of this process until the block ends."""
    chat = ChatServer(behave)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(chat)) as server:
        server.daemon_threads = True
        chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield chat
        finally:
            chat.over.set()
            server.shutdown()
            thread.join()
