"""The policy's engine and a reader's in one process; the reader answers while the other sleeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import AutoConfig

from caprl_native.config.models import ReaderConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.policy.families import family_of
from caprl_native.rewards.prompts import reader_messages
from caprl_native.rewards.readers.base import Answer, Ask, answers_to
from caprl_native.rewards.readers.engine import EngineReader
from caprl_native.testing.tiny_models import write_tiny_reader
from smoke.engines import PolicyEngine, free_gib, identical, tokens
from smoke.findings import NOT_ON_CPU, Check, Finding, Options, at_least, holds, run_part

QUESTIONS = 8


class TwoEngines:
    """Both engines, and what they said first."""

    def __init__(self, options: Options) -> None:
        init_distributed()
        self.options = options
        self.side = PolicyEngine(options, eager=True)
        config = AutoConfig.from_pretrained(self.side.path)
        self.banned = list(family_of(self.side.path).banned_token_ids(config))
        write_tiny_reader(options.scratch / "reader")
        self.reader = self.reader_with()
        self.sleeper: EngineReader | None = None
        self.captions: list[list[int]] = []
        self.answers: list[Answer] = []

    def write(self) -> list[list[int]]:
        return tokens(self.side.write(self.banned, n=2))

    def answer(self, reader: EngineReader | None = None) -> list[Answer]:
        chats = (
            reader_messages("image", f"picture {i}", "Which question?", ["image", "video"])
            for i in range(QUESTIONS)
        )
        return answers_to(
            reader or self.reader, [Ask(chat, seed) for seed, chat in enumerate(chats)]
        )

    def both(self) -> Finding:
        self.captions, self.answers = self.write(), self.answer()
        written, answered = len(self.captions), sum(a.text is not None for a in self.answers)
        good = all(self.captions) and answered == QUESTIONS
        return holds(f"{written} captions, {answered} answers", good, "none is missing")

    def reads_alone(self) -> Finding:
        """The policy's engine sleeps, and the reader answers as before."""
        before = 0.0 if self.options.cpu else free_gib()
        self.side.engine.sleep()
        gained = 0.0 if self.options.cpu else free_gib() - before
        same = self.compared(self.answers, self.answer())
        told = "" if self.options.cpu else f", {gained:.1f} GiB more free"
        return holds(f"{same:.0%} of the answers{told}", same >= self.least, f">= {self.least:.0%}")

    def wakes(self) -> Finding:
        """The policy's engine writes as before."""
        for tag in ("weights", "kv_cache"):
            self.side.engine.wake(tag)
        return at_least(identical(self.captions, self.write()), self.least)

    def share_memory(self) -> Finding:
        """A second reader that sleeps (`reward.reader.sleep`): it shares vLLM's allocator with the
        policy's engine, and both go on as before when both have slept."""
        if self.options.cpu:
            return NOT_ON_CPU
        self.sleeper = self.reader_with(sleep=True)
        answers, before = self.answer(self.sleeper), free_gib()
        self.side.engine.sleep()
        self.sleeper.sleep()
        gained = free_gib() - before
        for tag in ("weights", "kv_cache"):
            self.side.engine.wake(tag)
        self.sleeper.wake()
        same = self.compared(answers, self.answer(self.sleeper))
        same = min(same, identical(self.captions, self.write()))
        told = f"{same:.0%} the same, {gained:.1f} GiB more free asleep"
        return holds(told, same >= self.least, f">= {self.least:.0%}")

    def reader_with(self, **settings: Any) -> EngineReader:
        return EngineReader(
            ReaderConfig(
                path=str(self.options.scratch / "reader"),
                max_model_len=512,
                max_num_seqs=8,
                kv_cache_gib=0.25,
                gpu_memory_utilization=0.1,
                enforce_eager=True,
                **settings,
            )
        )

    def close(self) -> None:
        """At the end, since closing an engine takes down the process group."""
        for engine in (self.sleeper, self.reader, self.side.engine):
            if engine is not None:
                engine.close()

    @property
    def least(self) -> float:
        """The share that must be said again word for word; kernels of a GPU may differ in bits."""
        return 1.0 if self.options.cpu else 0.5

    @staticmethod
    def compared(one: list[Answer], other: list[Answer]) -> float:
        return sum(a.text == b.text for a, b in zip(one, other, strict=True)) / len(one)


def checks(options: Options) -> Iterator[Check]:
    """In this order: what follows needs what came before."""
    made = TwoEngines(options)
    yield "both engines generate", made.both
    yield "the policy's sleeps, the reader answers the same", made.reads_alone
    yield "the policy's wakes: identical captions", made.wakes
    yield "both sleep and wake together", made.share_memory
    made.close()


if __name__ == "__main__":
    run_part("two_engines", checks)
