"""When prompts are rendered and submitted; an engine that only counts stands for the real one."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from caprl_native.data.loader import LoadedSample
from caprl_native.policy.prompt import text_prompt
from caprl_native.rollout.captioner import Captioner, PromptMismatch
from caprl_native.rollout.engine import Completion, Finished, Sampling
from caprl_native.rollout.self_check import STOP, WeightsDiffer, judge
from caprl_native.testing.samples import sample


@dataclass
class CountingEngine:
    """Steps a request three times; `told` is what happened, in order."""

    batch_tokens: int = 100
    render_s: float = 0.0
    refused: int = -1  # the length of a prompt that cannot be rendered
    told: list[str] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    prompts: dict[str, list[int]] = field(default_factory=dict)
    threads: set[str] = field(default_factory=set)
    seeds: list[int] = field(default_factory=list)
    rendered: int = 0

    def render(self, prompt: dict[str, Any]) -> list[int]:
        time.sleep(self.render_s)
        self.threads.add(threading.current_thread().name)
        if len(prompt["prompt_token_ids"]) == self.refused:
            raise ValueError("no such picture")
        self.rendered += 1
        return prompt["prompt_token_ids"]

    def add(self, rendered: list[int], sampling: Sampling, seed: int) -> str:
        name = str(len(self.prompts))
        self.prompts[name], self.left[name] = rendered, 3
        self.told.append(f"add {len(rendered)}")
        self.seeds.append(seed)
        return name

    @property
    def unfinished(self) -> int:
        return len(self.left)

    def step(self) -> list[Finished]:
        self.told.append("step")
        self.left = {name: left - 1 for name, left in self.left.items()}
        ended = [name for name, left in self.left.items() if not left]
        self.left = {name: left for name, left in self.left.items() if left}
        completion = Completion([1], [-1.0], "stop", "a")
        return [Finished(name, 0, self.prompts[name], completion) for name in ended]

    def abort(self) -> None:
        self.left = {}
        self.told.append("abort")

    def forget_media(self) -> None:
        self.told.append("forget")


def items(*lengths: int) -> list[LoadedSample]:
    return [
        LoadedSample(sample(name=f"s{i}"), text_prompt(list(range(n))), index=i)
        for i, n in enumerate(lengths)
    ]


def told(*lengths: int, ahead: int = 0, **settings: Any) -> list[str]:
    engine = CountingEngine(**settings)
    groups = Captioner(engine, Sampling(), 0, ahead).write(items(*lengths), step=1)
    assert [len(g.prompt) for g in groups] == list(lengths)
    return engine.told


def test_short_prompts_are_all_there_before_the_first_pass() -> None:
    assert told(30, 30, 30, 9)[:5] == ["add 30", "add 30", "add 30", "add 9", "step"]


def test_long_prompts_come_while_the_engine_steps() -> None:
    """A pass reads 100 tokens: 250 are two passes' work and half of a third."""
    assert told(250, 60, 200, 10)[:9] == [
        *("add 250", "step", "step", "add 60", "step", "add 200", "step", "step", "add 10"),
    ]


def test_a_sample_that_comes_again_within_a_step_is_captioned_anew() -> None:
    """Of a small data set a further batch of `rollout.refill` has the samples of the first."""
    engine = CountingEngine()
    captioner = Captioner(engine, Sampling(), 0, ahead=0)
    for extra in (0, 1, 2, 1):
        list(captioner.stream(items(5), 3, extra))
    first, second, third, again = engine.seeds
    assert len({first, second, third}) == 3 and again == second
    captioner.write(items(5), step=3)
    assert engine.seeds[-1] == first


@pytest.mark.parametrize("lengths", [(), (5,), (250, 60, 200, 10, 99, 1, 400)])
def test_the_order_is_that_of_the_prompts_lengths_whatever_rendering_takes(
    lengths: tuple[int, ...],
) -> None:
    """Ranks of one engine must do the same before every pass."""
    slow, fast = (told(*lengths, ahead=2, render_s=s) for s in (0.01, 0.0))
    assert slow == fast == told(*lengths, ahead=0)


def test_rendering_goes_on_in_one_thread_while_the_engine_steps() -> None:
    engine = CountingEngine(render_s=0.01)
    Captioner(engine, Sampling(), 0, ahead=2).write(items(*[100] * 6), step=1)
    assert engine.threads == {"render_0"}
    assert not any(t.name.startswith("render") for t in threading.enumerate())
    engine = CountingEngine()
    Captioner(engine, Sampling(), 0, ahead=0).write(items(100, 100), step=1)
    assert engine.threads == {"MainThread"}


def test_a_stream_that_is_given_up_drops_what_was_rendered_for_nothing() -> None:
    engine = CountingEngine()
    stream = Captioner(engine, Sampling(), 0, ahead=2).stream(items(*[100] * 6), step=1)
    next(stream)
    while engine.rendered < 2:  # one more than it was given
        time.sleep(0.01)
    stream.close()
    assert engine.told[-2:] == ["abort", "forget"]


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_prompt_that_cannot_be_rendered_names_its_sample(ahead: int) -> None:
    engine = CountingEngine(refused=77)
    with pytest.raises(PromptMismatch, match="sample s2 .*ValueError: no such picture"):
        Captioner(engine, Sampling(), 0, ahead).write(items(50, 60, 77, 50), step=1)
    assert "abort" in engine.told and "add 77" not in engine.told


# --- the probe --------------------------------------------------------------------------------


def test_bfloat16_is_warned_of_and_wrong_weights_stop_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        judge(0.05, alarm=0.05)
        assert not caplog.messages
        judge(0.06, alarm=0.05)
        judge(STOP, alarm=0.05)
        assert len(caplog.messages) == 2 and "0.0600 nats" in caplog.messages[0]
        judge(0.9, alarm=1.0)  # whoever expects it, is not stopped
        for gap in (0.31, float("nan"), float("inf")):
            with pytest.raises(WeightsDiffer):
                judge(gap, alarm=0.05)
    assert len(caplog.messages) == 2
