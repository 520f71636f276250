"""A model directory in a vLLM engine of this process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import CaptionerConfig, ModelConfig, VisionModelConfig
from caprl_native.data.loader import SampleSkipped
from caprl_native.data.media import decode
from caprl_native.inference.ahead import Ahead, Ready
from caprl_native.inference.models import (
    Picture,
    Request,
    Result,
    failed,
    pictures_of,
    unprepared,
)
from caprl_native.inference.recent import Recent
from caprl_native.inference.store import Reply
from caprl_native.policy.families import family_of
from caprl_native.policy.prompt import PromptBuilder, without_system_turn
from caprl_native.rollout.engine import Engine, EngineSettings, Finished, Sampling
from caprl_native.text.control_tokens import tokenized_chats


@dataclass
class _Running:
    """What is kept of a request that the engine works on: not its pixels."""

    keys: tuple[str, ...]
    pictures: tuple[Picture, ...]
    left: int  # replies that have not ended


class EngineModel:
    """A model directory in a vLLM engine of this process."""

    def __init__(self, config: ModelConfig, media: MediaConfig, seed: int) -> None:
        from transformers import AutoConfig, AutoTokenizer

        from caprl_native.distributed.world import init_distributed

        init_distributed(threads=int(os.environ.get("OMP_NUM_THREADS", 0)))  # Ray sets it
        self.config, self.media = config, media
        self.builder = PromptBuilder(config.path, media)
        self.tokenizer = AutoTokenizer.from_pretrained(config.path)
        self.workers, self.no_system = 1, False
        banned: tuple[int, ...] = ()
        sees_media: dict[str, Any] = {}
        if isinstance(config, VisionModelConfig):
            family = family_of(config.path)
            self.workers = config.workers
            self.no_system = isinstance(config, CaptionerConfig) and not config.system
            banned = family.banned_token_ids(AutoConfig.from_pretrained(config.path))
            sees_media = {
                "mm_processor_kwargs": family.processor_kwargs(media),
                "media_per_prompt": media.max_per_prompt,
            }
        self.decoded = Recent(lambda request: decode(request.sample, media), self.workers)
        self.sampling = Sampling.of(config, banned=banned, logprobs=False)
        self.engine = Engine(
            EngineSettings(
                config,
                config.path,
                config.dtype,
                seed=seed,
                **sees_media,
            )
        )

        from vllm import exceptions

        # vLLM 0.26 raised ValueErrors for what it cannot take, 0.32 errors of its own.
        self.refusals = (ValueError, getattr(exceptions, "VLLMClientError", ValueError))

    def complete(self, requests: Iterable[Request | None]) -> Iterator[Result]:
        running: dict[str, _Running] = {}
        with ThreadPoolExecutor(self.workers, "prepare") as pool:
            ahead = self.config.max_num_seqs
            ready = Ahead(pool, self._prepare, requests, self.workers, ahead)
            while True:
                if not self.engine.unfinished:
                    ready.gather()
                while self.engine.unfinished < self.config.max_num_seqs + 2 * self.workers:
                    # While the engine has work, a slow file does not hold it up.
                    prepared = ready.next(wait_for_it=not self.engine.unfinished)
                    if prepared is None:
                        break
                    yield from self._submit(prepared, running)
                if not self.engine.unfinished:
                    return
                for finished in self.engine.step():
                    yield self._result(running, finished)

    def _prepare(self, request: Request) -> Ready:
        """Raises nothing: a StopIteration, for one, would end what iterates over the replies."""
        try:
            if not request.media:
                return Ready(request, {"prompt_token_ids": self._tokens(request)})
            decoded = self.decoded.of(request)
            prompt = self.builder.for_engine(request.sample, decoded)
            if self.no_system:
                prompt["prompt"] = without_system_turn(prompt["prompt"])
            prompt["prompt"] += request.prefix
            size = sum(d.nbytes for d in decoded)
            return Ready(request, prompt, pictures_of(request, decoded), size=size)
        except SampleSkipped as error:
            return Ready(request, failure=f"media: {error}")
        except Exception as error:
            return Ready(request, failure=unprepared(error))

    def _tokens(self, request: Request) -> list[int]:
        (ids,) = tokenized_chats(self.tokenizer, [request.messages], request.prefix)
        return ids

    def _submit(self, ready: Ready, running: dict[str, _Running]) -> Iterator[Result]:
        request = ready.request
        if ready.failure:
            yield from failed(request, ready.failure)
            return
        drawn = vars(request.drawn) if request.drawn else {}
        sampling = replace(self.sampling, n=len(request.keys), **drawn)
        try:
            name = self.engine.submit(ready.prompt, sampling, request.seed)
        except self.refusals as error:  # of a prompt that does not fit
            yield from failed(request, f"prompt: {(str(error).splitlines() or [''])[0][:300]}")
            return
        except Exception as error:  # of the processor, for what it does not expect
            yield from failed(request, unprepared(error))
            return
        running[name] = _Running(request.keys, ready.pictures, len(request.keys))

    def _result(self, running: dict[str, _Running], finished: Finished) -> Result:
        its, c = running[finished.request], finished.completion
        its.left -= 1
        if not its.left:
            del running[finished.request]
        reply = Reply(c.text.strip(), len(c.token_ids), c.finish_reason)
        return Result(its.keys[finished.index], reply, its.pictures)

    def close(self) -> None:
        self.engine.close()
