"""A judge in the same process, beside the policy's engine."""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from caprl_native.data.loader import SampleSkipped
from caprl_native.inference.models import Decoded, unprepared
from caprl_native.policy.families import family_of
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.rewards.judges.base import Case, Cost, J, MediaKey, Verdict
from caprl_native.rewards.judges.options import JudgeConfig
from caprl_native.rewards.judges.reply import Unreadable
from caprl_native.rollout.engine import Engine, EngineSettings, Finished, Sampling
from caprl_native.text.control_tokens import spaced_control_tokens

_KEPT = 4  # samples whose pixels are kept for their next caption


@dataclass
class _Open:
    """A case whose verdict is to come, and how many of its replies could not be read."""

    case: Case[Any]
    verdict: Future[Verdict[Any]]
    unreadable: int = 0
    cost: Cost = Cost()


class EngineJudge:
    """A vision-language model in this process, on as many ranks as share the policy's engine.

    Pixels are made of a case when the engine has room for it: few prompts exist at a time.
    """

    collective = True

    def __init__(self, options: JudgeConfig, tensor_parallel: int = 1) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.options, family = options, family_of(options.path)
        self.tokenizer = AutoTokenizer.from_pretrained(options.path)
        self.builder = PromptBuilder(options.path, options.limits)
        banned = family.banned_token_ids(AutoConfig.from_pretrained(options.path))
        self.sampling = Sampling.of(options, banned=banned, logprobs=False)
        self.engine = Engine(
            EngineSettings(
                options,
                options.path,
                options.dtype,
                tensor_parallel_size=tensor_parallel,
                sleep=options.sleep,
                mm_processor_kwargs=family.processor_kwargs(options.limits),
                media_per_prompt=options.limits.max_per_prompt,
            )
        )
        self._waiting: deque[_Open] = deque()
        self._running: dict[str, _Open] = {}
        self._seen: OrderedDict[MediaKey, list[Decoded]] = OrderedDict()

    def ask(self, case: Case[J]) -> Future[Verdict[J]]:
        verdict: Future[Verdict[J]] = Future()
        self._waiting.append(_Open(case, verdict))
        return verdict

    def work(self) -> None:
        """Judges while there are enough captions to fill a batch."""
        while len(self._waiting) + self.engine.unfinished >= self.options.max_num_seqs:
            self._step()

    def finish(self) -> None:
        """The captions of a sample follow one another: the engine keeps what they share."""
        place = {o.case.media: i for i, o in reversed(list(enumerate(self._waiting)))}
        self._waiting = deque(sorted(self._waiting, key=lambda o: place[o.case.media]))
        while self._waiting or self.engine.unfinished:
            self._step()

    def _step(self) -> None:
        while self._waiting and self.engine.unfinished < self.options.max_num_seqs:
            self._submit(self._waiting.popleft())
        if not self.engine.unfinished:
            return
        for finished in self.engine.step():
            self._take(self._running.pop(finished.request), finished)

    def _submit(self, opened: _Open) -> None:
        """What a prompt lacks, or the engine refuses, is the same on all ranks of the engine."""
        try:
            seed = opened.case.seeds[opened.unreadable]
            name = self.engine.submit(self._prompt(opened.case), self.sampling, seed)
        except SampleSkipped as error:
            opened.verdict.set_result(Verdict(None, f"judge: {error}"))
        except MemoryError:
            raise
        except Exception as error:
            opened.verdict.set_result(Verdict(None, f"judge: {unprepared(error)}"))
        else:
            self._running[name] = opened

    def _prompt(self, case: Case[Any]) -> dict[str, Any]:
        sample = replace(case.sample, messages=tuple(map(self._as_text, case.sample.messages)))
        return self.builder.for_engine(sample, self._decoded(case), enable_thinking=False)

    def _as_text(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message without control tokens: what a caption spells stays text."""
        parts = [
            {**part, "text": spaced_control_tokens(self.tokenizer, part["text"])}
            if part["type"] == "text"
            else part
            for part in message["content"]
        ]
        return {**message, "content": parts}

    def _decoded(self, case: Case[Any]) -> list[Decoded]:
        if case.media not in self._seen:
            self._seen[case.media] = case.decoded()
            while len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        return self._seen[case.media]

    def _take(self, opened: _Open, finished: Finished) -> None:
        spent = len(finished.prompt_ids), len(finished.completion.token_ids)
        opened.cost += Cost(1, int(opened.unreadable > 0), *spent)
        try:
            judgement = opened.case.read(finished.completion.text)
        except Unreadable as error:
            opened.unreadable += 1
            if opened.unreadable < len(opened.case.seeds):
                self._waiting.appendleft(opened)
                return
            failure = f"judge: its reply cannot be read: {error}"
            opened.verdict.set_result(Verdict(None, failure, opened.unreadable, opened.cost))
        else:
            opened.verdict.set_result(Verdict(judgement, None, opened.unreadable, opened.cost))

    def reset(self) -> None:
        """Drops open cases and all caches: a step does not depend on those before it."""
        self.engine.abort()
        self._waiting.clear()
        self._running, self._seen = {}, OrderedDict()
        self.engine.reset_caches()

    def sleep(self) -> None:
        """On CUDA and with `sleep`, gives the memory back while the policy trains."""
        self.engine.sleep()

    def wake(self) -> None:
        """Takes it again."""
        self.engine.wake()

    def close(self) -> None:
        self.engine.close()
