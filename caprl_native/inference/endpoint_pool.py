"""Several servers of one model: each request goes to the one that has the fewest in flight.

A server that does not answer is left out for a while, and its requests go to the others. Then one
request tries it again: it is back with the first answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

from caprl_native.inference.endpoint import Connection, Endpoint, EndpointConfig, urls
from caprl_native.inference.endpoint_reply import Said
from caprl_native.redact import redact

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0  # doubled with each failure in a row
_RETRY_S, _LONGEST_RETRY_S = 0.5, 8.0  # as openai's client waits


def servers_of(config: EndpointConfig, top_logprobs: int = 0) -> list[Endpoint]:
    """The servers that the settings name, in their order."""
    return [Endpoint(config, url, top_logprobs) for url in urls(config.endpoint)]


class _Server:
    """One of the servers: what it has in flight, and until when it is left out."""

    def __init__(self, server: Endpoint) -> None:
        self.url, self.connection = redact(server.url), Connection(server)
        self.in_flight, self.pause, self._until = 0, 0.0, 0.0

    @property
    def is_taken(self) -> bool:
        """Whether it gets requests: one alone where it has failed and the pause is over."""
        return not self.pause or (time.monotonic() >= self._until and not self.in_flight)

    def load(self) -> tuple[float, int]:
        """By which the least is chosen: what it has in flight, among servers that are taken."""
        return 0.0 if self.is_taken else self.pause, self.in_flight

    async def attempt(self, messages: Sequence[dict[str, Any]], seed: int, opening: str) -> Said:
        """What it says to one attempt. What it does not answer, it is left out for."""
        self.in_flight += 1
        began = time.monotonic()
        try:
            said = await self.connection.attempt(messages, seed, opening, retries=0)
        finally:
            self.in_flight -= 1
        if not said.unanswered:
            if self.pause:
                log.warning("%s answers again", self.url)
            self.pause = 0.0
        elif began >= self._until:  # not one of those that were under way when it failed
            self.pause = min(2 * self.pause or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            self._until = time.monotonic() + self.pause
            log.warning("left out for %.0f s: %s", self.pause, said.failure)
        return said

    def hope(self) -> None:
        """The next request tries it again."""
        self._until = 0.0
        self.connection.hope()


class Connections:
    """The requests of one event loop to one or several servers.

    With one, all is as `Connection` says. With several, a request that a server does not answer
    goes to the others, each once, at once; then, after growing pauses, `retries` times more to all
    that are not given up.
    """

    def __init__(self, servers: Sequence[Endpoint]) -> None:
        self._servers = [_Server(server) for server in servers]
        self._retries = servers[0].config.retries

    async def ask(
        self,
        messages: Sequence[dict[str, Any]],
        seed: int,
        opening: str = "",
        avoid: Container[int] = (),
    ) -> Said:
        """The model's reply, or why there is none; it raises nothing that a server can cause.

        `avoid`: servers that are asked after the others, by their places (`Said.server`).
        """
        if len(self._servers) == 1:
            return await self._servers[0].connection.ask(messages, seed, opening)
        said, sent = Said(failure="no server was asked"), 0
        for attempt in range(1 + self._retries):
            if attempt:
                await asyncio.sleep(min(_RETRY_S * 2 ** (attempt - 1), _LONGEST_RETRY_S))
            asked: list[_Server] = []
            while left := self._left(asked):
                asked.append(min(left, key=lambda s: (self._servers.index(s) in avoid, s.load())))
                said = await asked[-1].attempt(messages, seed, opening)
                sent += said.requests
                said = replace(said, requests=sent, server=self._servers.index(asked[-1]))
                if not said.unanswered:
                    return said
            if not asked:
                return Said(failure=self._servers[0].connection.given_up, unanswered=True)
        return said

    def _left(self, asked: Sequence[_Server]) -> list[_Server]:
        """The servers that a request may go to: those that are taken, or else that may be back."""
        taken = [s for s in self._servers if s.is_taken]
        doubtful = [s for s in self._servers if not s.connection.given_up]
        return [s for s in taken or doubtful if s not in asked]

    def hope(self) -> None:
        """Servers that were given up or left out are tried again, each by one request."""
        for server in self._servers:
            server.hope()

    async def close(self) -> None:
        await asyncio.gather(*(server.connection.close() for server in self._servers))
