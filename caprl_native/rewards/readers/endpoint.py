"""A reader behind an OpenAI-compatible chat server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

from caprl_native.config.models import ReaderConfig
from caprl_native.inference.endpoint import key_problem, settings_problem
from caprl_native.inference.endpoint_pool import Connections, servers_of
from caprl_native.inference.endpoint_reply import Said
from caprl_native.loop_thread import LoopThread
from caprl_native.rewards.prompts import ANSWER_PREFIX
from caprl_native.rewards.readers.base import Answer, Ask
from caprl_native.rewards.readers.top_tokens import LISTED, at_temperature, chances
from caprl_native.text.control_tokens import without_control_tokens

LABELLED = 0.5  # of an answer that was not opened: with less the model opens it in its own words


class EndpointReader:
    """OpenAI-compatible chat servers. Failed requests are tried again, with growing pauses.

    Requests are made from a thread of their own, while this one goes on. Where probabilities are
    asked for, the server lists its likeliest first tokens at temperature 1, at which all servers
    mean the same by log-probs; the reader's own temperature is applied here.
    """

    collective = False

    def __init__(self, config: ReaderConfig) -> None:
        if problem := settings_problem(config) or key_problem(config):
            raise ValueError(f"reward.reader.{problem[0]}: {problem[1]}")
        self.config, self.servers = config, servers_of(config)
        plain = config.replace(temperature=1.0, top_p=1.0, max_tokens=1)
        self.listing = servers_of(plain, LISTED)
        self._thread: LoopThread | None = None

    def ask(self, asks: Sequence[Ask]) -> list[Future[Answer]]:
        thread = self._thread or self._open()
        return [thread.run(self._answer(ask)) for ask in asks]

    def _open(self) -> LoopThread:
        self._gate = asyncio.Semaphore(self.config.concurrency)
        self._connection = Connections(self.servers)
        self._listing = Connections(self.listing)
        self._thread = LoopThread("reader")
        return self._thread

    def work(self) -> None:
        """The requests are under way."""

    def finish(self) -> None:
        """They still are; each answer is waited for where it is needed."""

    async def _answer(self, ask: Ask) -> Answer:
        messages = without_control_tokens(ask.messages)
        async with self._gate:
            # Above 1, what a server does not list would weigh more than can be known.
            if ask.choices and self.config.temperature <= 1:
                said = await self._listing.ask(messages, ask.seed, ANSWER_PREFIX)
                if said.failure:
                    return Answer(None, said.failure)
                if found := self._found(said, ask.choices):
                    return Answer(None, probabilities=found)
            said = await self._connection.ask(messages, ask.seed, ANSWER_PREFIX)
        return Answer(said.text, said.failure)

    def _found(self, said: Said, choices: Sequence[str]) -> tuple[float, ...] | None:
        """The probabilities of the choices, if the listed tokens tell them apart."""
        tokens, logprobs = zip(*said.top, strict=True)
        at = at_temperature(logprobs, self.config.temperature, self.config.top_p)
        if said.opened:
            return chances(tokens, at, choices)
        # "The" then opens "The answer is B" and not the choice "the left": labels alone are meant.
        found = chances(tokens, at, [""] * len(choices))
        return found if found and sum(found) >= LABELLED else None

    def reset(self) -> None:
        """Tries a server again that was given up; its caches are its own business."""
        if self._thread is not None:
            for connection in (self._connection, self._listing):
                self._thread.loop.call_soon_threadsafe(connection.hope)

    def sleep(self) -> None:
        """Holds no memory here."""

    def wake(self) -> None:
        """Holds no memory here."""

    def close(self) -> None:
        """Gives up what is still under way, and ends the thread."""
        if self._thread is None:
            return
        self._thread.cancel()
        for connection in (self._connection, self._listing):
            self._thread.run(connection.close()).result()
        self._thread.close()
        self._thread = None
