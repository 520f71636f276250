"""The total reward, and what becomes of totals across ranks."""

from __future__ import annotations

import logging

import pytest

from caprl_native.observe.metrics import group_metrics, numbers
from caprl_native.rewards.base import Caption, Score, missing
from caprl_native.rewards.rubric import Rubric
from caprl_native.rewards.terms.accuracy import AccuracyOptions
from caprl_native.rewards.terms.custom import CustomOptions
from caprl_native.rewards.terms.length import LengthOptions, length_reward
from caprl_native.rewards.terms.timestamps import TimestampsOptions, timestamp_reward
from tests.ranks import run_ranks
from tests.rewards.asking import ListeningReader, group, rubric, score

TEXTS = ["[00:01] a red circle [00:00]", "one two three four five six seven eight nine", ""]


def model(alpha: float, beta: float, reader: ListeningReader | None = None) -> Rubric:
    return rubric(
        reader,
        accuracy=AccuracyOptions(questions="own", draws=8),
        timestamps=TimestampsOptions(weight=alpha, rule="release"),
        length=LengthOptions(weight=beta, l1=2, l2=12),
    )


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 0.2), (0.0, 0.3), (0.7, 0.0), (0.0, 0.0)])
def test_the_total_is_the_weighted_sum(kind: str, alpha: float, beta: float) -> None:
    scored = group(TEXTS, kind=kind)
    score(model(alpha, beta), [scored])
    stamped = bool(alpha) and kind == "video"
    for text, rollout in zip(TEXTS, scored.rollouts, strict=True):
        length = length_reward(len(text.split()), 2, 12)
        stamps = timestamp_reward(text).value
        total = rollout.rewards["accuracy"]
        total += alpha * stamps if stamped else 0.0
        total += beta * length if beta else 0.0
        assert rollout.total == total
        parts = {"accuracy"} | ({"timestamps"} if stamped else set())
        assert rollout.rewards.keys() == parts | ({"length"} if beta else set())
        assert len(rollout.reading) == 8


def test_a_caption_without_an_answer_has_no_total(caplog: pytest.LogCaptureFixture) -> None:
    silent = ListeningReader(lambda a: None if "nine" in str(a) else " A")
    groups = [group(TEXTS, name=f"s{i}", kind="video") for i in range(3)]
    with caplog.at_level(logging.WARNING):
        score(model(0.2, 0.2, silent), groups, step=7)
    for g in groups:
        first, failed, last = g.rollouts
        assert failed.total is None and failed.rewards == {} and failed.failure == "no reply"
        assert first.total is not None and last.total is not None
        assert g.scored == [first, last]
    assert caplog.messages == ["step 7: 3 caption(s) without a reward: no reply"]


def test_the_order_in_which_captions_are_finished_does_not_matter() -> None:
    totals, heard = [], []
    for order in (range(6), [5, 0, 3, 1, 4, 2]):
        for overlap in (True, False):
            reader, groups = ListeningReader(), [group(TEXTS, name=f"s{i}") for i in range(2)]
            rewards = model(0.0, 0.2, reader)
            rewards.overlap = overlap
            scoring = rewards.begin(step=3)
            for place in order:
                g, i = groups[place // 3], place % 3
                scoring.add(g.sample, i, g.rollouts[i])
                scoring.work()
                assert bool(reader.heard) is overlap
            scoring.finish()
            totals.append([r.total for g in groups for r in g.rollouts])
            heard.append(sorted(reader.heard))
    assert None not in totals[0]
    assert all(t == totals[0] for t in totals) and all(h == heard[0] for h in heard)


def test_evaluation_may_ask_other_questions() -> None:
    reader = ListeningReader()
    score(model(0.0, 0.2, reader).for_evaluation(draws=0), [group(TEXTS[:1])], -1)
    assert len(reader.heard) == 4


def test_shuffled_rewards_are_the_same_totals_on_other_captions() -> None:
    first, second = run_ranks("shuffle", 2)
    before, after = first["before"] + second["before"], first["after"] + second["after"]
    assert sorted(t for t in before if t is not None) == sorted(t for t in after if t is not None)
    assert [t is None for t in before] == [t is None for t in after]  # missing stays missing
    assert before != after
    assert set(first["after"]) & set(second["before"]) - {None}  # they cross between ranks
    for rank in (first, second):
        assert rank["again"] == rank["after"] != rank["other step"]


def test_the_reader_gets_no_thoughts_and_a_thought_of_its_own_is_no_answer() -> None:
    reader = ListeningReader(lambda a: "<think>The answer is" if "nine" in str(a) else " A")
    scored = group(["<think>blue? no</think>a red circle", "[THINK]six?[/THINK]nine"])
    score(model(0.0, 0.0, reader), [scored])
    assert all("blue?" not in text and "six?" not in text for text, _ in reader.heard)
    first, second = scored.rollouts
    assert first.total is not None
    assert second.total is None and "cut off" in second.failure


def _in_parts(caption: Caption) -> Score:
    words = caption.text.split()
    if not words:
        return missing("no words")
    return Score(0.5, parts={"words": len(words), "brackets": caption.text.count("[")})


def test_parts_are_logged_and_not_rewarded() -> None:
    scored = group(TEXTS)
    score(rubric(None, mine=CustomOptions(import_path=f"{__name__}:_in_parts")), [scored])
    first, second, last = scored.rollouts
    assert (first.total, first.parts) == (0.5, {"mine/words": 5, "mine/brackets": 2})
    assert second.parts == {"mine/words": 9, "mine/brackets": 0}
    assert last.total is None and last.parts == {}  # what has no reward has no parts either
    metrics = numbers(group_metrics([scored], ["mine"]))
    assert metrics["reward/mine/words"] == 7 and metrics["reward/mine/brackets"] == 1
