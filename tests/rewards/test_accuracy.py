"""The accuracy reward: what is drawn, what is asked, what is missing."""

from __future__ import annotations

import pytest

from caprl_native.rewards.base import Caption, Score, TermContext
from caprl_native.rewards.prompts import CANNOT_ANSWER, CAPTION_OF
from caprl_native.rewards.terms.accuracy import Accuracy, AccuracyOptions
from tests.rewards.asking import QUESTIONS, ListeningReader, caption


def scores(reader: ListeningReader, *captions: Caption, **options) -> list[Score]:
    term = Accuracy(AccuracyOptions(**options), TermContext(lambda: reader))
    return [future.result() for future in [term.submit(c) for c in captions]]


def heard(*captions, **options):
    """What the reader is asked for these captions."""
    reader = ListeningReader()
    scores(reader, *captions, **options)
    return reader.heard


def questions_in(chats) -> list[str]:
    return [q.question for text, _ in chats for q in QUESTIONS if q.question in text]


def test_the_same_key_draws_the_same_whatever_is_scored_beside_it() -> None:
    ours, other = caption(key=(0, 1, "s0", 0)), caption(key=(0, 1, "s1", 3))
    alone = heard(ours, draws=8)
    assert heard(ours, draws=8) == alone
    assert heard(other, ours, draws=8)[8:] == alone


@pytest.mark.parametrize(
    "key", [(1, 1, "s0", 0), (0, 2, "s0", 0), (0, 1, "s1", 0), (0, 1, "s0", 1)]
)
def test_seed_step_sample_and_rollout_each_change_the_draw(key: tuple) -> None:
    usual, changed = heard(caption(), draws=8), heard(caption(key=key), draws=8)
    assert [text for text, _ in usual] != [text for text, _ in changed]
    assert not {seed for _, seed in usual} & {seed for _, seed in changed}


def test_draws_are_with_replacement_and_every_answer_has_its_own_seed() -> None:
    chats = heard(caption(), draws=40)
    assert set(questions_in(chats)) == {q.question for q in QUESTIONS}
    assert len({seed for _, seed in chats}) == 40


def test_no_draws_means_every_question_once() -> None:
    assert questions_in(heard(caption(), draws=0)) == [q.question for q in QUESTIONS]


def test_the_reader_sees_the_caption_and_the_kind_of_medium_but_no_path() -> None:
    for kind in ("image", "video"):
        for text, _ in heard(caption("a red circle", kind=kind), draws=4):
            assert text.startswith(f"{CAPTION_OF[kind]}\na red circle\n")
            assert "s0" not in text


@pytest.mark.parametrize("offered", [True, False])
def test_the_way_out_is_offered_where_it_is_wanted(offered: bool) -> None:
    for text, _ in heard(caption(), draws=8, cannot_answer=offered):
        assert (CANNOT_ANSWER in text) is offered


def knowing(ask) -> str:
    """The letter of the right choice."""
    text = ask.messages[-1]["content"]
    question = next(q for q in QUESTIONS if q.question in text)
    line = next(
        part for part in text.split("\n") if part[1:] == f") {question.choices[question.answer]}"
    )
    return f" {line[0]}"


def test_the_reward_is_the_share_of_right_answers() -> None:
    (best,) = scores(ListeningReader(knowing), caption(), draws=0)
    assert best.value == 1.0
    assert [r["letter"] for r in best.reading] == [r["right"] for r in best.reading]
    half = ListeningReader(lambda a: knowing(a) if "colour" in str(a) or "size" in str(a) else "?")
    (score,) = scores(half, caption(), draws=0)
    assert score.value == 0.5  # what cannot be read as a letter is wrong, not missing
    assert [r["letter"] is None for r in score.reading] == [False, True, False, True]


def test_one_missing_answer_makes_the_reward_missing_and_no_other() -> None:
    fails = ListeningReader(lambda a: None if "broken" in str(a) and "size" in str(a) else " A")
    broken, other = caption("broken", key=(0, 1, "s1", 0)), caption(key=(0, 1, "s2", 0))
    good, bad, after = scores(fails, caption(), broken, other, draws=0)
    assert bad.value is None and bad.failure == "no reply"
    assert good.value is not None and after.value is not None
    assert good.failure is None and after.failure is None
