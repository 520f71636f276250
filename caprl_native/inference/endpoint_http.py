"""The HTTP client under an endpoint: a reply has a total time, a size, and comes from one host."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import socket
import sys
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import openai

MAX_BODY = 16 << 20  # bytes, also when unpacked; a chat completion has a few thousand
_HOPS = 3  # redirects on the endpoint's own host
_LONGEST_PAUSE = 60.0  # seconds that a server may ask us to wait before the next attempt

# What openai's client is built on: httpx, or httpx2 from its version 3 on.
_HTTP: ModuleType = sys.modules[
    openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]
]
RequestError: type[Exception] = _HTTP.RequestError  # no whole reply: no connection, too late, ...


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """Gives a reply up that is not whole within `total_s` seconds, or that is too long.

    Its own timeouts are per read: a server that sends a byte a second never meets them. Redirects
    are followed on the same host alone.
    """

    def __init__(self, total_s: float, **settings: Any) -> None:
        super().__init__(**(settings | {"timeout": total_s, "follow_redirects": False}))
        self.total_s = total_s

    async def send(self, request: Any, **settings: Any) -> Any:
        """The whole reply. Raises the library's RequestErrors, which openai retries."""
        request.headers["Accept-Encoding"] = "identity"
        settings |= {"stream": True, "follow_redirects": False}
        try:
            async with asyncio.timeout(self.total_s):
                return await self._send(request, settings)
        except TimeoutError as error:
            raise _HTTP.ReadTimeout(
                f"no whole reply within {self.total_s:g} s", request=request
            ) from error

    async def _send(self, request: Any, settings: dict[str, Any]) -> Any:
        for _ in range(_HOPS):
            reply = await super().send(request, **settings)
            try:
                following = _on_same_host(request, reply)
                if following is None:
                    return await self._whole(request, reply)
            finally:
                await reply.aclose()
            request = following
        raise _HTTP.RequestError(f"more than {_HOPS - 1} redirects", request=request)

    async def _whole(self, request: Any, reply: Any) -> Any:
        """The reply with its body, and with no header but those that mean something to us."""
        body = bytearray()
        try:
            unpack = _unpacker(reply.headers.get("content-encoding", ""))
            async for packed in reply.aiter_raw():
                body += unpack(packed, MAX_BODY + 1 - len(body))
                if len(body) > MAX_BODY:
                    raise ValueError(f"the reply is longer than {MAX_BODY >> 20} MiB")
        except (ValueError, zlib.error) as error:
            raise _HTTP.RequestError(str(error), request=request) from error
        if reply.is_redirect:
            to = reply.headers.get("location", "nowhere")[:200]
            why = {"message": f"redirects are not followed to another host or as a GET: {to}"}
            body[:] = json.dumps({"error": why}).encode()
        return _HTTP.Response(
            reply.status_code, headers=_kept(reply.headers), content=bytes(body), request=request
        )


def _on_same_host(request: Any, reply: Any) -> Any | None:
    """The request that a redirect asks for, if it stays where it is and stays a POST."""
    following = reply.next_request
    if following is None or following.method != request.method:
        return None
    old, new = request.url, following.url
    same = (old.scheme, old.host, old.port) == (new.scheme, new.host, new.port)
    safer = old.scheme == "http" and new.scheme == "https" and old.port is new.port is None
    return following if same or (safer and old.host == new.host) else None


def _kept(headers: Any) -> dict[str, str]:
    """The kind of the reply without its character set, and a pause that is a number."""
    kept = {"content-type": headers.get("content-type", "").partition(";")[0].strip()}
    try:
        pause = float(headers.get("retry-after", "nan"))
    except ValueError:
        pause = math.nan
    return kept | ({"retry-after": f"{pause:.3f}"} if 0 < pause <= _LONGEST_PAUSE else {})


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """A function of packed bytes and of how many unpacked ones are wanted at most.

    Raises ValueError for an encoding that was not asked for and is not known.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return lambda packed, most: packed[:most]
    if name in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(wbits=47).decompress  # gzip or zlib, by its header
    raise ValueError(f"the reply is packed as {name[:40]!r}, which was not asked for")


def is_this_machine(host: str) -> bool:
    """Whether a URL's host is this machine, which no proxy leads to."""
    host = host.lower().rstrip(".").strip("[]")
    own = socket.gethostname().lower()
    if host in ("localhost", own, own.partition(".")[0]) or host.endswith(".localhost"):
        return True
    address = _address(host)
    if address is None:
        return False
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))  # only an address of our own can be bound
        except OSError:
            return False
    return not address.is_multicast


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is written as, "127.1" included; None for a name."""
    try:
        return ipaddress.ip_address(socket.inet_ntoa(socket.inet_aton(host)))
    except OSError:
        found = host if ":" in host else None
    try:
        return ipaddress.IPv6Address(found) if found else None
    except ValueError:
        return None
