"""The accuracy reward: what is drawn, what is asked, what is missing."""

from __future__ import annotations

import random
from concurrent.futures import Future

import pytest

from caprl_native.observe.metrics import group_metrics, numbers
from caprl_native.rewards.base import Caption, Score, TermContext
from caprl_native.rewards.held_out import HeldOut
from caprl_native.rewards.outcomes import Outcome, outcome_of_letter
from caprl_native.rewards.prompts import CANNOT_ANSWER, CAPTION_OF
from caprl_native.rewards.questions import draw, rotations
from caprl_native.rewards.readers.base import Answer
from caprl_native.rewards.rubric import Rubric
from caprl_native.rewards.terms.accuracy import Accuracy, AccuracyOptions
from caprl_native.types import Question
from tests.rewards.asking import QUESTIONS, ListeningReader, caption, group, rubric, score


def scores(reader: ListeningReader, *captions: Caption, **options) -> list[Score]:
    if options.get("draws"):
        options = {"questions": "own", **options}
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


# --- which questions --------------------------------------------------------------------------


def test_a_group_shares_its_draw_and_the_order_of_choices() -> None:
    one, two = caption(key=(0, 1, "s0", 0)), caption(key=(0, 1, "s0", 5))
    for kind, draws in (("shared", 8), ("each", 0)):
        first, second = (heard(c, questions=kind, draws=draws) for c in (one, two))
        assert [text for text, _ in first] == [text for text, _ in second]
        assert not {seed for _, seed in first} & {seed for _, seed in second}
        for key in ((0, 2, "s0", 0), (0, 1, "s1", 0), (1, 1, "s0", 0)):
            other = heard(caption(key=key), questions=kind, draws=draws)
            assert [text for text, _ in other] != [text for text, _ in first]


def test_unshuffled_choices_stand_in_the_record_s_order() -> None:
    """The way out comes after them; further orders are that one turned on."""
    reader = ListeningReader(knowing)
    for shuffle, orders in ((False, 1), (True, 1)):
        (score,) = scores(reader, caption(), draws=0, shuffle=shuffle, shuffles=orders)
        in_order = [r["choices"][:-1] == list(q.choices) for r, q in zip(
            score.reading, QUESTIONS, strict=True)]  # fmt: skip
        assert all(in_order) is not shuffle and score.value == 1.0
    (score,) = scores(reader, caption(), draws=0, shuffle=False, shuffles=2)
    assert [r["choices"][:-1] == list(QUESTIONS[0].choices) for r in score.reading[:2]] == [
        True, False
    ]  # fmt: skip


def test_settings_that_say_nothing_together_are_named() -> None:
    assert not list(AccuracyOptions().conflicts())
    assert not list(AccuracyOptions(questions="own", draws=8).conflicts())
    ((name, expected, *_),) = AccuracyOptions(draws=8).conflicts()
    assert name == "draws" and 'questions = "own"' in expected
    ((name, expected, *_),) = AccuracyOptions(questions="shared").conflicts()
    assert name == "draws" and 'questions = "each"' in expected


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_orders_turn_the_choices_on_and_keep_the_way_out_last(count: int) -> None:
    question = draw(QUESTIONS[3], random.Random(1))
    orders = rotations(question, count)
    assert orders[0] == question and len(orders) == min(count, 4)
    assert len({order.answer for order in orders}) == len(orders)
    for order in orders:
        assert order.choices[-1] == CANNOT_ANSWER and order.cannot == "E"
        assert sorted(order.choices) == sorted(question.choices)
        assert order.choices[order.letters.index(order.answer)] == "bottom"
        start = question.choices.index(order.choices[0])
        turned = question.choices[start:4] + question.choices[:start]
        assert order.choices[:4] == turned


def test_a_question_counts_once_however_many_orders_it_is_asked_in() -> None:
    always_a = ListeningReader(lambda ask: " A")  # right in one of a question's orders
    (found,) = scores(always_a, caption(), shuffles=4)
    assert len(found.reading) == 3 + 2 + 4 + 4
    assert found.value == pytest.approx((1 / 3 + 1 / 2 + 1 / 4 + 1 / 4) / 4)


# --- right, misled, abstained -----------------------------------------------------------------


class WeighingReader(ListeningReader):
    """Gives probabilities by a rule, where it is asked for them."""

    def _answer(self, ask) -> Future[Answer]:
        if not ask.choices:
            return super()._answer(ask)
        answer: Future[Answer] = Future()
        answer.set_result(Answer(None, probabilities=self.rule(ask)))
        return answer


def half_sure(ask) -> tuple[float, ...]:
    """0.5 on the right choice, 0.2 on the first wrong one, 0.1 on the way out."""
    question = next(q for q in QUESTIONS if q.question in ask.messages[-1]["content"])
    right = ask.choices.index(question.choices[question.answer])
    chances = [0.0] * len(ask.choices)
    chances[right], chances[-1] = 0.5, 0.1
    chances[0 if right else 1] += 0.2
    return tuple(chances)


