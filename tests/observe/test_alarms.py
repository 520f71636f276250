"""Signs of a reward that is gained in other ways than by telling more."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caprl_native.config.alarms import AlarmsConfig
from caprl_native.observe.alarms import (
    LENGTH,
    LENGTH_RATIO,
    REPETITION,
    STAMPS,
    Alarms,
    caption_metrics,
    first_lengths,
    repetition,
    stamp_density,
    words_of,
)
from caprl_native.observe.metrics import numbers
from caprl_native.rewards.blind import Blind
from caprl_native.rewards.terms.accuracy import AccuracyOptions
from caprl_native.rewards.terms.length import LengthOptions
from tests.rewards.asking import ListeningReader, group, rubric, sample

NAMES = (LENGTH, f"eval/{LENGTH}")  # lines of steps, and of evaluations between them
texts = st.lists(st.sampled_from(["a red cat", "[00:01]", "sits.", "他坐下", "\n"])).map(" ".join)


def test_stamps_are_counted_against_words() -> None:
    assert stamp_density("[00:01] a red cat [00:02 - 00:04] sits down") == 100 * 2 / 5
    assert stamp_density("a red cat") == 0 and stamp_density("") == 0
    assert stamp_density("[00:01][00:02]") == 200
    assert stamp_density("[00:01]他坐下") == pytest.approx(100 / 3)  # a character counts as a word


def test_repetition_is_the_share_of_runs_seen_before() -> None:
    said = "one two three four five six seven"
    assert repetition(said) == 0 == repetition("one two three")
    assert repetition(f"{said}. {said}!") == 4 / 11
    assert repetition("no " * 100) == pytest.approx(96 / 97)


@given(texts)
def test_laws_of_the_figures(text: str) -> None:
    """Both are bounded below; saying it all again never repeats less."""
    assert 0 <= repetition(text) < 1 and stamp_density(text) >= 0
    assert repetition(f"{text} {text}") >= repetition(text) - 1e-12
    if words_of(text):
        assert stamp_density(f"{text} {text}") == pytest.approx(stamp_density(text))


def test_captions_without_words_count_in_no_figure() -> None:
    said = numbers(caption_metrics([group(["[00:01] a b c", "", "<think>no no</think>"])]))
    assert said == {STAMPS: pytest.approx(100 / 3), REPETITION: 0.0}


def test_a_warning_is_given_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms(AlarmsConfig(quiet_steps=3))
    with caplog.at_level(logging.WARNING):
        for step in range(1, 9):
            alarms.check(step, {STAMPS: 31.0, REPETITION: 0.1})
    said = "31.0 time stamps per 100 words of a caption, more than alarms.stamps"
    assert caplog.messages == [f"step {step}: {said}" for step in (1, 4, 7)]


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({REPETITION: 0.4}, "alarms.repetition"),
        ({LENGTH_RATIO: 2.1}, "alarms.length_ratio"),
        ({LENGTH_RATIO: 0.4}, "alarms.length_ratio"),
        ({"reward/accuracy/blind": 0.3, "reward/accuracy/mean": 0.5}, "alarms.blind_share"),
        ({"reward/accuracy/right": 0.1, "reward/accuracy/misled": 0.3}, "alarms.no_choice"),
    ],
)
def test_each_bound_has_its_warning(
    metrics: dict[str, float], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = {STAMPS: 5.0, REPETITION: 0.2, LENGTH_RATIO: 1.5, "reward/accuracy/blind": 0.1}
    quiet |= {"reward/accuracy/mean": 0.6, "reward/accuracy/abstained": 0.05}
    quiet |= {"reward/accuracy/right": 0.3, "reward/accuracy/misled": 0.5}
    off = AlarmsConfig(stamps=0, repetition=0, length_ratio=0, blind_share=0, no_choice=0)
    with caplog.at_level(logging.WARNING):
        Alarms(AlarmsConfig()).check(1, quiet)
        Alarms(off).check(1, quiet | metrics)
        assert caplog.messages == []
        Alarms(AlarmsConfig()).check(1, quiet | metrics)
    (message,) = caplog.messages
    assert named in message


def test_lengths_are_compared_with_the_first_steps_also_after_a_resume(tmp_path: Path) -> None:
    lengths = [10.0, 20.0, 30.0, 50.0, 10.0]
    ratios = [{}, {}, {}, {LENGTH_RATIO: 2.5}, {LENGTH_RATIO: 0.5}]
    file = tmp_path / "metrics.jsonl"
    for done in range(len(lengths)):
        lines = [{"step": n + 1, name: x} for n, x in enumerate(lengths[:done]) for name in NAMES]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        alarms = Alarms(AlarmsConfig(first_steps=3), first_lengths(tmp_path, 3))
        assert [alarms.length_ratio({LENGTH: x}) for x in lengths[done:]] == ratios[done:]
    assert first_lengths(tmp_path / "none", 3) == []


def test_without_a_caption_each_question_is_asked_once_of_terms_that_read() -> None:
    reader = ListeningReader(lambda ask: " A")
    rewards = rubric(
        reader, accuracy=AccuracyOptions(questions="own", draws=2), length=LengthOptions()
    )
    blind = Blind(rewards, step=4)
    for name in ("s0", "s1"):
        blind.add(sample(name), is_local=name == "s0")
    assert reader.heard == []
    blind.finish()
    assert len(reader.heard) == 2 * 4  # of both samples: the reader is shared by the ranks
    assert all(text.startswith("Caption of an image:\n\n\nQuestion:") for text, _ in reader.heard)
    metrics = numbers(blind.metrics())
    assert (
        metrics.keys() == {"reward/accuracy/blind"} and 0 <= metrics["reward/accuracy/blind"] <= 1
    )
