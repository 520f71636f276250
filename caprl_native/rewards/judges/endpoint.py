"""A judge behind an OpenAI-compatible chat server, or Azure's."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

from caprl_native.inference.addresses import read_addresses
from caprl_native.inference.endpoint import Endpoint, key_problem, settings_problem
from caprl_native.inference.endpoint_model import media_parts, with_media
from caprl_native.inference.endpoint_pool import Connections, servers_of
from caprl_native.inference.endpoint_reply import Said
from caprl_native.inference.models import unprepared
from caprl_native.loop_thread import LoopThread
from caprl_native.rewards.judges.base import Case, Cost, J, MediaKey, Verdict
from caprl_native.rewards.judges.options import JudgeConfig
from caprl_native.rewards.judges.reply import Unreadable
from caprl_native.text.control_tokens import without_control_tokens

_THREADS = 2  # that encode media
Parts = list[list[dict[str, Any]]]  # of each medium, in the protocol's form


class EndpointJudge:
    """Chat servers that see images. Failed requests are tried again, with growing pauses; what one
    server says no good answer to goes to another, where there is one.

    Requests are made from a thread of their own, while this one goes on.
    """

    collective = False

    def __init__(self, options: JudgeConfig) -> None:
        if problem := settings_problem(options) or key_problem(options):
            raise ValueError(f"{problem[0]}: {problem[1]}")
        self.options = options
        if options.endpoint_file:
            addresses = read_addresses(options.endpoint_file, options.model)
            self.servers = [Endpoint(options, address) for address in addresses]
        else:
            self.servers = servers_of(options)
        self._thread: LoopThread | None = None

    def ask(self, case: Case[J]) -> Future[Verdict[J]]:
        thread = self._thread or self._open()
        return thread.run(self._verdict(case))

    def _open(self) -> LoopThread:
        self._gate = asyncio.Semaphore(self.options.concurrency)
        self._encoding = asyncio.Semaphore(_THREADS)
        self._connection = Connections(self.servers)
        # The media of samples whose captions are being judged; their other captions share them.
        self._encoded: OrderedDict[MediaKey, asyncio.Task[Parts | str]] = OrderedDict()
        self._thread = LoopThread("judge")
        return self._thread

    async def _verdict(self, case: Case[J]) -> Verdict[J]:
        async with self._gate:
            media = await self._media(case) if case.sample.media else []
            if isinstance(media, str):
                return Verdict(None, f"judge: {media}")
            messages = without_control_tokens(with_media(case.sample.messages, media))
            return await self._asked(case, messages)

    async def _asked(self, case: Case[J], messages: list[dict[str, Any]]) -> Verdict[J]:
        """Asks until a reply can be read: as often as there are seeds, and twice where there are
        several servers. One that refuses the request is followed by those that were not asked.
        """
        most = max(len(case.seeds), min(2, len(self.servers)))
        unreadable, cost, tried = 0, Cost(), set[int]()
        while True:
            seed = case.seeds[min(unreadable, len(case.seeds) - 1)]
            said = await self._connection.ask(messages, seed, avoid=tried)
            cost += _cost(said, again=bool(tried))
            is_new = said.server not in tried
            tried.add(said.server)
            if said.text is not None:
                try:
                    return Verdict(case.read(said.text), unreadable=unreadable, cost=cost)
                except Unreadable as error:
                    unreadable += 1
                    failure = f"judge: its reply cannot be read: {error}"
                if unreadable < most:
                    continue
            elif is_new and len(tried) < len(self.servers) and not said.unanswered:
                continue  # where no server answers, all have been asked
            else:
                failure = said.failure or ""
            return Verdict(None, failure, unreadable, cost)

    async def _media(self, case: Case[J]) -> Parts | str:
        """The media in the protocol's form, or why there are none; once for all captions."""
        task = self._encoded.get(case.media)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._encode(case))
            self._encoded[case.media] = task
            while len(self._encoded) > self.options.concurrency:
                self._encoded.popitem(last=False)
        return await task

    async def _encode(self, case: Case[J]) -> Parts | str:
        async with self._encoding:
            return await asyncio.to_thread(self._parts, case)

    def _parts(self, case: Case[J]) -> Parts | str:
        """(A future that gets a StopIteration never ends.)"""
        try:
            pairs = zip(case.decoded(), case.sample.media, strict=True)
            return [media_parts(d, medium, self.options.video_as) for d, medium in pairs]
        except Exception as error:
            return unprepared(error)

    def work(self) -> None:
        """The requests are under way."""

    def finish(self) -> None:
        """They still are; each verdict is waited for where it is needed."""

    def reset(self) -> None:
        """Drops encoded media, and tries a server again that was given up."""
        if self._thread is not None:
            self._thread.loop.call_soon_threadsafe(self._forget)

    def _forget(self) -> None:
        self._encoded.clear()
        self._connection.hope()

    def sleep(self) -> None:
        """Holds no memory here."""

    def wake(self) -> None:
        """Holds no memory here."""

    def close(self) -> None:
        """Gives up what is still under way, and ends the thread."""
        if self._thread is None:
            return
        self._thread.cancel()
        self._thread.run(self._connection.close()).result()
        self._thread.close()
        self._thread = None


def _cost(said: Said, *, again: bool) -> Cost:
    """Of a request and its retries; `again`: it is itself a further attempt of a judgement."""
    retries = max(0, said.requests - (not again))
    return Cost(said.requests, retries, said.prompt_tokens or 0, said.tokens or 0)
