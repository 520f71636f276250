"""The model that reads captions and answers questions on them, never seeing the media."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from caprl_native.config.schema import ReaderConfig
from caprl_native.inference.endpoint import Connection, Endpoint, key_problem, settings_problem
from caprl_native.rewards.prompts import ANSWER_PREFIX
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
from caprl_native.text.control_tokens import tokenized_chats, without_control_tokens


@dataclass(frozen=True)
class Ask:
    """One question to the reader: the chat up to the reader's turn, and the seed of its answer."""

    messages: list[dict[str, Any]]
    seed: int


@dataclass(frozen=True)
class Answer:
    """What the reader went on with after "The answer is", or why it did not."""

    text: str | None
    failure: str | None = None


class Reader(Protocol):
    collective: bool
    """True: all ranks that share the policy's engine ask the same, and all get the answers."""

    def ask(self, asks: Sequence[Ask]) -> list[Future[Answer]]:
        """Takes questions; their answers come with `work` and `finish`."""
        ...

    def work(self) -> None:
        """Goes on with what was asked, as long as the reader would otherwise have enough to do."""
        ...

    def finish(self) -> None:
        """Goes on until all that was asked is answered, or under way to somebody else."""
        ...

    def reset(self) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


def answers_to(reader: Reader, asks: Sequence[Ask]) -> list[Answer]:
    """The answers, in order."""
    answers = reader.ask(asks)
    reader.finish()
    return [answer.result() for answer in answers]


class EngineReader:
    """A causal language model in this process, on as many ranks as share the policy's engine.

    (vLLM keeps one set of process groups, so two engines of a process cannot be split differently.)
    """

    collective = True

    def __init__(self, config: ReaderConfig, tensor_parallel: int = 1) -> None:
        from transformers import AutoTokenizer

        self.config = config
        self.tokenizer = AutoTokenizer.from_pretrained(config.path)
        self.engine = Engine(
            EngineSettings.of(config, tensor_parallel_size=tensor_parallel, sleep=True)
        )
        self.sampling = Sampling.of(config, logprobs=False)
        self._asked: dict[str, Future[Answer]] = {}

    def ask(self, asks: Sequence[Ask]) -> list[Future[Answer]]:
        limit = self.config.max_model_len - self.config.max_tokens
        answers = []
        chats = tokenized_chats(self.tokenizer, [ask.messages for ask in asks], ANSWER_PREFIX)
        for ask, ids in zip(asks, chats, strict=True):
            answer: Future[Answer] = Future()
            if len(ids) > limit:
                answer.set_result(
                    Answer(
                        None,
                        f"the question has {len(ids)} tokens; reward.reader.max_model_len leaves "
                        f"{limit}",
                    )
                )
            else:
                name = self.engine.submit({"prompt_token_ids": ids}, self.sampling, ask.seed)
                self._asked[name] = answer
            answers.append(answer)
        return answers

    def work(self) -> None:
        """Answers while there are as many questions as it takes at one time."""
        while self.engine.unfinished >= self.config.max_num_seqs:
            self._step()

    def finish(self) -> None:
        while self.engine.unfinished:
            self._step()

    def _step(self) -> None:
        for finished in self.engine.step():
            self._asked.pop(finished.request).set_result(Answer(finished.completion.text))

    def reset(self) -> None:
        """Drops open questions and the prefix cache: a step does not depend on those before it."""
        self.engine.abort()
        self._asked = {}
        self.engine.reset_caches()

    def sleep(self) -> None:
        """On CUDA, gives the memory back while the policy trains."""
        self.engine.sleep()

    def wake(self) -> None:
        """Takes it again."""
        for tag in ("weights", "kv_cache"):
            self.engine.wake(tag)

    def close(self) -> None:
        self.engine.close()


class EndpointReader:
    """An OpenAI-compatible chat server. Failed requests are tried again, with growing pauses.

    Requests are made from a thread of their own, while this one goes on.
    """

    collective = False

    def __init__(self, config: ReaderConfig) -> None:
        if problem := settings_problem(config) or key_problem(config):
            raise ValueError(f"reward.reader.{problem[0]}: {problem[1]}")
        self.config, self.server = config, Endpoint(config)
        self._loop: asyncio.AbstractEventLoop | None = None

    def ask(self, asks: Sequence[Ask]) -> list[Future[Answer]]:
        loop = self._loop or self._open()
        return [asyncio.run_coroutine_threadsafe(self._answer(ask), loop) for ask in asks]

    def _open(self) -> asyncio.AbstractEventLoop:
        self._gate = asyncio.Semaphore(self.config.concurrency)
        self._connection = Connection(self.server)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reader", daemon=True)
        self._thread.start()
        return self._loop

    def work(self) -> None:
        """The requests are under way."""

    def finish(self) -> None:
        """They still are; each answer is waited for where it is needed."""

    async def _answer(self, ask: Ask) -> Answer:
        messages = without_control_tokens(ask.messages)
        async with self._gate:
            said = await self._connection.ask(messages, ask.seed, ANSWER_PREFIX)
        return Answer(said.text, said.failure)

    def reset(self) -> None:
        """Tries a server again that was given up; its caches are its own business."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._connection.hope)

    def sleep(self) -> None:
        """Holds no memory here."""

    def wake(self) -> None:
        """Holds no memory here."""

    def close(self) -> None:
        """Gives up what is still under way, and ends the thread."""
        if self._loop is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None

    async def _end(self) -> None:
        open_requests = asyncio.all_tasks() - {asyncio.current_task()}
        for request in open_requests:
            request.cancel()
        await asyncio.gather(*open_requests, return_exceptions=True)
        await self._connection.close()


def build_reader(config: ReaderConfig, tensor_parallel: int = 1) -> EngineReader | EndpointReader:
    """The reader that the config asks for."""
    return EndpointReader(config) if config.endpoint else EngineReader(config, tensor_parallel)
