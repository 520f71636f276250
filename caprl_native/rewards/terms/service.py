"""A reward that a server gives: tools/reward_server.py, or one of the reference's protocol.

    [reward.terms.accuracy]
    type = "service"
    endpoint = "http://10.0.0.7:18889/get_reward"

The server says how good captions are; weights, time stamps and length stay with the run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from pydantic import Field

from caprl_native.inference.endpoint import EndpointConfig, key_problem, settings_problem, urls
from caprl_native.loop_thread import LoopThread
from caprl_native.rewards.base import (
    TERMS,
    Caption,
    RewardTerm,
    Score,
    TermContext,
    TermOptions,
    finished,
    missing,
)
from caprl_native.rewards.service.client import Answer, Servers
from caprl_native.rewards.service.exchange import Exchange, NotAskable, WrongReply

_ENDING_S = 2.0  # that requests under way have to end when the run does


class ServiceOptions(TermOptions):
    """What a reward server says: ours, or one of CapRL's protocol."""

    measures = {"*": "A part of the reward that the server names."}
    type: Literal["service"] = "service"
    endpoint: str | list[str] = Field(
        "",
        description="URL of the server, e.g. http://10.0.0.7:18889/get_reward; or a list of them: "
        "a request goes to the one with the fewest in flight.",
    )
    api_key_env: str = Field(
        "", description="Environment variable that holds the server's token; empty: none is sent."
    )
    protocol: Literal["native", "reference"] = Field(
        "native",
        description='"reference": for a server that knows CapRL\'s protocol alone; its draws are '
        "its own, so that runs cannot be repeated.",
    )
    mode: Literal["qa", "vl_judge"] = Field(
        "qa", description="Answers to questions, or the verdict of a vision-language judge."
    )
    batch_size: int = Field(64, ge=1, description="Captions of one request at most.")
    wait_s: float = Field(
        2.0, ge=0, description="Seconds after which a request leaves that is not full."
    )
    concurrency: int = Field(8, ge=1, description="Requests in flight, per rank.")
    timeout_s: float = Field(600.0, gt=0, description="Seconds after which a request has failed.")
    deadline_s: float = Field(
        1800.0,
        gt=0,
        description="Seconds that a server is waited for which is down, busy or starting; then the "
        "reward is missing.",
    )
    retries: int = Field(
        3, ge=0, description="Further attempts of a request that a server failed to answer."
    )
    scale: float = Field(
        0.0,
        ge=0,
        description="What rewards are multiplied by of a server that sends nothing but the sum; 0: "
        "its replies are refused; 0.5 for CapRL 1.0.",
    )
    lowest: float = Field(
        0.0, description="Smallest reward that is taken for one, where a server takes some off."
    )
    max_choices: int = Field(
        6, ge=2, le=26, description="reference: choices of a question that the server takes."
    )

    @property
    def needs_questions(self) -> bool:
        return self.mode == "qa"

    def conflicts(self) -> Iterator[tuple[str, ...]]:
        if not urls(self.endpoint):
            yield "endpoint", "the URL of a reward server"
        problem = settings_problem(cast(EndpointConfig, self))
        if problem and problem[0] == "endpoint":
            yield problem


@dataclass(eq=False)
class _Waiting:
    """A caption and whoever waits for its score; `draws` are those of an evaluation."""

    caption: Caption
    draws: int | None
    score: asyncio.Future[Score]


@TERMS.register(ServiceOptions)
class Service(RewardTerm[ServiceOptions]):
    """Captions leave in batches, from a thread of their own, while this one goes on."""

    def __init__(self, options: ServiceOptions, context: TermContext) -> None:
        super().__init__(options, context)
        config = cast(EndpointConfig, options)
        if problem := settings_problem(config) or key_problem(config):
            raise ValueError(f"{problem[0]}: {problem[1]}")
        self.line = _Line(options)
        self.line.check()
        self.draws: int | None = None

    def for_evaluation(self, draws: int) -> Service:
        """Shares the connection; a server of the reference draws as it always does."""
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"draws": draws}
        return other

    def submit(self, caption: Caption) -> Future[Score]:
        try:
            self.line.exchange.check(caption)
        except NotAskable as error:
            return finished(missing(str(error)))
        return self.line.submit(caption, self.draws)

    def finish(self) -> None:
        """What waits for a batch to fill leaves now."""
        self.line.flush()

    def close(self) -> None:
        self.line.close()


class _Line:
    """The connection to the servers: batches of captions, each a request."""

    def __init__(self, options: ServiceOptions) -> None:
        self.options = options
        self.exchange = Exchange(
            options.protocol, options.mode, options.scale, options.lowest, options.max_choices
        )
        key = os.environ.get(options.api_key_env, "").strip() if options.api_key_env else ""
        self.servers = Servers(urls(options.endpoint), key, options.timeout_s, options.retries)
        self._gate = asyncio.Semaphore(options.concurrency)
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._thread = LoopThread("reward service")

    def check(self) -> None:
        """Waits for the servers. Raises ValueError where one cannot be used."""
        empty = self.exchange.body([])
        o = self.options
        if problem := self._thread.run(self.servers.check(o.mode, empty, o.deadline_s)).result():
            self.close()
            raise ValueError(f"the reward service: {problem}")

    def submit(self, caption: Caption, draws: int | None) -> Future[Score]:
        return self._thread.run(self._add(caption, draws))

    def flush(self) -> None:
        self._thread.loop.call_soon_threadsafe(self._send_waiting)

    def close(self) -> None:
        self._thread.cancel()
        self._thread.run(self.servers.close()).result()
        self._thread.close(_ENDING_S)

    # --- in the thread ------------------------------------------------------------------------

    async def _add(self, caption: Caption, draws: int | None) -> Score:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(caption, draws, loop.create_future())
        self._waiting.append(waiting)
        if len(self._waiting) >= self.options.batch_size:
            self._send_waiting()
        elif self._timer is None:
            self._timer = loop.call_later(self.options.wait_s, self._send_waiting)
        return await waiting.score

    def _send_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for draws in dict.fromkeys(w.draws for w in waiting):
            alike = [w for w in waiting if w.draws == draws]
            size = self.options.batch_size
            for batch in (alike[i : i + size] for i in range(0, len(alike), size)):
                task = asyncio.get_running_loop().create_task(self._send(batch))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

    async def _send(self, batch: Sequence[_Waiting]) -> None:
        """Scores a batch. Where the server refuses it, its halves: one caption spoils no other."""
        exchange = replace(self.exchange, draws=batch[0].draws)
        try:
            body = exchange.body([w.caption for w in batch])
            async with self._gate:
                answer = await self.servers.post(body, self.options.deadline_s)
            if answer.status in (400, 413, 422) and len(batch) > 1:
                middle = len(batch) // 2
                await asyncio.gather(self._send(batch[:middle]), self._send(batch[middle:]))
                return
            scores = _scores(exchange, answer, len(batch))
        except Exception as error:  # whoever waits must not wait for ever
            scores = [missing(f"the service: {type(error).__name__}")] * len(batch)
        for waiting, score in zip(batch, scores, strict=True):
            if not waiting.score.done():
                waiting.score.set_result(score)


def _scores(exchange: Exchange, answer: Answer, count: int) -> list[Score]:
    if answer.failure:
        return [missing(answer.failure)] * count
    try:
        return exchange.scores(cast(Any, answer.value), count)
    except WrongReply as error:
        return [missing(f"the service: {error}")] * count
