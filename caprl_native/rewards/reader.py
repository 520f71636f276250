"""The model that reads captions and answers questions on them, never seeing the media."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from caprl_native.config import ReaderConfig
from caprl_native.rewards.prompts import ANSWER_PREFIX
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling


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
    together: bool
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

    def forget(self) -> None: ...
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

    together = True

    def __init__(self, config: ReaderConfig, tensor_parallel: int = 1) -> None:
        from transformers import AutoTokenizer

        self.config = config
        self.tokenizer = AutoTokenizer.from_pretrained(config.path)
        self.engine = Engine(
            EngineSettings(
                path=config.path,
                dtype=config.dtype,
                max_model_len=config.max_model_len,
                max_num_seqs=config.max_num_seqs,
                kv_cache_gib=config.kv_cache_gib,
                gpu_memory_utilization=config.gpu_memory_utilization,
                tensor_parallel_size=tensor_parallel,
                sleep=True,
            )
        )
        self.sampling = Sampling(
            temperature=config.temperature,
            top_p=config.top_p,
            max_tokens=config.max_tokens,
            logprobs=False,
        )
        self._asked: dict[str, Future[Answer]] = {}

    def ask(self, asks: Sequence[Ask]) -> list[Future[Answer]]:
        limit = self.config.max_model_len - self.config.max_tokens
        answers = []
        for ask, ids in zip(asks, self._tokenize(asks), strict=True):
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

    def _tokenize(self, asks: Sequence[Ask]) -> list[list[int]]:
        if not asks:
            return []
        chats = [
            self.tokenizer.apply_chat_template(
                a.messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            for a in asks
        ]
        texts = [chat + ANSWER_PREFIX for chat in chats]
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def forget(self) -> None:
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

    together = False

    def __init__(self, config: ReaderConfig) -> None:
        self.config = config
        self.key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""
        if config.api_key_env and not self.key:
            raise ValueError(f"reward.reader.api_key_env: {config.api_key_env} is not set")
        self._loop: asyncio.AbstractEventLoop | None = None

    def ask(self, asks: Sequence[Ask]) -> list[Future[Answer]]:
        loop = self._loop or self._open()
        return [asyncio.run_coroutine_threadsafe(self._answer(ask), loop) for ask in asks]

    def _open(self) -> asyncio.AbstractEventLoop:
        import openai

        self._gate = asyncio.Semaphore(self.config.concurrency)
        self._client = openai.AsyncOpenAI(
            base_url=self.config.endpoint,
            api_key=self.key or "none",  # without one the client would look for OPENAI_API_KEY
            timeout=self.config.timeout_s,
            max_retries=self.config.retries,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reader", daemon=True)
        self._thread.start()
        return self._loop

    def work(self) -> None:
        """The requests are under way."""

    def finish(self) -> None:
        """They still are; each answer is waited for where it is needed."""

    async def _answer(self, ask: Ask) -> Answer:
        import openai

        messages, extra = ask.messages, {}
        if self.config.prefill:
            messages = [*messages, {"role": "assistant", "content": ANSWER_PREFIX}]
            extra = {"add_generation_prompt": False, "continue_final_message": True}
        try:
            async with self._gate:
                reply = await self._client.chat.completions.create(
                    model=self.config.model,
                    messages=messages,
                    temperature=self.config.temperature,
                    top_p=self.config.top_p,
                    max_tokens=self.config.max_tokens,
                    seed=ask.seed % 2**31,
                    extra_headers=None if self.key else {"Authorization": openai.Omit()},
                    extra_body=extra,
                )
        except (openai.OpenAIError, ValueError) as error:  # ValueError: a reply that is not JSON
            return Answer(None, self._reason(error))
        choices = getattr(reply, "choices", None)  # a reply that is not a chat's has none
        text = choices[0].message.content if choices else None
        if text is None:
            return Answer(None, f"{self.config.endpoint}: the reply has no text")
        return Answer(text.removeprefix(ANSWER_PREFIX) if self.config.prefill else text)

    def _reason(self, error: Exception) -> str:
        """What went wrong, in one line; a server may quote the request, key included."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        if self.key:
            text = text.replace(self.key, "***")
        return f"{self.config.endpoint}: {text[:500]}"

    def forget(self) -> None:
        """The server's caches are its own business."""

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
        await self._client.close()


def build_reader(config: ReaderConfig, tensor_parallel: int = 1) -> EngineReader | EndpointReader:
    """The reader that the config asks for."""
    return EndpointReader(config) if config.endpoint else EngineReader(config, tensor_parallel)
