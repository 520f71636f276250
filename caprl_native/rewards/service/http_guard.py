"""What stands before the routes: who may ask, how much, and how long that may take."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from caprl_native.rewards.service.config import ServerConfig
from caprl_native.rewards.service.counters import Counters

HEADERS_S = 10.0  # for a request's first line and headers
MOST_HEADER = 64 << 10  # bytes of them, or between parts of a body; one read of a socket more
RETRY_AFTER_S = 1
BODIES = 4  # of the longest kind that are held at a time
_OPEN_PATHS = ("/health",)  # that need no token
_TO_SEND_S = 30.0  # for a client to take its reply


class Refused(Exception):
    """A request that is answered with an error; `headers` go along."""

    def __init__(self, status: int, error: str, **headers: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Guard:
    """An ASGI application around another: token, number of requests, an end to all of them."""

    def __init__(self, app: ASGIApp, server: ServerConfig, token: str, counters: Counters) -> None:
        self.app, self.server, self.counters = app, server, counters
        self._expected = f"Bearer {token}".encode() if token else b""
        self._bodies = Bodies(server)
        self._longest_s = server.body_s + server.timeout_s + _TO_SEND_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.counters.requests_open += 1
        try:
            if refusal := self._refusal(scope):
                await self._bodies.drain(receive)
                await respond(counted, refusal)
            else:
                with suppress(TimeoutError):  # a client that does not take its reply
                    async with asyncio.timeout(self._longest_s):
                        await self.app(scope, receive, counted)
        finally:
            self.counters.requests_open -= 1
            self.counters.requests[status] += 1
            self.counters.seconds += time.monotonic() - began

    def _refusal(self, scope: Scope) -> Refused | None:
        headers = dict(scope["headers"])
        if self._expected and scope["path"] not in _OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                return Refused(401, "a token is needed", WWW_Authenticate="Bearer")
        if self.counters.requests_open > self.server.max_requests:
            return Refused(503, "too many requests at a time", Retry_After=str(RETRY_AFTER_S))
        return None


async def respond(send: Send, refusal: Refused) -> None:
    """Sends a refusal."""
    body = json.dumps({"error": refusal.error}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= {name.lower(): value for name, value in refusal.headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    start = {"type": "http.response.start", "status": refusal.status, "headers": raw}
    await send(start)
    await send({"type": "http.response.body", "body": body})


class Bodies:
    """Reads the bodies of requests, and knows how much of them is held at a time."""

    def __init__(self, server: ServerConfig) -> None:
        self.server, self.most = server, server.max_body_mib << 20
        self._held = 0

    @asynccontextmanager
    async def json(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request that says it is JSON; it counts as held within the block.

        Raises Refused: another type or encoding (415), too long (413), too slow (408), too much of
        other requests (503); and ClientDisconnect.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        packed = request.headers.get("content-encoding", "identity").strip().lower()
        if kind != "application/json" or packed not in ("", "identity"):
            await self.drain(request.receive)
            raise Refused(415, "expected Content-Type: application/json, not packed")
        body = bytearray()
        try:
            await self._read(request.receive, body)
            yield bytes(body)
        finally:
            self._held -= len(body)

    async def drain(self, receive: Receive) -> None:
        """Lets a refused client finish what it is sending, so that it reads why."""
        with suppress(Refused, ClientDisconnect):
            await self._read(receive, None)

    async def _read(self, receive: Receive, body: bytearray | None) -> None:
        """Reads to the end, into `body` unless it is None."""
        size = 0
        try:
            async with asyncio.timeout(self.server.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part = message.get("body", b"")
                    size += len(part)
                    if body is not None and size <= self.most:
                        self._keep(body, part)
                    # Of a body that is too long the rest is read, and not kept: a client that is
                    # still sending would not see the reply.
                    if not message.get("more_body") or size > 2 * self.most:
                        break
        except TimeoutError:
            slow = f"the body did not arrive within {self.server.body_s:g} s"
            raise Refused(408, slow, Connection="close") from None
        if size > self.most:
            long = f"the body is longer than {self.server.max_body_mib} MiB"
            raise Refused(413, long, Connection="close")

    def _keep(self, body: bytearray, part: bytes) -> None:
        if self._held + len(part) > BODIES * self.most:
            raise Refused(
                503,
                "too much is being received",
                Connection="close",
                Retry_After=str(RETRY_AFTER_S),
            )
        body += part
        self._held += len(part)


async def gone(request: Request) -> None:
    """Returns when the client has gone; its whole body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class BoundedProtocol(HttpToolsProtocol):
    """Connections that send no whole header in time, or one without end, are closed.

    So slow ones hold nothing for long, and none holds much: the parser keeps all headers.
    """

    _headers_late: asyncio.TimerHandle | None = None
    _unbounded = 0  # bytes since something ended: a header, a part of a body, a request

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        if self._headers_late is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_headers()
        self._unbounded += len(data)
        super().data_received(data)
        if self._unbounded > MOST_HEADER:
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._unbounded = 0
        self._stop_expecting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unbounded = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unbounded = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._headers_late = self.loop.call_later(HEADERS_S, self.transport.close)

    def _stop_expecting(self) -> None:
        if self._headers_late is not None:
            self._headers_late.cancel()
            self._headers_late = None
