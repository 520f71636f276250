"""Requests to one or several reward servers: who is asked, and what is done when they are away.

A request goes to the server that has the fewest in flight. One that does not answer, or says that
it is busy, is left out for a growing while. A server that is away is waited for, up to a deadline:
killed and started again it costs time and nothing else, since a request is only done when its
reply is there. What a server answers with an error of its own is tried again a few times.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from caprl_native.messages import cut
from caprl_native.redact import redact, without_userinfo

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
LEAST_S = 2 * LONGEST_PAUSE_S  # for a request to servers that have been away for too long
_AWAY = (429, 503)  # it says that it will be there later
_REASON = 300  # characters of a server's text


@dataclass(frozen=True)
class Answer:
    """What came of a request: JSON, or the reason why there is none.

    `status`: of the last reply; 0 where nobody replied.
    """

    value: Any = None
    failure: str = ""
    status: int = 0

    @property
    def is_refusal(self) -> bool:
        """Whether the server refused what was asked: no other attempt would end differently."""
        return 400 <= self.status < 500 and self.status not in (408, *_AWAY)


class Servers:
    """The requests of one event loop to servers of the same reward."""

    def __init__(self, urls: list[str], token: str, timeout_s: float, retries: int) -> None:
        self._servers = [_Server(url, token, timeout_s) for url in urls]
        self._retries, self._lost = retries, 0.0  # since when all of them are away; 0: they are not

    async def post(self, body: dict[str, Any], deadline_s: float) -> Answer:
        """The reply to a request, or why there was none within `deadline_s`.

        Servers that are away are waited for once, not anew by each request that comes after.
        """
        now, failed = time.monotonic(), 0
        deadline = max((self._lost or now) + deadline_s, now + min(deadline_s, LEAST_S))
        raw = json.dumps(body).encode()
        answer = Answer(failure="no server was asked")
        while True:
            server = await self._next(deadline)
            if server is None:
                return Answer(
                    None, f"no reply within {deadline_s:g} s; {answer.failure}", answer.status
                )
            answer = await server.post(raw, deadline - time.monotonic())
            is_away = answer.status in (0, *_AWAY)
            self._lost = (self._lost or time.monotonic()) if is_away else 0.0
            if not answer.failure or answer.is_refusal:
                return answer
            failed += not is_away
            if failed > self._retries:
                return answer

    async def _next(self, deadline: float) -> _Server | None:
        """The server to ask, once one is there to be asked; None when it is too late."""
        while (now := time.monotonic()) < deadline:
            taken = [server for server in self._servers if server.until <= now]
            if taken:
                return min(taken, key=lambda server: server.in_flight)
            soonest = min(server.until for server in self._servers)
            await asyncio.sleep(min(soonest, deadline) - now + 0.001)
        return None

    async def check(self, mode: str, empty: dict[str, Any], deadline_s: float) -> str:
        """What is wrong with the servers, once each of them replies; empty where nothing is."""
        problems = [await s.check(mode, empty, deadline_s) for s in self._servers]
        return next(filter(None, problems), "")

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers))


class _Server:
    """One of them: what it has in flight, and until when it is left out."""

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        from caprl_native.inference.endpoint_http import (
            BoundedClient,
            RequestError,
            is_this_machine,
        )

        self.url, self.shown = url, redact(without_userinfo(url))
        self.in_flight, self.until, self._pause = 0, 0.0, 0.0
        self._timeout_s, self._token, self._errors = timeout_s, token, RequestError
        direct = is_this_machine(urlsplit(url).hostname or "")
        self._client = BoundedClient(timeout_s, trust_env=not direct)

    async def post(self, raw: bytes, within_s: float) -> Answer:
        """One attempt."""
        self.in_flight += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.001, within_s)):
                answer, pause = await self._send("POST", self.url, raw)
        except TimeoutError:
            answer, pause = Answer(failure=f"{self.shown}: no reply in time"), 0.0
        finally:
            self.in_flight -= 1
        self._note(answer, began, pause)
        return answer

    async def _send(self, method: str, url: str, raw: bytes | None) -> tuple[Answer, float]:
        """A reply, and the seconds that its sender asks to be left alone."""
        headers = {"Content-Type": "application/json"} if raw is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            reply = await self._client.request(method, url, content=raw, headers=headers)
        except self._errors as error:
            reason = self._line(f"{type(error).__name__}: {error}")
            return Answer(failure=f"{self.shown}: {reason}"), 0.0
        try:
            value = json.loads(reply.content)
        except (ValueError, RecursionError):
            value = None
        pause = float(reply.headers.get("retry-after", 0))
        if reply.status_code == 200 and value is not None:
            return Answer(value, status=200), pause
        said = value.get("error") if isinstance(value, dict) else None
        reason = self._line(str(said)) if said else "no JSON" if value is None else "no reason"
        failure = f"{self.shown}: status {reply.status_code}: {reason}"
        return Answer(value, failure, reply.status_code if reply.status_code != 200 else 502), pause

    def _note(self, answer: Answer, began: float, pause: float) -> None:
        if not answer.failure or answer.is_refusal:
            if self._pause:
                log.warning("%s answers again", self.shown)
            self._pause, self.until = 0.0, 0.0
        elif began >= self.until:  # not one of those that were under way when it failed
            if not self._pause:
                log.warning("waiting for a reward service: %s", answer.failure)
            self._pause = min(2 * self._pause or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            self.until = time.monotonic() + max(pause, self._pause)

    def _line(self, text: str) -> str:
        return cut(redact(" ".join(text.split()), self._token), _REASON)

    async def check(self, mode: str, empty: dict[str, Any], deadline_s: float) -> str:
        """Waits until it replies, by its health where it tells that; then an empty request."""
        deadline = time.monotonic() + deadline_s
        health = urljoin(self.url, "health")
        while True:
            began = time.monotonic()
            answer, pause = await self._send("GET", health, None)
            if answer.status not in (0, *_AWAY):
                break
            if time.monotonic() >= deadline:
                return f"not ready within {deadline_s:g} s: {answer.failure}"
            self._note(answer, began, pause)
            await asyncio.sleep(min(self._pause, deadline_s))
        self._pause, self.until = 0.0, 0.0
        answer = await self.post(json.dumps(empty).encode(), self._timeout_s)
        value = answer.value if isinstance(answer.value, dict) else {}
        if answer.failure or value.get("rewards") != []:
            why = answer.failure or f"{self.shown}: a reply without an empty list of rewards"
            return f"an empty request of the mode {mode} failed: {why}"
        return ""

    async def close(self) -> None:
        await self._client.aclose()
