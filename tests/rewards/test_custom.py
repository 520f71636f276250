"""Terms named by an import path: what they may be, and that none of their faults becomes a zero."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from caprl_native.rewards.rubric import Rubric
from caprl_native.rewards.terms.custom import CustomOptions
from caprl_native.rewards.terms.length import LengthOptions
from caprl_native.types import Group
from tests.rewards import scorers
from tests.rewards.asking import group, rubric, score

TEXTS = ["one", "one two", "one two three", "", "one two three four"]
VALUES = [0.1, 0.2, 0.3, 0.0, 0.4]


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    scorers.released.clear()
    yield
    scorers.released.set()


def custom(name: str, **given) -> CustomOptions:
    return CustomOptions(import_path=f"tests.rewards.scorers:{name}", **given)


def scored(options: CustomOptions, *, overlap: bool = True) -> Group:
    """A group that this term and the length have scored."""
    ours, g = rubric(length=LengthOptions(), ours=options), group(TEXTS)
    ours.overlap = overlap
    with closing(ours):
        score(ours, [g])
    return g


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("name", ["words", "words_async", "Called", "CalledAsync", "Batched"])
def test_functions_and_classes_score_every_caption_in_its_place(name: str, overlap: bool) -> None:
    g = scored(custom(name, weight=0.5), overlap=overlap)
    assert [r.rewards["ours"] for r in g.rollouts] == VALUES
    assert [r.total for r in g.rollouts] == [1.0 + 0.5 * value for value in VALUES]


def test_a_score_carries_its_explanation() -> None:
    g = scored(custom("words_async"))
    assert g.rollouts[1].reading == [{"words": ["one", "two"]}]


@pytest.mark.parametrize("name", ["words", "Called"])
def test_options_reach_the_function_and_the_class(name: str) -> None:
    g = scored(custom(name, options={"per": 5}))
    assert [r.rewards["ours"] for r in g.rollouts] == [2 * value for value in VALUES]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "scorers:nothing: returned None"),
        ("fails", "scorers:fails: KeyError: 'https://***@server/TEXT'"),
        ("ends_the_iteration", "scorers:ends_the_iteration: StopIteration: "),
        ("fails_async", "scorers:fails_async: KeyError: 'TEXT'"),
        ("a_text", "scorers:a_text: returned str, expected a number"),
        ("hangs", "scorers:hangs: no score within 0.05 s"),
        ("hangs_async", "scorers:hangs_async: no score within 0.05 s"),
        ("blocks", "scorers:blocks: no score within 0.05 s"),
        ("NeverDone", "scorers:NeverDone: no score within 0.05 s"),
        ("Refuses", "reward.terms.ours: ValueError: no"),
        ("not_a_number", "reward.terms.ours: its value is nan"),
        ("no_reason", "reward.terms.ours: its value is None"),
    ],
)
def test_what_is_no_number_is_a_missing_reward_with_a_reason(name: str, reason: str) -> None:
    for rollout in scored(custom(name, timeout_s=0.05)).rollouts:
        assert rollout.total is None and rollout.rewards == {}
        assert str(rollout.failure).endswith(reason.replace("TEXT", rollout.text))


def test_those_that_hang_hold_nobody_up() -> None:
    """Waiting for others to end is no part of a caption's time, and those that hang are left."""
    before = time.monotonic()
    ours = rubric(ours=custom("hangs", timeout_s=0.1, concurrency=2), last=custom("words"))
    groups = [group(TEXTS, name=f"s{i}") for i in range(2)]
    with closing(ours):
        score(ours, groups)
        assert 0.5 <= time.monotonic() - before < 5  # ten calls, two at a time
        scorers.released.set()
        score(ours, groups, step=2)
    assert [r.rewards["ours"] for g in groups for r in g.rollouts] == [1.0] * 10


def test_how_long_others_are_written_is_no_part_of_a_captions_time() -> None:
    ours, g = rubric(ours=custom("Batched", timeout_s=0.1)), group(TEXTS)
    with closing(ours):
        for step in (1, 2):
            scoring = ours.begin(step)
            for index, rollout in enumerate(g.rollouts):
                rollout.failure = None
                scoring.add(g.sample, index, rollout)
            time.sleep(0.2)
            scoring.finish()
            assert [r.rewards["ours"] for r in g.rollouts] == VALUES
            assert not any(r.failure for r in g.rollouts)


def test_closing_ends_the_threads() -> None:
    scored(custom("words_async"))
    scored(custom("hangs_async", timeout_s=0.05))
    scored(custom("blocks", timeout_s=0.05))  # once it goes on, it ends
    scorers.released.set()
    ours = {"reward clock", "reward coroutines"}
    for thread in [t for t in threading.enumerate() if t.name in ours]:
        thread.join(5)
        assert not thread.is_alive()


def test_a_class_is_told_what_it_wants_to_know() -> None:
    ours: Rubric = rubric(ours=custom("Batched"))
    (term,) = ours.terms
    score(ours, [group(TEXTS)], step=7)
    ours.sleep()  # of no interest to it
    ours.close()
    assert term.term.collective
    assert term.term.scorer.told == ["begin 7", "finish", "close"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("tests.rewards.scorers:missing", "no 'missing'"),
        ("tests.rewards.nowhere:words", "nowhere"),
        ("tests.rewards.scorers", "package.module:name"),
        ("", "package.module:name"),
        ("nowhere.py:words", "no Python file"),
        ("tests.rewards.scorers:CONSTANT", "a function or a class"),
    ],
)
def test_a_path_that_leads_nowhere_is_said_before_the_run(path: str, expected: str) -> None:
    ((field, problem),) = CustomOptions(import_path=path).conflicts()
    assert field == "import_path" and expected in problem


def test_a_path_that_leads_somewhere_is_no_problem() -> None:
    assert list(custom("words").conflicts()) == []
