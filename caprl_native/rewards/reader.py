"""The model that reads captions and answers questions on them, never seeing the media."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
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
    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """An answer for each question, in order."""
        ...

    def calls(self, needed: int) -> int:
        """How often `answer` must be called where `needed` calls would do on this rank."""
        ...

    def forget(self) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


class EngineReader:
    """A causal language model in this process, on as many ranks as share the policy's engine.

    (vLLM keeps one set of process groups, so two engines of a process cannot be split differently.)
    These ranks answer all their questions together: `answer` and `calls` are their collectives.
    """

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
            temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_tokens
        )

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        parts = self.engine.gather(list(asks))
        answers = self._answer([ask for part in parts for ask in part])
        first = sum(len(part) for part in parts[: self.engine.rank])
        return answers[first : first + len(asks)]

    def calls(self, needed: int) -> int:
        return max(self.engine.gather(needed))

    def _answer(self, asks: Sequence[Ask]) -> list[Answer]:
        prompts = self._tokenize(asks)
        limit = self.config.max_model_len - self.config.max_tokens
        fits = [i for i, ids in enumerate(prompts) if len(ids) <= limit]
        outputs = self.engine.generate(
            [{"prompt_token_ids": prompts[i]} for i in fits],
            self.sampling,
            [asks[i].seed for i in fits],
        )
        answers = [
            Answer(
                None,
                f"the question has {len(ids)} tokens; reward.reader.max_model_len leaves {limit}",
            )
            for ids in prompts
        ]
        for i, out in zip(fits, outputs, strict=True):
            answers[i] = Answer(out.completions[0].text)
        return answers

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
        """Empties the prefix cache, so that a step does not depend on the steps before it."""
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
    """An OpenAI-compatible chat server. Failed requests are tried again, with growing pauses."""

    def __init__(self, config: ReaderConfig) -> None:
        self.config = config
        self.key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""
        if config.api_key_env and not self.key:
            raise ValueError(f"reward.reader.api_key_env: {config.api_key_env} is not set")

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        return asyncio.run(self._answer_all(asks))

    def calls(self, needed: int) -> int:
        return needed

    async def _answer_all(self, asks: Sequence[Ask]) -> list[Answer]:
        import openai

        gate = asyncio.Semaphore(self.config.concurrency)
        async with openai.AsyncOpenAI(
            base_url=self.config.endpoint,
            api_key=self.key or "none",  # without one the client would look for OPENAI_API_KEY
            timeout=self.config.timeout_s,
            max_retries=self.config.retries,
        ) as client:
            return list(await asyncio.gather(*(self._answer(client, gate, ask) for ask in asks)))

    async def _answer(self, client: Any, gate: asyncio.Semaphore, ask: Ask) -> Answer:
        import openai

        messages, extra = ask.messages, {}
        if self.config.prefill:
            messages = [*messages, {"role": "assistant", "content": ANSWER_PREFIX}]
            extra = {"add_generation_prompt": False, "continue_final_message": True}
        try:
            async with gate:
                reply = await client.chat.completions.create(
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
        """Connections are closed after every call."""


def build_reader(config: ReaderConfig, tensor_parallel: int = 1) -> EngineReader | EndpointReader:
    """The reader that the config asks for."""
    return EndpointReader(config) if config.endpoint else EngineReader(config, tensor_parallel)
