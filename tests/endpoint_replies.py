"""Endpoints as their tests ask them, and chat completions gone wrong, drawn at random."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from typing import Any

from caprl_native.config.models import ReaderConfig
from caprl_native.inference.endpoint import Connection, Endpoint
from caprl_native.inference.endpoint_reply import Said
from caprl_native.testing.chat_server import Reply

CHAT = [{"role": "user", "content": "Which colour?"}]

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e308, 10**40, "", " ", "A", "\0", "\ud800", "x" * 5000, "\u2028",
    [], {}, [[]], [None], {"": None}, [{}], {"content": "A"}, [{"type": "text", "text": "A"}],
)  # fmt: skip
KINDS = ("application/json", "text/html", "text/event-stream", "", "a/b; charset=hex", "\x7f")
STATUSES = (200, 200, 200, 200, 201, 202, 206, 299, 300, 304, 400, 404, 418, 422, 499)
HEADERS: tuple[dict[str, str], ...] = (
    {}, {}, {}, {"Retry-After": "nan"}, {"Retry-After": "-1e999"}, {"Retry-After": "x" * 999},
    {"Content-Encoding": "gzip"}, {"Content-Encoding": "br"}, {"Location": "http://[::bad"},
    {"Location": "\x01//"}, {"Set-Cookie": "a=b; Max-Age=99999999999999999999"},
    {"x-request-id": "\xff"},
)  # fmt: skip


def completion() -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " A"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    found = [(value, key) for key, _ in pairs]
    for _, inner in pairs:
        if isinstance(inner, dict | list):
            found += _places(inner)
    return found


def _changed(rng: random.Random) -> bytes:
    """A completion with one to three of its values replaced or removed."""
    value = completion()
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(_places(value) or [(value, "choices")])
        if rng.random() < 0.3 and isinstance(container, dict):
            container.pop(key, None)
        else:
            container[key] = rng.choice(ODD)
    return json.dumps(value).encode()


def _damaged(rng: random.Random) -> bytes:
    """Bytes flipped, cut, inserted or repeated."""
    raw = bytearray(json.dumps(completion()).encode())
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(raw) or 1)
        kind = rng.randrange(4)
        if kind == 0 and raw:
            raw[at] = rng.randrange(256)
        elif kind == 1:
            del raw[at:]
        elif kind == 2:
            raw[at:at] = rng.randbytes(4)
        else:
            raw[at:at] = rng.choice((b"[", b'{"a":', b"9", b'"')) * rng.choice((3, 50_000))
    return bytes(raw)


def malformed(rng: random.Random) -> Reply:
    """A reply of any status, headers and body; some of them are sound."""
    raw = rng.choice((_changed, _damaged))(rng)
    headers = rng.choice(HEADERS)
    if headers.get("Content-Encoding") == "gzip" and rng.random() < 0.5:
        raw = gzip.compress(raw)[: rng.choice((None, 20))]
    return Reply(
        raw=raw, status=rng.choice(STATUSES), kind=rng.choice(KINDS), headers=dict(headers)
    )


def endpoint(url: str, **settings) -> Endpoint:
    given = {"timeout_s": 5.0, "retries": 0, "concurrency": 8, **settings}
    return Endpoint(ReaderConfig(endpoint=url, model="reader", **given))


def asked(server: Endpoint, count: int = 1, opening: str = "", first: int = 0) -> list[Said]:
    """What a server says to `count` requests at one time, seeded from `first` on."""

    async def ask() -> list[Said]:
        connection = Connection(server)
        try:
            asks = (connection.ask(CHAT, first + i, opening) for i in range(count))
            return await asyncio.gather(*asks)
        finally:
            await connection.close()

    return asyncio.run(ask())
