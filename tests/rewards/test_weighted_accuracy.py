"""The accuracy reward of questions with weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from caprl_native.rewards.base import Caption, TermContext
from caprl_native.rewards.terms.accuracy import Accuracy, AccuracyOptions
from caprl_native.types import Question
from tests.rewards.asking import ListeningReader, caption

RIGHT, WRONG = "yes", "no"


def weighted(*weights: float) -> Caption:
    """Of these weights; the first question is answered rightly, the others are not."""
    known = caption()
    asked = tuple(
        Question(f"question {i}", (RIGHT, WRONG), 0 if i == 0 else 1, weight)
        for i, weight in enumerate(weights)
    )
    return replace(known, sample=replace(known.sample, questions=asked))


def scored(given: Caption, draws: int) -> tuple[float, list[str]]:
    """The reward of a reader that always says yes, and what it was asked."""
    reader = ListeningReader(lambda ask: RIGHT)
    kind = "own" if draws else "each"
    options = AccuracyOptions(questions=kind, draws=draws, answers="sampled")
    term = Accuracy(options, TermContext(lambda: reader))
    score = term.submit(given).result()
    assert score.value is not None
    return score.value, [text for text, _ in reader.heard]


def test_each_once_their_answers_count_by_weight() -> None:
    assert scored(weighted(0.25, 0.125, 0.125), 0)[0] == pytest.approx(0.5)
    value, heard = scored(weighted(0.1, 0.0, 0.3), 0)
    assert value == pytest.approx(0.25) and len(heard) == 2
    assert not any("question 1" in text for text in heard)


@pytest.mark.parametrize("weight", [1.0, 0.0, 0.2])
def test_equal_weights_are_none(weight: float) -> None:
    given = weighted(weight, weight, weight)
    assert scored(given, 0)[0] == 1 / 3
    assert scored(given, 8) == scored(weighted(1.0, 1.0, 1.0), 8)


def test_draws_by_weight_count_alike() -> None:
    value, heard = scored(weighted(0.75, 0.25, 0.0), 400)
    assert value == sum("question 0" in text for text in heard) / 400
    assert 0.65 < value < 0.85 and not any("question 2" in text for text in heard)