def test_probabilities_are_the_expected_answers() -> None:
    (found,) = scores(WeighingReader(half_sure), caption(), misled_weight=0.5)
    assert found.parts == pytest.approx(
        {"right": 0.5, "misled": 0.2, "abstained": 0.1, "sampled": 0.0}
    )
    assert found.value == pytest.approx(0.5 - 0.5 * 0.2)
    assert sorted(found.reading[0]["probabilities"].values()) == [0.0, 0.1, 0.2, 0.5]


def test_wrong_answers_cost_and_open_ones_do_not() -> None:
    def answers(ask) -> str:
        text = ask.messages[-1]["content"]
        if "size" in text:
            return " It cannot be answered from the caption."
        if "shape" in text:
            return "?"
        right = knowing(ask).strip()
        return right if "colour" in text else "ABCD".replace(right, "")[0]

    reader = ListeningReader(answers)
    for weight, value in ((0.0, 0.25), (0.5, 0.125), (2.0, -0.25)):
        (found,) = scores(reader, caption(), answers="sampled", misled_weight=weight)
        assert found.parts == {"right": 0.25, "misled": 0.25, "abstained": 0.25}
        assert found.value == pytest.approx(value)


def test_the_way_out_may_be_the_right_choice() -> None:
    question = Question("Why?", ("rain", CANNOT_ANSWER), 1)
    shown = draw(question, random.Random(0))
    assert outcome_of_letter(shown, "B") == Outcome(1.0, 0.0, 0.0)


# --- several readers --------------------------------------------------------------------------


def several(how: str, *rules, **options) -> Score:
    first, *others = [WeighingReader(rule) for rule in rules]
    context = TermContext(lambda: first, build_further_readers=lambda: others)
    term = Accuracy(AccuracyOptions(readers=how, **options), context)
    found = term.submit(caption()).result()
    assert context.readers == [first, *others]
    return found


def sure_of(*names: str):
    """Certain of the right choice in these questions, and of a wrong one in the others."""

    def chances(ask) -> tuple[float, ...]:
        text = ask.messages[-1]["content"]
        question = next(q for q in QUESTIONS if q.question in text)
        right = ask.choices.index(question.choices[question.answer])
        chosen = right if any(name in text for name in names) else (right + 1) % 2
        return tuple(float(i == chosen) for i in range(len(ask.choices)))

    return chances


def test_several_readers_count_alike_or_the_worst_on_each_question_does() -> None:
    rules = sure_of("colour", "shape"), sure_of("shape", "size")
    assert several("mean", *rules).value == pytest.approx(0.5)
    assert several("minimum", *rules).value == pytest.approx(0.25)  # shape
    assert several("mean", rules[0]).value == several("minimum", rules[0]).value == 0.5
    found = several("minimum", *rules, shuffles=2)
    assert {entry["reader"] for entry in found.reading} == {0, 1}


def test_one_reader_without_an_answer_makes_the_reward_missing() -> None:
    silent = ListeningReader(lambda ask: None)
    context = TermContext(lambda: ListeningReader(), build_further_readers=lambda: [silent])
    found = Accuracy(AccuracyOptions(), context).submit(caption()).result()
    assert found.value is None and found.failure == "no reply"


# --- the held-out reader ----------------------------------------------------------------------


def with_held_out(theirs: ListeningReader, every: int = 2) -> Rubric:
    ours = rubric(WeighingReader(sure_of("colour", "shape", "size")), accuracy=AccuracyOptions())
    ours.held_out = HeldOut("accuracy", AccuracyOptions(), TermContext(lambda: theirs), every)
    return ours


def test_a_held_out_reader_is_compared_and_never_rewarded() -> None:
    theirs = WeighingReader(sure_of("colour"))
    ours = with_held_out(theirs)
    groups = {step: group(["a red circle", "a circle"]) for step in (1, 2)}
    for step, g in groups.items():
        score(ours, [g], step)
    assert [r.total for r in groups[2].rollouts] == [0.75, 0.75]
    assert "held_out/accuracy" not in groups[1].rollouts[0].parts
    for rollout in groups[2].rollouts:
        assert rollout.parts["held_out/accuracy"] == 0.25 and rollout.parts["held_out/gap"] == 0.5
    metrics = numbers(group_metrics([groups[2]], ours.names))
    assert metrics["reward/held_out/gap"] == 0.5 and metrics["reward/accuracy/right"] == 0.75
    assert len(theirs.heard) == 8  # of the second step alone
    score(ours.for_evaluation(0), [group(["a red circle"])], step=2)
    assert len(theirs.heard) == 8


def test_a_held_out_reader_that_fails_takes_no_reward_away(caplog) -> None:
    ours, g = with_held_out(ListeningReader(lambda ask: None), every=1), group(["a red circle"])
    score(ours, [g])
    assert g.rollouts[0].total == 0.75 and "held_out/gap" not in g.rollouts[0].parts
    assert "held-out reader did not answer on 1 caption(s): no reply" in caplog.text


def test_what_a_held_out_reader_cannot_be_asked_ends_no_run(caplog) -> None:
    class Refusing(ListeningReader):
        collective = False

        def ask(self, asks):
            raise ValueError("no such chat")

    ours, g = with_held_out(Refusing(), every=1), group(["a red circle"])
    score(ours, [g])
    assert g.rollouts[0].total == 0.75 and "held_out/gap" not in g.rollouts[0].parts
    assert "no such chat" in caplog.text
