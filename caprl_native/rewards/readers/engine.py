"""A reader in the same process, beside the policy's engine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from caprl_native.config.models import ReaderConfig
from caprl_native.rewards.prompts import ANSWER_PREFIX
from caprl_native.rewards.readers.base import Answer, Ask
from caprl_native.rewards.readers.openings import Chances, Place, Tokens
from caprl_native.rollout.engine import Completion, Engine, EngineSettings, Sampling
from caprl_native.text.control_tokens import tokenized_chats


@dataclass
class _Weighed:
    """A question whose choices' probabilities are asked for; `left`: passes under way."""

    answer: Future[Answer]
    ids: list[int]
    seed: int
    chances: Chances
    left: int = 0


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
            EngineSettings(
                config,
                config.path,
                config.dtype,
                tensor_parallel_size=tensor_parallel,
                sleep=config.sleep,
            )
        )
        self.sampling = Sampling.of(config, logprobs=False)
        self.tokens = Tokens(self.tokenizer, ANSWER_PREFIX, config.max_tokens)
        self._asked: dict[str, Future[Answer]] = {}
        self._weighed: dict[str, tuple[_Weighed, Place]] = {}

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
            elif ask.choices:
                weighed = _Weighed(answer, ids, ask.seed, Chances(len(ask.choices)))
                self._weigh(weighed, Place(self.tokens.tree(ask.choices)))
            else:
                name = self.engine.submit({"prompt_token_ids": ids}, self.sampling, ask.seed)
                self._asked[name] = answer
            answers.append(answer)
        return answers

    def _weigh(self, weighed: _Weighed, place: Place) -> None:
        """Asks for the probabilities of the tokens that may follow a place."""
        sampling = replace(self.sampling, max_tokens=1, scored=tuple(place.node.tokens))
        prompt = {"prompt_token_ids": [*weighed.ids, *place.path]}
        self._weighed[self.engine.submit(prompt, sampling, weighed.seed)] = weighed, place
        weighed.left += 1

    def work(self) -> None:
        """Answers while there are enough questions to fill a batch."""
        while self.engine.unfinished >= self.config.max_num_seqs:
            self._step()

    def finish(self) -> None:
        while self.engine.unfinished:
            self._step()

    def _step(self) -> None:
        for finished in self.engine.step():
            if finished.request in self._asked:
                answer = self._asked.pop(finished.request)
                answer.set_result(Answer(finished.completion.text))
            else:
                self._weighed_one(*self._weighed.pop(finished.request), finished.completion)

    def _weighed_one(self, weighed: _Weighed, place: Place, completion: Completion) -> None:
        weighed.left -= 1
        logprobs = completion.scored
        if not self.config.temperature:  # it always takes the likeliest token
            logprobs = {completion.token_ids[0]: 0.0}
        for further in weighed.chances.take(place, logprobs):
            self._weigh(weighed, further)
        if not weighed.left:
            found = tuple(weighed.chances.of_choices)
            weighed.answer.set_result(Answer(None, probabilities=found))

    def reset(self) -> None:
        """Drops open questions and the prefix cache: a step does not depend on those before it."""
        self.engine.abort()
        self._asked, self._weighed = {}, {}
        self.engine.reset_caches()

    def sleep(self) -> None:
        """On CUDA and with `reward.reader.sleep`, gives the memory back while the policy trains."""
        self.engine.sleep()

    def wake(self) -> None:
        """Takes it again."""
        self.engine.wake()

    def close(self) -> None:
        self.engine.close()
