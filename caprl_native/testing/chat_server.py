"""A real HTTP server that speaks the OpenAI chat protocol, and misbehaves when it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]


@dataclass
class Reply:
    """What the server does with a request: text of the answer, or an HTTP status, or raw bytes.

    `stream`: the body's pieces, sent as they come, until the client has gone; without a length.
    """

    text: str | None = " A"
    status: int = 200
    after_s: float = 0.0
    raw: bytes | None = None
    kind: str = "application/json"
    finish: str | None = "stop"
    headers: dict[str, str] = field(default_factory=dict)
    stream: Iterable[bytes] | None = None


@dataclass
class ChatServer:
    """`answer` decides on each request; what came in is kept."""

    answer: Callable[[Request], Reply]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: Request, headers: dict[str, str]) -> Reply:
        with self.lock:
            self.requests.append(request)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        try:
            reply = self.answer(request)
            time.sleep(reply.after_s)
            return reply
        finally:
            with self.lock:
                self.running -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # connections that wait to be accepted; of 5 some time out


def body_of(reply: Reply) -> bytes:
    if reply.raw is not None:
        return reply.raw
    if reply.status != 200:
        return json.dumps({"error": {"message": f"status {reply.status}"}}).encode()
    message = {"role": "assistant", "content": reply.text}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish}
    about = {"id": "1", "object": "chat.completion", "created": 0, "model": "reader"}
    return json.dumps({**about, "choices": [choice]}).encode()


@contextmanager
def serve(answer: Callable[[Request], Reply]) -> Iterator[ChatServer]:
    """Runs the server on a free port of 127.0.0.1 until the end of the block."""
    state = ChatServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = state.take({"path": self.path, **request}, headers)
            body = [body_of(reply)] if reply.stream is None else reply.stream
            with suppress(OSError):  # of a client that has gone
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.kind)
                if isinstance(body, list):
                    self.send_header("Content-Length", str(len(body[0])))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in body:
                    self.wfile.write(piece)

        def log_message(self, *args: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
